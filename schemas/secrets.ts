/** Redacts secrets (endpoint keys) in text that others may read: errors, logs, events, the journal. */

/** A shorter value is not a real key, and redacting it would garble ordinary text. */
const shortest = 4

/** The forms in which a key may be echoed: verbatim, inside JSON, inside a URL. */
const formsOf = (secret: string): ReadonlyArray<string> =>
  secret.length < shortest ? [] : [...new Set([secret, secret.trim(), JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)])]

/** The text with these secrets redacted. */
export const redact = (text: string, secrets: ReadonlyArray<string>): string =>
  secrets.flatMap(formsOf).reduce((left, form) => left.replaceAll(form, "[secret]"), text)

/** Like `redact`, for text that arrives in pieces: a possible start of a secret at the end of a piece is held back until the next piece or `end`. */
export const redactPieces = (secrets: ReadonlyArray<string>): { readonly add: (piece: string) => string; readonly end: () => string } => {
  const forms = secrets.flatMap(formsOf)
  const most = Math.max(0, ...forms.map((form) => form.length - 1))
  let held = ""
  return {
    add: (piece) => {
      const text = redact(held + piece, secrets)
      let keep = Math.min(most, text.length)
      while (keep > 0 && !forms.some((form) => form.startsWith(text.slice(text.length - keep)))) keep--
      held = text.slice(text.length - keep)
      return text.slice(0, text.length - keep)
    },
    end: () => {
      const rest = held
      held = ""
      return rest
    }
  }
}

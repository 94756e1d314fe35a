/** UTF-8 as SentencePiece reads it. */

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const replacement = "\ufffd"

/** Decodes bytes; each byte that is not part of a character becomes one U+FFFD (browsers use one for a longer run). */
export const decodeUtf8 = (bytes: Uint8Array): string => {
  try {
    return strict.decode(bytes)
  } catch {
    return decodeDamaged(bytes)
  }
}

/** Decodes bytes that must be valid UTF-8; a byte-order mark is kept as a character. Throws TypeError. */
export const decodeStrictly = (bytes: Uint8Array): string => strict.decode(bytes)

const decodeDamaged = (bytes: Uint8Array): string => {
  const parts: Array<string> = []
  let from = 0
  for (let at = 0; at < bytes.length;) {
    const length = characterLength(bytes, at)
    if (length === 0) {
      if (from < at) parts.push(strict.decode(bytes.subarray(from, at)))
      parts.push(replacement)
      from = at + 1
    }
    at += length || 1
  }
  if (from < bytes.length) parts.push(strict.decode(bytes.subarray(from)))
  return parts.join("")
}

/** Byte length of the character that starts here; 0 if it is invalid: a stray or missing continuation byte, an overlong form, a surrogate, beyond U+10FFFF. */
const characterLength = (bytes: Uint8Array, at: number): number => {
  const lead = bytes[at]!
  if (lead < 0x80) return 1
  const length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2
  let code = lead & (0x7f >> length)
  for (let i = 1; i < length; i++) {
    const byte = bytes[at + i] ?? 0
    if ((byte & 0xc0) !== 0x80) return 0
    code = code * 64 + (byte & 0x3f)
  }
  const least = length === 2 ? 0x80 : length === 3 ? 0x800 : 0x10000
  const valid = lead >= 0xc0 && lead < 0xf8 && code >= least && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff)
  return valid ? length : 0
}

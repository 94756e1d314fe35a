/** Formats times, sizes and numbers for the page. */

export const duration = (milliseconds: number): string => {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`
  const seconds = milliseconds / 1000
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`
  const hours = Math.floor(minutes / 60)
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`
}

export const ago = (then: number, now: number): string => {
  const span = now - then
  if (span < 60_000) return "just now"
  for (const [length, unit] of [
    [86_400_000, "day"],
    [3_600_000, "hour"],
    [60_000, "minute"]
  ] as const) {
    const count = Math.floor(span / length)
    if (count > 0) return `${count} ${unit}${count === 1 ? "" : "s"} ago`
  }
  return "just now"
}

const two = (value: number) => String(value).padStart(2, "0")
export const moment = (at: number): string => {
  const date = new Date(at)
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`
}

export const bytes = (size: number): string => {
  const units = ["B", "kB", "MB", "GB", "TB"]
  let power = 0
  while (power < units.length - 1 && size / 1000 ** power >= (power === 0 ? 1000 : 999.5)) power++
  const value = size / 1000 ** power
  return `${power === 0 ? value : value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[power]}`
}

/** At most four significant digits. */
export const number = (value: number | string): string => {
  if (typeof value === "string") return value
  if (!Number.isFinite(value)) return String(value)
  if (Number.isInteger(value)) return Math.abs(value) >= 1e15 ? value.toExponential(3) : value.toLocaleString("en-US")
  const size = Math.abs(value)
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2)
  return size >= 1000 ? value.toLocaleString("en-US", { maximumFractionDigits: 1 }) : String(Number(value.toPrecision(4)))
}

export const short = (digest: string): string => digest.slice(0, 12)
export const shortRun = (id: string): string => id.slice(0, 8)
export const count = (n: number, what: string): string => `${n.toLocaleString("en-US")} ${what}${n === 1 ? "" : "s"}`

/** A config value, as it was written. */
export const shown = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""))

/**
 * Untrusted text: control characters and bidirectional overrides are escaped, as in a terminal (schemas/visible.ts). Preact escapes HTML; nothing
 * here sets raw HTML.
 */
const unsafe = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g
export const plain = (text: string): string =>
  text.replaceAll("\r\n", "\n").replaceAll(unsafe, (character) => {
    const code = character.charCodeAt(0)
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`
  })

/** Formats sizes, ages, times and tables for the commands on the store. */

const powers = ["B", "kB", "MB", "GB", "TB", "PB"]

/** 1234567 -> "1.2 MB". */
export const size = (bytes: number): string => {
  let power = 0
  // A value that would be shown as 1000 is shown as 1.0 of the next unit.
  while (power < powers.length - 1 && bytes / 1000 ** power >= (power === 0 ? 1000 : 999.5)) power++
  const value = bytes / 1000 ** power
  return `${power === 0 ? value : value < 9.95 ? value.toFixed(1) : Math.round(value)} ${powers[power]}`
}

/** GPU memory: "79.2 GiB". */
export const gib = (bytes: number): string => {
  const value = bytes / 2 ** 30
  return `${value >= 99.95 ? Math.round(value) : value >= 0.05 || bytes === 0 ? value.toFixed(1) : value.toPrecision(1)} GiB`
}

const minute = 60_000

/** Time since then: "3 days ago". */
export const ago = (then: number, now: number = Date.now()): string => {
  const span = now - then
  const steps: ReadonlyArray<readonly [number, string]> = [
    [1440 * minute, "day"],
    [60 * minute, "hour"],
    [minute, "minute"]
  ]
  for (const [length, unit] of steps) {
    const count = Math.floor(span / length)
    if (count > 0) return `${count} ${unit}${count === 1 ? "" : "s"} ago`
  }
  return "just now"
}

/** A time in this machine's time zone: "2026-05-04 13:02". */
export const moment = (at: number): string => {
  const date = new Date(at - new Date(at).getTimezoneOffset() * 60_000)
  return date.toISOString().slice(0, 16).replace("T", " ")
}

/** The prefix of a digest or run id, as accepted by other commands. */
export const short = (digest: string): string => digest.slice(0, 12)
export const shortRun = (run: string): string => run.slice(0, 8)

/** Columns two spaces apart; the last is not padded. */
export const table = (rows: ReadonlyArray<ReadonlyArray<string>>, indent = ""): Array<string> => {
  const widths: Array<number> = []
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)))
  return rows.map((row) => `${indent}${row.map((cell, i) => cell.padEnd(widths[i]!)).join("  ")}`.trimEnd())
}

/** A config or setting value, as it was written. */
export const shown = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value))

/** The first six metrics, on one line. */
export const metrics = (values: Readonly<Record<string, number>>): string =>
  Object.entries(values)
    .slice(0, 6)
    .map(([name, value]) => `${name} ${Number.isInteger(value) ? value : Number(value.toPrecision(4))}`)
    .join(", ")

/** "1 object", "2 objects". */
export const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`

/** The first few names, and how many more there are. */
export const few = (ids: ReadonlyArray<string>): string =>
  `${ids.slice(0, 6).join(", ")}${ids.length > 6 ? ` and ${ids.length - 6} more` : ""}`

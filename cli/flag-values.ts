/** Sizes and durations in flags. */
import { type Given, UsageError } from "./command.ts"

/** A size from a flag, in bytes: "500MB", "1.5 GiB", "0". */
export const sizeFlag = (given: Given, name: string): number | undefined => {
  const text = given.flag(name)
  if (text === undefined) return undefined
  const match = /^(\d+(?:\.\d+)?)\s*(?:([kmgtp]?)(i?)b?)?$/i.exec(text.trim())
  if (match === null) throw new UsageError(`--${name} must be a size such as 500MB, 20GB or 1.5TiB, got "${text}".`)
  const power = ["", "k", "m", "g", "t", "p"].indexOf((match[2] ?? "").toLowerCase())
  return Math.round(Number(match[1]) * (match[3] === "" || match[3] === undefined ? 1000 : 1024) ** power)
}

const spans: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 }

/** A duration from a flag, in milliseconds: "30d", "12h", "0". */
export const ageFlag = (given: Given, name: string): number | undefined => {
  const text = given.flag(name)
  if (text === undefined) return undefined
  const match = /^(\d+(?:\.\d+)?)\s*([smhdw])$/i.exec(text.trim())
  if (match === null && text.trim() !== "0")
    throw new UsageError(`--${name} must be a duration such as 30d, 12h, 90m or 2w, got "${text}".`)
  return match === null ? 0 : Number(match[1]) * spans[match[2]!.toLowerCase()]!
}

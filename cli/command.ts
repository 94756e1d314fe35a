/**
 * The definition of a command: arguments, flags and action. Parsed by node:util, because effect/cli takes 0.3 s to load
 * (docs/decisions/0003-command-line.md).
 */
import { parseArgs } from "node:util"
import { didYouMean } from "../schemas/did-you-mean.ts"
import { messageOf } from "../schemas/explained-error.ts"

export interface Flag {
  /** Absent for a flag without a value. */
  readonly value?: string
  readonly help: string
  readonly repeatable?: boolean
}
export type Flags = Readonly<Record<string, Flag>>

export interface Given {
  /** Whether --help was given. */
  readonly help: boolean
  readonly positionals: ReadonlyArray<string>
  readonly flag: (name: string) => string | undefined
  readonly flags: (name: string) => ReadonlyArray<string>
  readonly has: (name: string) => boolean
}

export interface Command {
  readonly name: string
  readonly summary: string
  /** Names of the positional arguments, in order: "<pipeline.ts>"; optional ones in brackets; a last "<files...>" accepts any number. */
  readonly positionals: ReadonlyArray<string>
  readonly flags: Flags
  readonly examples: ReadonlyArray<string>
  /** Text that --help appends for the given positional arguments. */
  readonly more?: (positionals: ReadonlyArray<string>) => Promise<string>
  /** Returns the exit code. Thrown errors are printed by their message. */
  readonly run: (given: Given) => Promise<number>
}

/** The user called the command incorrectly: exit code 2. */
export class UsageError extends Error {}

export const exitCodes = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const

const common: Flags = { help: { help: "show this help" } }

export const usage = (command: Command): string => {
  const flags = Object.entries({ ...command.flags, ...common }).map(
    ([name, flag]) =>
      [
        `--${name}${flag.value === undefined ? "" : ` <${flag.value}>`}`,
        `${flag.help}${flag.repeatable === true ? " (repeatable)" : ""}`
      ] as const
  )
  const width = Math.max(...flags.map(([name]) => name.length))
  return [
    `caravan ${command.name}${command.positionals.map((word) => ` ${word}`).join("")} [flags]`,
    "",
    command.summary,
    "",
    ...flags.map(([name, help]) => `  ${name.padEnd(width)}  ${help}`),
    "",
    "Examples:",
    ...command.examples.map((example) => `  ${example}`)
  ].join("\n")
}

/** The arguments for parseArgs, whose own errors name no flag of ours: flags are checked here, and "--timeout -1" is joined so that -1 is a value. */
const checkedWords = (command: Command, flags: Flags, args: ReadonlyArray<string>): Array<string> => {
  const fail = (what: string) => new UsageError(`caravan ${command.name}${what}`)
  const words: Array<string> = []
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!
    if (arg === "--") return [...words, ...args.slice(i)]
    const [, name, joined] = /^--([^=]+)(=?)/.exec(arg) ?? []
    if (name === undefined) {
      if (/^-[^-]/.test(arg) && arg !== "-h") throw fail(` has no flag ${arg}. If it is a file, write ./${arg}.`)
      words.push(arg === "-h" ? "--help" : arg)
      continue
    }
    if (!Object.hasOwn(flags, name)) {
      const known = Object.keys(flags).map((flag) => `--${flag}`)
      throw fail(` has no flag --${name}.${didYouMean(`--${name}`, known)}`)
    }
    const { value } = flags[name]!
    if (value === undefined && joined !== "") throw fail(`: --${name} has no value: write --${name}.`)
    if (value === undefined || joined !== "") {
      words.push(arg)
      continue
    }
    const next = args[++i]
    if (next === undefined || /^-(?!$|\.?\d)/.test(next))
      throw fail(
        `: --${name} needs a value (${value}), found ${next ?? "none"}.${next === undefined ? "" : ` If that is the value, write --${name}=${next}.`}`
      )
    words.push(`${arg}=${next}`)
  }
  return words
}

/** Parses the arguments after the command's name. */
export const parse = (command: Command, args: ReadonlyArray<string>): Given => {
  const flags = { ...command.flags, ...common }
  const words = checkedWords(command, flags, args)
  let parsed: { readonly values: Record<string, unknown>; readonly positionals: ReadonlyArray<string> }
  try {
    parsed = parseArgs({
      args: words,
      allowPositionals: true,
      options: Object.fromEntries(
        Object.entries(flags).map(([name, flag]) => [
          name,
          { type: flag.value === undefined ? ("boolean" as const) : ("string" as const), multiple: flag.repeatable === true }
        ])
      )
    })
  } catch (cause) {
    throw new UsageError(`caravan ${command.name}: ${messageOf(cause)}`)
  }
  const help = parsed.values.help === true
  const wanted = help ? [] : command.positionals.filter((word) => !word.startsWith("["))
  if (parsed.positionals.length < wanted.length)
    throw new UsageError(
      `caravan ${command.name} needs ${wanted.slice(parsed.positionals.length).join(" ")}. For example: ${command.examples[0]}`
    )
  if (parsed.positionals.length > command.positionals.length && command.positionals.at(-1)?.endsWith("...>") !== true)
    throw new UsageError(
      `caravan ${command.name} expects ${command.positionals.join(" ") || "no arguments"}; unexpected argument "${parsed.positionals[command.positionals.length]}".`
    )
  const list = (name: string): ReadonlyArray<string> => {
    const value = parsed.values[name]
    return value === undefined ? [] : ([value].flat() as unknown as ReadonlyArray<string>)
  }
  return {
    help,
    positionals: parsed.positionals,
    flag: (name) => list(name).at(-1),
    flags: list,
    has: (name) => parsed.values[name] === true
  }
}

/** A number from a flag; the error message states its bounds. */
export const numberFlag = (
  given: Given,
  name: string,
  bounds: { readonly above?: number; readonly min?: number; readonly max?: number },
  what = "a number"
): number | undefined => {
  const text = given.flag(name)
  if (text === undefined) return undefined
  const { above, max, min } = bounds
  const value = Number(text)
  const fits = (above === undefined || value > above) && (min === undefined || value >= min) && (max === undefined || value <= max)
  if (/^\d+(\.\d+)?(e[+-]?\d+)?$/i.test(text) && Number.isFinite(value) && fits) return value
  const range = [
    ...(above === undefined ? [] : [`above ${above}`]),
    ...(min === undefined ? [] : [`from ${min}`]),
    ...(max === undefined ? [] : [above !== undefined ? `and at most ${max}` : min !== undefined ? `to ${max}` : `up to ${max}`])
  ]
  throw new UsageError(`--${name} must be ${[what, ...range].join(" ")}, got "${text}".`)
}

/** An integer from a flag. */
export const wholeNumber = (given: Given, name: string, least: number): number | undefined => {
  const text = given.flag(name)
  if (text === undefined) return undefined
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < least)
    throw new UsageError(`--${name} must be an integer of at least ${least}, got "${text}".`)
  return value
}

/** Hyperparameters: config fields with a default, a reason (the paper's section) and bounds. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { didYouMean } from "./did-you-mean.ts"

export interface HyperInfo {
  readonly description: string
  readonly default: unknown
  /** What values it takes, in words: "whole number", "one of". */
  readonly type?: "number" | "whole number" | "yes or no" | "text" | "one of" | "numbers" | "names for names"
  /** Of a number: the least and the most. */
  readonly min?: number
  readonly max?: number
  /** The words it may be. */
  readonly choices?: ReadonlyArray<string>
  /** Why the field does not change the result, when it is left out of the cache key. */
  readonly neutral?: string
  /** Set when the value is the name of an environment variable that holds a secret. */
  readonly namesSecret?: true
  /** Why a value is refused. It is not repeated where it may be a secret that was given in the wrong place. */
  readonly refuse?: (value: unknown) => string | undefined
}

const infos = new WeakMap<object, HyperInfo>()

/** The least and the most that a number may be. */
export interface Bounds {
  readonly min?: number
  readonly max?: number
}
type Field<A> = Schema.withDecodingDefaultKey<Schema.Codec<A, A>>

const bounded = (schema: Schema.Codec<number, number>, bounds: Bounds): Schema.Codec<number, number> => {
  let out: Schema.Codec<number, number> = schema
  if (bounds.min !== undefined) out = out.check(Schema.isGreaterThanOrEqualTo(bounds.min))
  if (bounds.max !== undefined) out = out.check(Schema.isLessThanOrEqualTo(bounds.max))
  return out
}

const withDefault = <A>(
  schema: Schema.Codec<A, A>,
  value: A,
  description: string,
  more: Pick<HyperInfo, "type" | "min" | "max" | "choices">
): Field<A> => {
  const field = schema.pipe(Schema.withDecodingDefaultKey(Effect.succeed(value))) as unknown as Field<A>
  infos.set(field, { description, default: value, ...more })
  return field
}

/** A field with a default: a finite number, a boolean, a string, or one of a list of words. The description names the paper's section. */
export function hyper<const L extends ReadonlyArray<string>>(value: L[number], description: string, words: L): Field<L[number]>
export function hyper(value: number, description: string, bounds?: Bounds): Field<number>
export function hyper(value: boolean, description: string): Field<boolean>
export function hyper(value: string, description: string): Field<string>
export function hyper(value: number | boolean | string, description: string, limits?: Bounds | ReadonlyArray<string>): Field<any> {
  if (Array.isArray(limits))
    return withDefault(Schema.Literals(limits as ReadonlyArray<string>) as Schema.Codec<string, string>, value as string, description, {
      type: "one of",
      choices: limits as ReadonlyArray<string>
    })
  const bounds = (limits as Bounds | undefined) ?? {}
  if (typeof value === "number") return withDefault(bounded(Schema.Finite, bounds), value, description, { type: "number", ...bounds })
  if (typeof value === "boolean")
    return withDefault(Schema.Boolean as Schema.Codec<boolean, boolean>, value, description, { type: "yes or no" })
  return withDefault(Schema.String as Schema.Codec<string, string>, value, description, { type: "text" })
}

/** A whole number with a default. */
export const hyperInt = (value: number, description: string, bounds: Bounds = {}): Field<number> =>
  withDefault(bounded(Schema.Int as Schema.Codec<number, number>, bounds), value, description, { type: "whole number", ...bounds })

const described = (description: string, more: Omit<HyperInfo, "description" | "default">, value = ""): Field<string> => {
  const field = hyper(value, description)
  infos.set(field, { description, default: value, type: "text", ...more })
  return field
}

/** A text, "" unless given, of which `refuse` says in what way it is none that may be. */
export const hyperText = (description: string, refuse: (value: unknown) => string | undefined, value = ""): Field<string> =>
  described(description, { refuse }, value)

/** A list of numbers; empty, unless given. */
export const hyperNumbers = (description: string, bounds: Bounds = {}): Field<ReadonlyArray<number>> =>
  withDefault(
    Schema.Array(bounded(Schema.Finite, bounds)) as unknown as Schema.Codec<ReadonlyArray<number>, ReadonlyArray<number>>,
    [],
    description,
    { type: "numbers", ...bounds }
  )

/** Names for names: { prompt: "question" }. Only these may be given one; none has, unless given. */
export const hyperNames = (description: string, names: ReadonlyArray<string>): Field<Readonly<Record<string, string>>> => {
  const schema = Schema.Record(Schema.String, Schema.NonEmptyString) as unknown as Schema.Codec<
    Readonly<Record<string, string>>,
    Readonly<Record<string, string>>
  >
  const field = withDefault(schema, {}, description, { type: "names for names" })
  infos.set(field, {
    ...infos.get(field)!,
    refuse: (value) => {
      const unknown = typeof value === "object" && value !== null ? Object.keys(value).find((name) => !names.includes(name)) : undefined
      return unknown === undefined
        ? undefined
        : `has no ${JSON.stringify(unknown)} to give a name to.${didYouMean(unknown, names)} It takes any of ${names.join(", ")}`
    }
  })
  return field
}

/** Some of a list of words, separated by commas. */
export const hyperWords = (value: string, description: string, words: ReadonlyArray<string>): Field<string> =>
  hyperText(
    description,
    (given) => {
      const other = String(given)
        .split(",")
        .map((word) => word.trim())
        .find((word) => !words.includes(word))
      return other === undefined ? undefined : `takes any of ${words.join(", ")}, separated by commas, got ${JSON.stringify(other)}`
    },
    value
  )

/** A day, as 2024-07-26. */
export const hyperDate = (value: string, description: string): Field<string> =>
  described(
    description,
    {
      refuse: (given) => {
        const day = String(given)
        const isDay = /^\d{4}-\d{2}-\d{2}$/.test(day) && (new Date(`${day}T00:00:00Z`).toJSON() ?? "").startsWith(day)
        return isDay ? undefined : `takes a day as YYYY-MM-DD, got ${JSON.stringify(given)}`
      }
    },
    value
  )

/** The name of an environment variable that holds a secret, or "". The runtime takes its value out of all that the stage says. */
export const hyperSecretVariable = (description: string): Field<string> =>
  described(description, {
    namesSecret: true,
    refuse: (value) =>
      typeof value === "string" && /^([A-Za-z_][A-Za-z0-9_]*)?$/.test(value)
        ? undefined
        : "takes the name of an environment variable (letters, digits and _), not the secret itself"
  })

/** The address of an endpoint, or "". It stands in the journal: one that holds a user's name or password, or a query, where keys go too, is refused. */
export const hyperUrl = (description: string): Field<string> =>
  described(description, {
    refuse: (value) =>
      typeof value === "string" && /^\w+:\/\/[^/?#]*@/.test(value)
        ? "holds a name or a password, which would be recorded with the run. Put the key into an environment variable"
        : typeof value === "string" && /[?#]/.test(value)
          ? "has a query or a fragment (after ? or #), which would be recorded with the run. Give the address without it, and put a key into an environment variable"
          : undefined
  })

/** Marks a field that can't change the result, so that it stays out of the cache key; the reason is part of the record. */
export const neutral = <F extends object>(field: F, reason: string): F => {
  const info = infos.get(field)
  if (info === undefined) throw new Error("neutral() takes a field made by hyper() or hyperInt()")
  infos.set(field, { ...info, neutral: reason })
  return field
}

export const hyperInfo = (field: object): HyperInfo | undefined => infos.get(field)

export type ConfigSchema = Schema.Struct<any>

export interface FieldDescription extends Partial<HyperInfo> {
  readonly name: string
  /** Set when it has no default and can't be left out. */
  readonly required?: true
}

/** Every field of a config: name, description, default. */
export const describeConfig = (config: ConfigSchema): ReadonlyArray<FieldDescription> =>
  Object.entries(config.fields as Record<string, Schema.Codec<unknown>>).map(([name, field]) => {
    const info = infos.get(field)
    if (info !== undefined) return { name, ...info }
    const description = Schema.resolveAnnotations(field)?.description
    const required = Schema.decodeUnknownExit(Schema.Struct({ field }))({})._tag === "Failure"
    return { name, ...(typeof description === "string" ? { description } : {}), ...(required ? { required } : {}) }
  })

/** A config or parameter that does not decode. */
export class ConfigError extends Schema.TaggedError<ConfigError>()("ConfigError", { message: Schema.String }) {
  readonly isRetryable = false
}

/**
 * Decodes a config: unknown fields are errors (with the nearest known one), all errors are told at once. `what` names it in the message, `how`
 * says how to give what is missing.
 */
export const decodeConfig = <C extends ConfigSchema>(
  config: C,
  input: unknown,
  what: string,
  how: (name: string) => string = () => ""
): Effect.Effect<C["Type"], ConfigError> => {
  const names = Object.keys(config.fields as object)
  if (typeof input === "object" && input !== null) {
    const unknown = Object.keys(input).filter((key) => !names.includes(key))
    if (unknown.length > 0) {
      return Effect.fail(
        new ConfigError({ message: unknown.map((key) => `${what} has no field "${key}".${didYouMean(key, names)}`).join("\n") })
      )
    }
    for (const [name, value] of Object.entries(input)) {
      const reason = infos.get((config.fields as Record<string, object>)[name]!)?.refuse?.(value)
      if (reason !== undefined) return Effect.fail(new ConfigError({ message: `${what}: its field "${name}" ${reason}.` }))
    }
    if (names.some((name) => !Object.hasOwn(input, name))) {
      const missing = describeConfig(config).filter(({ name, required }) => required && !Object.hasOwn(input, name))
      if (missing.length > 0) {
        const lines = missing.map(
          ({ name, description }) => `${what} needs "${name}"${description === undefined ? "" : ` (${description})`}.${how(name)}`
        )
        return Effect.fail(new ConfigError({ message: lines.join("\n") }))
      }
    }
  }
  return Schema.decodeUnknownEffect(config as unknown as Schema.Codec<any, any>, {
    errors: "all",
    onExcessProperty: "error",
    reportInput: true
  })(input).pipe(
    Effect.mapError(
      (error) =>
        new ConfigError({ message: `${what} is not valid: ${error.message.replaceAll(/\n\s*at /g, " at ").replaceAll("\n", "; ")}` })
    )
  )
}

/** Hyperparameters: config fields with a default, a description (naming the paper's section) and bounds. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { didYouMean } from "./did-you-mean.ts"
import { schemaIssues } from "./schema-issues.ts"

export interface HyperInfo {
  readonly description: string
  readonly default: unknown
  /** The accepted values, in words: "integer", "one of". */
  readonly type?: "number" | "integer" | "boolean" | "text" | "one of" | "numbers" | "map of names"
  /** Minimum and maximum of a number. */
  readonly min?: number
  readonly max?: number
  /** The accepted words. */
  readonly choices?: ReadonlyArray<string>
  /** For a field that is excluded from the cache key: why it does not change the result. */
  readonly neutral?: string
  /** Set when the value is the name of an environment variable that holds a secret. */
  readonly namesSecret?: true
  /** Returns why a value is refused. Does not repeat the value if it may be a secret that was passed in the wrong place. */
  readonly refuse?: (value: unknown) => string | undefined
}

/** What is wrong with a schema that the Effect of Caravan did not make: a project may contain another version, whose schemas look alike. */
export const otherEffect = (schema: unknown): string | undefined => {
  if (schema === null || (typeof schema !== "object" && typeof schema !== "function"))
    return `found ${schema === undefined ? "none" : `a ${typeof schema}`}`
  return "~effect/Schema/Schema" in schema
    ? undefined
    : "found one of another version of Effect: install the version in Caravan's package.json"
}

const infos = new WeakMap<object, HyperInfo>()

/** Minimum and maximum of a number, inclusive. */
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
    return withDefault(Schema.Boolean as Schema.Codec<boolean, boolean>, value, description, { type: "boolean" })
  return withDefault(Schema.String as Schema.Codec<string, string>, value, description, { type: "text" })
}

/** An integer field with a default. */
export const hyperInt = (value: number, description: string, bounds: Bounds = {}): Field<number> =>
  withDefault(bounded(Schema.Int as Schema.Codec<number, number>, bounds), value, description, { type: "integer", ...bounds })

const described = (description: string, more: Omit<HyperInfo, "description" | "default">, value = ""): Field<string> => {
  const field = hyper(value, description)
  infos.set(field, { description, default: value, type: "text", ...more })
  return field
}

/** A text field, by default "". `refuse` returns why a value is invalid. */
export const hyperText = (description: string, refuse: (value: unknown) => string | undefined, value = ""): Field<string> =>
  described(description, { refuse }, value)

/** A list of numbers, by default empty. */
export const hyperNumbers = (description: string, bounds: Bounds): Field<ReadonlyArray<number>> =>
  withDefault(
    Schema.Array(bounded(Schema.Finite, bounds)) as unknown as Schema.Codec<ReadonlyArray<number>, ReadonlyArray<number>>,
    [],
    description,
    { type: "numbers", ...bounds }
  )

/** A map from names to names, by default empty: { prompt: "question" }. Only the given names may be keys. */
export const hyperNames = (description: string, names: ReadonlyArray<string>): Field<Readonly<Record<string, string>>> => {
  const schema = Schema.Record(Schema.String, Schema.NonEmptyString) as unknown as Schema.Codec<
    Readonly<Record<string, string>>,
    Readonly<Record<string, string>>
  >
  const field = withDefault(schema, {}, description, { type: "map of names" })
  infos.set(field, {
    ...infos.get(field)!,
    refuse: (value) => {
      const unknown = typeof value === "object" && value !== null ? Object.keys(value).find((name) => !names.includes(name)) : undefined
      return unknown === undefined
        ? undefined
        : `cannot map ${JSON.stringify(unknown)}.${didYouMean(unknown, names)} Its keys may be ${names.join(", ")}`
    }
  })
  return field
}

/** A comma-separated selection from a list of words. */
export const hyperWords = (value: string, description: string, words: ReadonlyArray<string>): Field<string> =>
  hyperText(
    description,
    (given) => {
      const other = String(given)
        .split(",")
        .map((word) => word.trim())
        .find((word) => !words.includes(word))
      return other === undefined ? undefined : `must be a comma-separated list of ${words.join(", ")}; found ${JSON.stringify(other)}`
    },
    value
  )

/** A date in the form 2024-07-26. */
export const hyperDate = (value: string, description: string): Field<string> =>
  described(
    description,
    {
      refuse: (given) => {
        const day = String(given)
        const isDay = /^\d{4}-\d{2}-\d{2}$/.test(day) && (new Date(`${day}T00:00:00Z`).toJSON() ?? "").startsWith(day)
        return isDay ? undefined : `must be a date in the form YYYY-MM-DD; found ${JSON.stringify(given)}`
      }
    },
    value
  )

/** The name of an environment variable that holds a secret, or "". The runtime removes its value from everything that the stage prints. */
export const hyperSecretVariable = (description: string): Field<string> =>
  described(description, {
    namesSecret: true,
    refuse: (value) =>
      typeof value === "string" && /^([A-Za-z_][A-Za-z0-9_]*)?$/.test(value)
        ? undefined
        : "must be the name of an environment variable (letters, digits and _), not the secret itself"
  })

/** An endpoint's URL, or "". The journal records it, so a URL with a user name or password, or with a query (which may carry a key), is refused. */
export const hyperUrl = (description: string): Field<string> =>
  described(description, {
    refuse: (value) =>
      typeof value === "string" && /^\w+:\/\/[^/?#]*@/.test(value)
        ? "contains a user name or a password, which would be recorded with the run. Put the key in an environment variable"
        : typeof value === "string" && /[?#]/.test(value)
          ? "has a query or a fragment (after ? or #), which would be recorded with the run. Remove it, and put a key in an environment variable"
          : undefined
  })

/** Marks a field that cannot change the result, so that it is excluded from the cache key; the reason is recorded. */
export const neutral = <F extends object>(field: F, reason: string): F => {
  const info = infos.get(field)
  if (info === undefined) throw new Error("neutral() needs a field made by hyper() or hyperInt()")
  infos.set(field, { ...info, neutral: reason })
  return field
}

export const hyperInfo = (field: object): HyperInfo | undefined => infos.get(field)

export type ConfigSchema = Schema.Struct<any>

export interface FieldDescription extends Partial<HyperInfo> {
  readonly name: string
  /** Set for a field without a default. */
  readonly required?: true
}

/** The name, description and default of every field of a config. */
export const describeConfig = (config: ConfigSchema): ReadonlyArray<FieldDescription> =>
  Object.entries(config.fields as Record<string, Schema.Codec<unknown>>).map(([name, field]) => {
    const info = infos.get(field)
    if (info !== undefined) return { name, ...info }
    const description = Schema.resolveAnnotations(field)?.description
    const required = Schema.decodeUnknownExit(Schema.Struct({ field }))({})._tag === "Failure"
    return { name, ...(typeof description === "string" ? { description } : {}), ...(required ? { required } : {}) }
  })

/** A config or parameter that cannot be decoded. */
export class ConfigError extends Schema.TaggedError<ConfigError>()("ConfigError", { message: Schema.String }) {
  readonly isRetryable = false
}

/**
 * Decodes a config. Unknown fields are errors (with the closest known field), and all errors are reported together. `what` names the config in messages; `how`
 * says how to pass a missing value; `noun` is the word for its fields: those of a pipeline are parameters.
 */
export const decodeConfig = <C extends ConfigSchema>(
  config: C,
  input: unknown,
  what: string,
  { how = () => "", noun = "field" }: { readonly how?: (name: string) => string; readonly noun?: "field" | "parameter" } = {}
): Effect.Effect<C["Type"], ConfigError> => {
  const names = Object.keys(config.fields as object)
  if (typeof input === "object" && input !== null) {
    const unknown = Object.keys(input).filter((key) => !names.includes(key))
    if (unknown.length > 0) {
      return Effect.fail(
        new ConfigError({ message: unknown.map((key) => `${what} has no ${noun} "${key}".${didYouMean(key, names)}`).join("\n") })
      )
    }
    for (const [name, value] of Object.entries(input)) {
      const reason = infos.get((config.fields as Record<string, object>)[name]!)?.refuse?.(value)
      if (reason !== undefined) return Effect.fail(new ConfigError({ message: `${what}: ${noun} "${name}" ${reason}.` }))
    }
    if (names.some((name) => !Object.hasOwn(input, name))) {
      const missing = describeConfig(config).filter(({ name, required }) => required && !Object.hasOwn(input, name))
      if (missing.length > 0) {
        const lines = missing.map(
          ({ name, description }) =>
            `${what} needs a value for "${name}"${description === undefined ? "" : ` (${description})`}.${how(name)}`
        )
        return Effect.fail(new ConfigError({ message: lines.join("\n") }))
      }
    }
  }
  return Schema.decodeUnknownEffect(config as unknown as Schema.Codec<any, any>, {
    errors: "all",
    onExcessProperty: "error",
    reportInput: true
  })(input).pipe(Effect.mapError((error) => new ConfigError({ message: `${what} is invalid: ${schemaIssues(error.message)}.` })))
}

/**
 * A stage's code as part of its key: the hash of a bundle that holds the stage and everything of ours it reaches, tree-shaken and minified, so
 * that comments, types, formatting and unused exports change nothing and a changed helper or constant does; plus the lock-file entries of
 * the packages it imports, with all they depend on.
 *
 * Bundling takes a tenth of a second, so its result is kept under the digests of the files that went in, and asked for again only when one of
 * them changes.
 */
import { createHash } from "node:crypto"
import { existsSync, readFileSync, statSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { digestOf } from "./cache-key.ts"
import { messageOf, PipelineError } from "./errors.ts"
import type { Journal } from "./journal.ts"
import type { StageInfo } from "./stage.ts"

export interface CodeIdentity {
  /** What enters the key. */
  readonly digest: string
  /** The module's export that is the stage. */
  readonly exportName: string
  /** The folder of the package that the stage belongs to. */
  readonly root: string
  /** Every file of ours that was bundled, relative to the package's folder, with its digest: to name the one that changed. */
  readonly files: Readonly<Record<string, string>>
  /** Packages with what the lock file says of them. */
  readonly packages: Readonly<Record<string, string>>
}

interface Kept {
  readonly identity: CodeIdentity
  /** Absolute paths with digests; the lock file included. */
  readonly inputs: Readonly<Record<string, string>>
  readonly bundler: string
}

/** Raised when the way of bundling changes. */
const bundlerVersion = "3"

/** The export of a module that is this stage. */
const exportOf = (stage: StageInfo): Effect.Effect<string, PipelineError> =>
  Effect.gen(function* () {
    const module = yield* Effect.tryPromise({
      try: () => import(stage.module) as Promise<Record<string, unknown>>,
      catch: (cause) => new PipelineError({ message: `Loading the module of stage "${stage.name}" (${stage.module}): ${messageOf(cause)}` })
    })
    for (const [name, value] of Object.entries(module)) {
      if (typeof value === "function" && (value as { stage?: unknown }).stage === stage) return name
    }
    return yield* new PipelineError({
      message: `Stage "${stage.name}" is not exported by the module that makes it (${fileURLToPath(stage.module)}). Export it (export const ... = Stage.make("${stage.name}", ...)), so that a child process can load it and its code can be told from the rest.`
    })
  })

const digestOfFile = (path: string): string | undefined => {
  try {
    return createHash("sha256").update(readFileSync(path)).digest("hex")
  } catch {
    return undefined
  }
}

/** Digests files once per run, however many stages share them. */
export class FileDigests {
  readonly #known = new Map<string, string | undefined>()
  of(path: string): string | undefined {
    if (!this.#known.has(path)) this.#known.set(path, digestOfFile(path))
    return this.#known.get(path)
  }
}

/** The code identity of a stage, from the journal when none of its files has changed. */
export const codeIdentity = (stage: StageInfo, journal: Journal, digests: FileDigests): Effect.Effect<CodeIdentity, PipelineError> =>
  Effect.gen(function* () {
    const exportName = yield* exportOf(stage)
    const entry = fileURLToPath(stage.module)
    const name = `${entry}#${exportName}`
    const kept = journal.code(name) as Kept | undefined
    if (
      kept !== undefined &&
      kept.bundler === bundlerVersion &&
      Object.entries(kept.inputs).every(([path, digest]) => digests.of(path) === digest)
    )
      return noteLoaded(stage, kept.identity)
    const made = yield* bundle(entry, exportName, stage.name, digests)
    journal.recordCode(name, made)
    return noteLoaded(stage, made.identity)
  })

/** What this process has loaded of each stage, as it was when it was first asked for; and the files that changed between loading and asking. */
const loaded = new WeakMap<StageInfo, { readonly identity: CodeIdentity; readonly since: ReadonlyArray<string> }>()

const noteLoaded = (stage: StageInfo, identity: CodeIdentity): CodeIdentity => {
  if (loaded.has(stage)) return identity
  const now = Date.now()
  const since = Object.keys(identity.files).filter((path) => {
    const changed = statSync(join(identity.root, path), { throwIfNoEntry: false })?.ctimeMs ?? now
    // Times are whole milliseconds here. A time to come says only that clocks differ.
    return changed > stage.loaded + 1 && changed <= now
  })
  loaded.set(stage, { identity, since })
  return identity
}

/** The files of a stage's code that are no longer what this process loaded: one that runs it here would run what its key does not say. */
export const changedSinceLoaded = (identity: CodeIdentity, stage: StageInfo): ReadonlyArray<string> => {
  const first = loaded.get(stage)
  if (first === undefined || first.since.length > 0) return first?.since ?? []
  if (first.identity.digest === identity.digest) return []
  const names = (of: CodeIdentity) => ({ ...of.files, ...of.packages })
  const [before, after] = [names(first.identity), names(identity)]
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => before[name] !== after[name])
}

/** The files of a stage's code that changed it since: none when they are as they were, or differ in what does not count. */
export const changedSince = (identity: CodeIdentity, stage: StageInfo, journal: Journal): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function* () {
    const changed = Object.entries(identity.files).flatMap(([path, digest]) =>
      digestOfFile(join(identity.root, path)) === digest ? [] : [path]
    )
    if (changed.length === 0) return []
    const now = yield* Effect.exit(codeIdentity(stage, journal, new FileDigests()))
    return now._tag === "Success" && now.value.digest === identity.digest ? [] : changed
  })

const bundle = (entry: string, exportName: string, stageName: string, digests: FileDigests): Effect.Effect<Kept, PipelineError> =>
  Effect.tryPromise({
    try: async () => {
      const { rolldown } = await import("rolldown")
      const root = packageRoot(entry)
      const build = await rolldown({
        input: "caravan:stage",
        platform: "node",
        logLevel: "silent",
        plugins: [
          {
            name: "caravan-stage",
            resolveId(id, importer) {
              if (id === "caravan:stage") return id
              if (importer === "caravan:stage" || id.startsWith(".") || id.startsWith("/")) return null
              return { id, external: true }
            },
            load: (id) => (id === "caravan:stage" ? `export { ${exportName} as stage } from ${JSON.stringify(entry)}` : null),
            transform(code, id) {
              const lang = /\.[mc]?ts$/.test(id) ? "ts" : /\.[mc]?js$/.test(id) ? "js" : undefined
              return lang === undefined ? null : pureDefinitions(code, this.parse(code, { lang }).body)
            }
          }
        ],
        treeshake: { moduleSideEffects: (_, external) => !external, propertyReadSideEffects: false, unknownGlobalSideEffects: false }
      })
      const { output } = await build.generate({ format: "esm", minify: true })
      const modules = build.watchFiles
      await build.close()
      const hash = createHash("sha256")
      const imported = new Set<string>()
      const ownChunks = new Set(output.map((chunk) => chunk.fileName))
      for (const chunk of output) {
        if (chunk.type !== "chunk") continue
        // Names of chunks hold a hash of their own content: what they hold is enough.
        hash.update(`${chunk.code.length}:${chunk.code}`)
        // Its lists name what the modules import; the code says what of that is left.
        for (const id of [...chunk.imports, ...chunk.dynamicImports])
          if (!ownChunks.has(id) && ['"', "'", "`"].some((quote) => chunk.code.includes(quote + id + quote))) imported.add(id)
      }
      const packages = packageEntries([...imported], entry)
      const files = (await modules).filter((path) => path !== "caravan:stage" && existsSync(path)).sort()
      const inputs = Object.fromEntries([...files, ...packages.lockFiles].map((path) => [path, digests.of(path)!]))
      return {
        identity: {
          digest: digestOf(["caravan code", hash.digest("hex"), packages.entries]),
          exportName,
          root,
          files: Object.fromEntries(files.map((path) => [relative(root, path), inputs[path]!])),
          packages: packages.entries
        },
        inputs,
        bundler: bundlerVersion
      }
    },
    catch: (cause) => new PipelineError({ message: `Bundling the code of stage "${stageName}" (${entry}): ${messageOf(cause)}` })
  })

interface Syntax {
  readonly type: string
  readonly start: number
  readonly end: number
}
/** The parts of ESTree that matter here. */
type Statement = Syntax & {
  readonly declaration?: Statement | null
  readonly declarations?: ReadonlyArray<{ readonly init?: Syntax | null }>
  readonly superClass?: Syntax | null
}

/** Whether a value waits for something at the top level: that can't go into a function. */
const awaits = (value: unknown): boolean => {
  if (typeof value !== "object" || value === null) return false
  const { type } = value as { readonly type?: string }
  if (type === "AwaitExpression") return true
  if (type === "ArrowFunctionExpression" || type === "FunctionExpression") return false
  return Object.values(value).some(awaits)
}

/**
 * A definition at the top level of a module (`const x = Stage.make(...)`, `class E extends TaggedError(...)`) that nobody uses can go, whatever it
 * calls: each is wrapped in a function marked as pure. Statements that stand there for their effect stay, and so does everything inside of
 * functions.
 */
const pureDefinitions = (code: string, body: ReadonlyArray<unknown>): string => {
  const spans: Array<Syntax> = []
  for (const statement of body as ReadonlyArray<Statement>) {
    const definition = statement.declaration ?? statement
    const values = [...(definition.declarations ?? []).map(({ init }) => init), definition.superClass]
    if (statement.type === "ExportDefaultDeclaration" && !definition.type.endsWith("Declaration")) values.push(definition)
    for (const value of values) if (value && !awaits(value)) spans.push(value)
  }
  let out = ""
  let at = 0
  for (const { start, end } of spans) {
    const text = code.slice(start, end)
    out += `${code.slice(at, start)}(/*#__PURE__*/(() => (${text}\n))())`
    at = end
  }
  return out + code.slice(at)
}

const packageRoot = (file: string): string => {
  for (let folder = dirname(file); ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json")) || folder === dirname(folder)) return folder
  }
}

/** What the nearest lock file says of these packages and of all they depend on: name -> version and integrity. */
const packageEntries = (
  specifiers: ReadonlyArray<string>,
  from: string
): { readonly entries: Record<string, string>; readonly lockFiles: Array<string> } => {
  const names = [
    ...new Set(
      specifiers
        .filter((id) => !id.startsWith("node:"))
        .map((id) =>
          id
            .split("/")
            .slice(0, id.startsWith("@") ? 2 : 1)
            .join("/")
        )
    )
  ]
  const lock = nearestLock(from)
  const entries: Record<string, string> = {}
  if (lock === undefined) return { entries: Object.fromEntries(names.map((name) => [name, installedVersion(name, from)])), lockFiles: [] }
  const packages = (JSON.parse(readFileSync(lock, "utf8")) as { packages?: Record<string, LockEntry> }).packages ?? {}
  const visit = (name: string, within: string): void => {
    // As Node resolves: the nearest node_modules upwards.
    for (let base = within; ; base = base.includes("/node_modules/") ? base.slice(0, base.lastIndexOf("/node_modules/")) : "") {
      const path = base === "" ? `node_modules/${name}` : `${base}/node_modules/${name}`
      const found = packages[path]
      if (found !== undefined) {
        if (path in entries) return
        entries[path] = `${found.version ?? ""} ${found.integrity ?? found.resolved ?? ""}`
        for (const dependency of Object.keys({ ...found.dependencies, ...found.optionalDependencies })) visit(dependency, path)
        return
      }
      if (base === "") return
    }
  }
  for (const name of names) {
    visit(name, "")
    if (!(`node_modules/${name}` in packages)) entries[name] = installedVersion(name, from)
  }
  return { entries, lockFiles: [lock] }
}

interface LockEntry {
  readonly version?: string
  readonly integrity?: string
  readonly resolved?: string
  readonly dependencies?: Record<string, string>
  readonly optionalDependencies?: Record<string, string>
}

/** The lock file that governs a file: package-lock.json upwards, past the node_modules the file may be in. */
const nearestLock = (from: string): string | undefined => {
  const start = from.includes("/node_modules/") ? from.slice(0, from.indexOf("/node_modules/") + 1) : from
  for (let folder = dirname(start); ; folder = dirname(folder)) {
    const path = join(folder, "package-lock.json")
    if (existsSync(path)) return path
    if (folder === dirname(folder)) return undefined
  }
}

const installedVersion = (name: string, from: string): string => {
  for (let folder = dirname(from); ; folder = dirname(folder)) {
    const path = join(folder, "node_modules", name, "package.json")
    if (existsSync(path)) return String((JSON.parse(readFileSync(path, "utf8")) as { version?: string }).version)
    if (folder === dirname(folder)) return "not installed"
  }
}

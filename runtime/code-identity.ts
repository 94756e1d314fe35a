/**
 * A stage's code as part of its key: the hash of a bundle that holds the stage and everything of ours it reaches, tree-shaken and minified, so
 * that comments, types, formatting and unused exports change nothing and a changed helper or constant does; plus the lock-file entries of
 * the packages it imports, with all they depend on.
 *
 * Bundling takes a tenth of a second, so its result is kept under the digests of the files that went in, and asked for again only when one of
 * them changes.
 */
import { createHash } from "node:crypto"
import { existsSync, readFileSync } from "node:fs"
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
const bundlerVersion = "1"

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
    if (kept !== undefined && kept.bundler === bundlerVersion && Object.entries(kept.inputs).every(([path, digest]) => digests.of(path) === digest)) return kept.identity
    const made = yield* bundle(entry, exportName, stage.name, digests)
    journal.recordCode(name, made)
    return made.identity
  })

const bundle = (entry: string, exportName: string, stageName: string, digests: FileDigests): Effect.Effect<Kept, PipelineError> =>
  Effect.tryPromise({
    try: async () => {
      const { rolldown } = await import("rolldown")
      const root = packageRoot(entry)
      const external = new Set<string>()
      const names = new DefinitionNames()
      const plugin = {
        name: "caravan-stage",
        resolveId(id: string, importer: string | undefined) {
          if (id === "caravan:stage") return id
          if (importer === "caravan:stage" || id.startsWith(".") || id.startsWith("/")) return null
          external.add(id)
          return { id, external: true }
        },
        load: (id: string) => (id === "caravan:stage" ? `export { ${exportName} as stage } from ${JSON.stringify(entry)}` : null),
        transform(code: string) {
          names.collect(code)
          return null
        }
      }
      const options = { input: "caravan:stage", platform: "node" as const, logLevel: "silent" as const, plugins: [plugin] }
      // Once to see the modules, once with what is known of them.
      const survey = await rolldown(options)
      await survey.generate({ format: "esm" })
      await survey.close()
      const build = await rolldown({
        ...options,
        treeshake: { moduleSideEffects: false, propertyReadSideEffects: false, unknownGlobalSideEffects: false, manualPureFunctions: names.pure() }
      })
      const { output } = await build.generate({ format: "esm", minify: true })
      const modules = build.watchFiles
      await build.close()
      const hash = createHash("sha256")
      for (const chunk of output) {
        if (chunk.type !== "chunk") continue
        // Names of chunks hold a hash of their own content: what they hold is enough.
        hash.update(`${chunk.code.length}:${chunk.code}`)
      }
      const packages = packageEntries([...external], entry)
      const files = (await modules).filter((path) => path !== "caravan:stage" && existsSync(path)).sort()
      const inputs = Object.fromEntries([...files, ...packages.lockFiles].map((path) => [path, digests.of(path)!]))
      return {
        identity: {
          digest: digestOf(["caravan code", hash.digest("hex"), packages.entries]),
          exportName,
          files: Object.fromEntries(files.map((path) => [relative(root, path), inputs[path]!])),
          packages: packages.entries
        },
        inputs,
        bundler: bundlerVersion
      }
    },
    catch: (cause) => new PipelineError({ message: `Bundling the code of stage "${stageName}" (${entry}): ${messageOf(cause)}` })
  })

const packageRoot = (file: string): string => {
  for (let folder = dirname(file); ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json")) || folder === dirname(folder)) return folder
  }
}

/**
 * Calls at the top level of a module mostly define things (schemas, errors, other stages): one whose result nobody uses can go. The bundler
 * can't know that of a function, so it is told the names that modules import or declare, except those called for their effect: as a statement
 * of its own at the start of a line.
 */
class DefinitionNames {
  readonly #defined = new Set<string>()
  readonly #effectful = new Set<string>()
  collect(code: string): void {
    for (const match of code.matchAll(/import\s+\*\s+as\s+([\w$]+)/g)) this.#defined.add(match[1]!)
    for (const match of code.matchAll(/import\s+(?:type\s+)?(?:[\w$]+\s*,\s*)?\{([^}]*)\}/g)) {
      for (const part of match[1]!.split(",")) this.#defined.add(part.trim().split(/\s+as\s+/).at(-1)!.replace(/^type\s+/, ""))
    }
    for (const match of code.matchAll(/^(?:export\s+)?(?:const|let|function\*?|async function|class)\s+([\w$]+)/gm)) this.#defined.add(match[1]!)
    for (const match of code.matchAll(/^(?:await\s+)?([\w$]+)(?:\.[\w$]+)*\(/gm)) this.#effectful.add(match[1]!)
  }
  pure(): Array<string> {
    return [...this.#defined].filter((name) => name !== "" && !this.#effectful.has(name)).sort()
  }
}

/** What the nearest lock file says of these packages and of all they depend on: name -> version and integrity. */
const packageEntries = (specifiers: ReadonlyArray<string>, from: string): { readonly entries: Record<string, string>; readonly lockFiles: Array<string> } => {
  const names = [...new Set(specifiers.filter((id) => !id.startsWith("node:")).map((id) => id.split("/").slice(0, id.startsWith("@") ? 2 : 1).join("/")))]
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

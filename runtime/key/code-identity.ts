/**
 * A stage's code as part of its key: the hash of a bundle of the stage and all of our code it reaches, tree-shaken and minified, so that comments,
 * types, formatting and unused exports do not matter, but a changed helper or constant does; plus the lock-file entries of the packages it imports
 * and all their dependencies (packages.ts). Our code is everything that is not installed: also imports by "#name", by the package's own name, by a
 * file: URL or from a linked package. Unresolvable imports are refused.
 *
 * Bundling takes a tenth of a second, so its result is cached under the digests of the files that went in, and repeated only when one of them
 * changes.
 */
import { createHash, hash as hashOf } from "node:crypto"
import { existsSync, realpathSync, statSync } from "node:fs"
import { isBuiltin } from "node:module"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { own } from "../../schemas/own.ts"
import { digestOf } from "../encoding.ts"
import { messageOf, PipelineError, type StoreError } from "../errors.ts"
import type { KeyCache } from "./key-cache.ts"
import { digestOfFile, FileDigests, isInstalled, manifestOf, packageEntries, packageFolder, packageName, packageRoot } from "./packages.ts"
import type { StageInfo } from "../define/stage-info.ts"

export { FileDigests } from "./packages.ts"

export interface CodeIdentity {
  /** The digest that enters the key. */
  readonly digest: string
  /** The module's export that is the stage. */
  readonly exportName: string
  /** The folder of the package that contains the stage. */
  readonly root: string
  /** All of our bundled files, relative to the package's folder, with their digests: to name the file that changed. */
  readonly files: Readonly<Record<string, string>>
  /** Packages with their lock file entries. */
  readonly packages: Readonly<Record<string, string>>
}

interface Kept {
  readonly identity: CodeIdentity
  /** Absolute paths with digests, including lock files and installed packages. */
  readonly inputs: Readonly<Record<string, string>>
  readonly bundler: string
}

/** Increased when the bundling method changes. */
const bundlerVersion = "5"

/** The name of the module's export that is this stage. */
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
      message: `Stage "${stage.name}" is not exported by the module that defines it (${fileURLToPath(stage.module)}). Export it (export const ... = Stage.make("${stage.name}", ...)), so that a child process can load it and its code can be identified.`
    })
  })

/** A stage's code identity, from the cache if none of its files has changed. */
export const codeIdentity = (
  stage: StageInfo,
  cache: KeyCache,
  digests: FileDigests
): Effect.Effect<CodeIdentity, PipelineError | StoreError> =>
  Effect.gen(function* () {
    const exportName = yield* exportOf(stage)
    const entry = fileURLToPath(stage.module)
    const name = `${entry}#${exportName}`
    const kept = (yield* cache.code(name)) as Kept | undefined
    if (
      kept !== undefined &&
      kept.bundler === bundlerVersion &&
      Object.entries(kept.inputs).every(([path, digest]) => digests.of(path) === digest)
    )
      return noteLoaded(stage, kept.identity)
    const made = yield* bundle(entry, exportName, stage.name, digests)
    if (made.isSettled) yield* cache.recordCode(name, made.kept)
    return noteLoaded(stage, made.kept.identity)
  })

/** The code of each stage as this process loaded it, computed on first use; and the files that changed between loading and first use. */
const loaded = new WeakMap<StageInfo, { readonly identity: CodeIdentity; readonly since: ReadonlyArray<string> }>()

const noteLoaded = (stage: StageInfo, identity: CodeIdentity): CodeIdentity => {
  if (loaded.has(stage)) return identity
  const now = Date.now()
  const since = Object.keys(identity.files).filter((path) => {
    const changed = statSync(join(identity.root, path), { throwIfNoEntry: false })?.ctimeMs ?? now
    // Times are whole milliseconds here. A time in the future only means that clocks differ.
    return changed > stage.loaded + 1 && changed <= now
  })
  loaded.set(stage, { identity, since })
  return identity
}

/** The files of a stage's code that differ from what this process loaded: running the stage here would not match its key. */
export const changedSinceLoaded = (identity: CodeIdentity, stage: StageInfo): ReadonlyArray<string> => {
  const first = loaded.get(stage)
  if (first === undefined || first.since.length > 0) return first?.since ?? []
  if (first.identity.digest === identity.digest) return []
  const names = (of: CodeIdentity) => ({ ...of.files, ...of.packages })
  const [before, after] = [names(first.identity), names(identity)]
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => own(before, name) !== own(after, name))
}

/** The files of a stage's bundle whose bytes changed since, whether or not the stage's own code did. */
export const touchedSince = (identity: CodeIdentity): ReadonlyArray<string> =>
  Object.entries(identity.files).flatMap(([path, digest]) => (digestOfFile(join(identity.root, path)) === digest ? [] : [path]))

/** The files of a stage's code that changed since; empty if nothing relevant changed. */
export const changedSince = (identity: CodeIdentity, stage: StageInfo, cache: KeyCache): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function* () {
    const changed = touchedSince(identity)
    if (changed.length === 0) return []
    const now = yield* Effect.exit(codeIdentity(stage, cache, new FileDigests()))
    return now._tag === "Success" && now.value.digest === identity.digest ? [] : changed
  })

/** Transformed modules by source text: most are in the bundles of many stages, and parsing is half of the work. */
const pure = { ts: new Map<string, string>(), js: new Map<string, string>() }

/** Whether a file with this digest has this text; bundlers remove a byte order mark. */
const isTextOf = (text: string, digest: string): boolean => ["", "\ufeff"].some((mark) => hashOf("sha256", mark + text) === digest)

/** `isSettled`: the bundled texts are those of the digests; false if a file changed meanwhile. */
const bundle = (
  entry: string,
  exportName: string,
  stageName: string,
  digests: FileDigests
): Effect.Effect<{ readonly kept: Kept; readonly isSettled: boolean }, PipelineError> =>
  Effect.tryPromise({
    try: async () => {
      const { rolldown } = await import("rolldown")
      const root = packageRoot(entry)
      const found = importsOf()
      let isSettled = true
      const build = await rolldown({
        input: "caravan:stage",
        platform: "node",
        logLevel: "silent",
        plugins: [
          {
            name: "caravan-stage",
            resolveId(id, importer) {
              if (id === "caravan:stage") return id
              if (importer === undefined || importer === "caravan:stage" || id.startsWith(".") || id.startsWith("/")) return null
              return found.resolve(id, importer, async () => await this.resolve(id, importer, { skipSelf: true }))
            },
            load: (id) => (id === "caravan:stage" ? `export { ${exportName} as stage } from ${JSON.stringify(entry)}` : null),
            transform(code, id) {
              const digest = digests.of(id)
              if (digest !== undefined && !isTextOf(code, digest)) isSettled = false
              const lang = /\.[mc]?ts$/.test(id) ? "ts" : /\.[mc]?js$/.test(id) ? "js" : undefined
              if (lang === undefined) return null
              const known = pure[lang].get(code) ?? pureDefinitions(code, this.parse(code, { lang }).body)
              pure[lang].set(code, known)
              return known
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
        // Chunk names contain a hash of their content, so the content is enough.
        hash.update(`${chunk.code.length}:${chunk.code}`)
        // The chunk's lists name what the modules import; the code shows which imports remain.
        for (const id of [...chunk.imports, ...chunk.dynamicImports])
          if (!ownChunks.has(id) && ['"', "'", "`"].some((quote) => chunk.code.includes(quote + id + quote))) imported.add(id)
      }
      const packages = packageEntries(found.foldersOf(imported), entry, digests)
      const loaded = (await modules).filter((path) => path !== "caravan:stage" && existsSync(path))
      const files = [...new Set([...loaded, ...found.manifests])].sort()
      const inputs = Object.fromEntries([...files, ...packages.inputs].map((path) => [path, digests.of(path)!]))
      const identity = {
        digest: digestOf(["caravan code", hash.digest("hex"), packages.entries]),
        exportName,
        root,
        files: Object.fromEntries(files.map((path) => [relative(root, path), inputs[path]!])),
        packages: packages.entries
      }
      return { kept: { identity, inputs, bundler: bundlerVersion }, isSettled }
    },
    catch: (cause) => new PipelineError({ message: `Bundling the code of stage "${stageName}" (${entry}): ${messageOf(cause)}` })
  })

/** A bundler's resolution of an import. */
type Resolved = { readonly id: string; readonly external?: boolean | string } | null

/** Resolves imports that are neither relative nor absolute, and records where the external ones lead. */
const importsOf = () => {
  /** Package folders by import name; several if files resolve the same name differently. */
  const folders = new Map<string, Set<string>>()
  /** Imports that can't be identified, with the reason: an error if the final bundle still has them. */
  const lost = new Map<string, string>()
  /** The package.json files that decide where imports of our code lead. */
  const manifests = new Set<string>()
  const known = new Map<string, ReturnType<typeof manifestOf>>()
  const ownOf = (importer: string) => {
    const folder = packageRoot(importer)
    if (!known.has(folder)) known.set(folder, manifestOf(folder))
    return known.get(folder)!
  }
  const external = (id: string, folder?: string) => {
    if (folder !== undefined) folders.set(id, (folders.get(id) ?? new Set()).add(folder))
    return { id, external: true }
  }
  const refuse = (id: string, importer: string, why: string) => {
    lost.set(id, `${importer} imports "${id}": ${why}`)
    return external(id)
  }
  /** A file: our code, unless it is installed as part of a package other than the importer's. */
  const file = (path: string, importer: string) => {
    if (!isInstalled(path) || packageRoot(path) === packageRoot(importer)) return { id: path }
    const within = path.slice(path.lastIndexOf("/node_modules/") + "/node_modules/".length)
    return external(within, path.slice(0, path.length - within.length) + packageName(within))
  }
  const resolve = async (id: string, importer: string, resolved: () => Promise<Resolved>) => {
    if (isBuiltin(id) || id.startsWith("data:")) return external(id)
    if (id.startsWith("file:")) {
      const path = fileURLToPath(new URL(id))
      return existsSync(path) ? file(path, importer) : refuse(id, importer, "the file does not exist.")
    }
    if (/^[a-z][a-z+.-]*:/.test(id)) return refuse(id, importer, "its content may change. Use a local file or a package instead.")
    const [name, own] = [packageName(id), ownOf(importer)]
    if (!id.startsWith("#") && !(own.name === name && own.exports !== undefined)) {
      const folder = packageFolder(name, dirname(importer))
      if (folder === undefined)
        return refuse(id, importer, "no such package is installed. Add it to package.json and run npm install, or run npm ci.")
      if (isInstalled(folder)) return external(id, folder)
      manifests.add(join(realpathSync(folder), "package.json"))
    } else manifests.add(join(packageRoot(importer), "package.json"))
    const to = await resolved()
    if (to === null)
      return refuse(id, importer, "it does not resolve to a file. Fix `imports` or `exports` in package.json, or build the linked package.")
    // A package.json alias for a Node module.
    if (to.external === true || isBuiltin(to.id))
      return isBuiltin(to.id) ? external(to.id) : refuse(id, importer, `it resolves to "${to.id}", which is not a file.`)
    return file(to.id, importer)
  }
  /** The folders of the packages that remain in the bundle. */
  const foldersOf = (imported: Iterable<string>): Set<string> => {
    const all = new Set<string>()
    for (const id of imported) {
      const why = lost.get(id)
      if (why !== undefined) throw new PipelineError({ message: why })
      for (const folder of folders.get(id) ?? []) all.add(folder)
    }
    return all
  }
  return { resolve, foldersOf, manifests }
}

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

/** Whether a value contains a top-level await, which can't be moved into a function. */
const awaits = (value: unknown): boolean => {
  if (typeof value !== "object" || value === null) return false
  const { type } = value as { readonly type?: string }
  if (type === "AwaitExpression") return true
  if (type === "ArrowFunctionExpression" || type === "FunctionExpression") return false
  return Object.values(value).some(awaits)
}

/**
 * An unused top-level definition (`const x = Stage.make(...)`, `class E extends TaggedError(...)`) may be removed, whatever it calls: each is wrapped
 * in a function marked as pure. Top-level statements with side effects stay, and so does everything inside functions.
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

/** The fixture pipeline (fixtures/) in a separate folder, run in this process; its stages with tensors run in children, without libtorch. */
import { chmodSync, copyFileSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { Numerics } from "../../runtime/key/numerics.ts"
import type { AnyPipeline } from "../../runtime/define/pipeline.ts"
import type { RunEvent, RunResult } from "../../runtime/run/events.ts"
import type { Executor } from "../../runtime/run/executor.ts"
import { layer } from "../../runtime/run/layer.ts"
import type { RunOptions } from "../../runtime/run/options.ts"
import { plan } from "../../runtime/run/plan.ts"
import { run } from "../../runtime/run/run.ts"
import { Journal, type JournalTables } from "../../runtime/store/journal.ts"
import { type HeldStore, Store, type StoreOperations } from "../../runtime/store/store.ts"
import type { ArtifactType } from "../../schemas/artifact.ts"
import { workFolder } from "../cli/caravan.ts"

/** Any files. */
export const anything: ArtifactType<never> = { kind: "report", name: "report:anything/1", accepts: () => true, validate: () => Effect.void }

/** Everything that a run in this home needs, on a machine with the given numerics. */
export const services = (
  home: string,
  numerics: Record<string, string> = { libtorch: "none" }
): Layer.Layer<Store | Journal | Executor | Numerics> =>
  Layer.merge(layer({ home }), Layer.succeed(Numerics, { describe: () => Effect.succeed({ ...numerics }) }))

/** The store and the journal of a home, opened through their layers for a test that works sequentially. */
export interface Opened {
  readonly store: StoreOperations
  /** Runs an effect of the service synchronously; throws its failure. */
  readonly journal: JournalTables & { readonly transaction: <A>(body: (tables: JournalTables) => A) => A }
  readonly now: <A, E>(effect: Effect.Effect<A, E, Store | Journal>) => A
  readonly later: <A, E>(effect: Effect.Effect<A, E, Store | Journal>) => Promise<A>
  /** The store, held until `letGo` is called or everything is closed. */
  readonly hold: (what: string) => HeldStore & { readonly letGo: () => void }
  readonly close: () => void
}
export const openHome = (home: string): Opened => {
  const scope = Scope.makeUnsafe()
  const context = Effect.runSync(Layer.buildWithScope(Layer.merge(Store.layer(home), Journal.layer(home)), scope))
  const now: Opened["now"] = (effect) => Effect.runSync(Effect.provideContext(effect, context))
  const { read: _, transaction, lastUseUnsafe: __, ...operations } = Context.get(context, Journal)
  const tables = Object.fromEntries(
    Object.entries(operations).map(([name, operation]) => [
      name,
      (...values: ReadonlyArray<unknown>) => now((operation as (...values: ReadonlyArray<unknown>) => Effect.Effect<unknown>)(...values))
    ])
  ) as unknown as JournalTables
  const store = Context.get(context, Store)
  return {
    store,
    journal: { ...tables, transaction: (body) => now(transaction(body)) },
    now,
    later: (effect) => Effect.runPromise(Effect.provideContext(effect, context)),
    hold: (what) => {
      const held = Scope.forkUnsafe(scope)
      return {
        ...now(Effect.provideService(store.hold(what), Scope.Scope, held)),
        letGo: () => now(Scope.close(held, Exit.void))
      }
    },
    close: () => now(Scope.close(scope, Exit.void))
  }
}
/** The same, closed when the test ends. */
export const opening = (home: string) =>
  Effect.acquireRelease(
    Effect.sync(() => openHome(home)),
    ({ close }) => Effect.sync(close)
  )

const fixtures = new URL("fixtures/", import.meta.url).pathname

export interface Fixture {
  readonly folder: string
  readonly run: (
    settings?: Record<string, string>,
    options?: Partial<RunOptions>,
    onEvent?: (event: RunEvent) => void
  ) => Promise<RunResult & { readonly events: ReadonlyArray<RunEvent> }>
  /** Node -> [kind, why]. */
  readonly plan: (
    settings?: Record<string, string>,
    options?: Partial<RunOptions>
  ) => Promise<Record<string, readonly [kind: string, ...why: ReadonlyArray<string>]>>
  /** The machine's numerics, as given. */
  readonly numerics: Record<string, string>
}

/** A folder with the fixture's files and words.txt, three levels below the project. */
export const fixtureFolder = (): string => {
  const folder = workFolder()
  for (const name of readdirSync(fixtures)) copyFileSync(join(fixtures, name), join(folder, name))
  writeFileSync(join(folder, "words.txt"), "alpha\nbeta\ngamma\n")
  return folder
}

export const edit = (folder: string, name: string, change: (text: string) => string): void => {
  const before = readFileSync(join(folder, name), "utf8")
  const after = change(before)
  if (after === before) throw new Error(`the change to ${name} changes nothing`)
  writeFileSync(join(folder, name), after)
}

/** `version` makes Node import it again after an edit. */
export const loadFixture = async (folder: string, version = ""): Promise<Fixture> => {
  const { default: pipeline } = (await import(pathToFileURL(join(folder, "pipeline.ts")).href + version)) as {
    readonly default: AnyPipeline
  }
  const numerics: Record<string, string> = { libtorch: "none" }
  const optionsOf = (settings: Record<string, string>, options: Partial<RunOptions>): RunOptions => ({
    settings: { file: join(folder, "words.txt"), ...settings },
    ...options
  })
  const machine = Effect.provide(services(join(folder, "home"), numerics))
  return {
    folder,
    numerics,
    run: async (settings = {}, options = {}, onEvent: (event: RunEvent) => void = () => undefined) => {
      const events: Array<RunEvent> = []
      const result = await Effect.runPromise(
        run(
          pipeline,
          {},
          {
            ...optionsOf(settings, options),
            onEvent: (event) => {
              events.push(event)
              onEvent(event)
            }
          }
        ).pipe(machine)
      )
      return { ...result, events }
    },
    plan: async (settings = {}, options = {}) => {
      const { nodes } = await Effect.runPromise(plan(pipeline, {}, optionsOf(settings, options)).pipe(machine))
      return Object.fromEntries(
        [...nodes.values()]
          .filter((node) => node.kind !== "file")
          .map((node) => [node.id, [node.kind, ...("why" in node ? node.why : [])] as const])
      )
    }
  }
}

/** A file of an object in the fixture's store, made writable. */
export const objectFile = (folder: string, digest: string, name = "data.arrow"): string => {
  const file = join(folder, "home/objects", digest.slice(0, 2), digest, name)
  chmodSync(file, 0o644)
  return file
}
/** Inverts bytes in the middle of a file without changing its size. `times`: a writing program changes the file's times, a decaying disk does not. */
export const invert = (
  file: string,
  { count = 1, times = "change" }: { readonly count?: number; readonly times?: "change" | "keep" } = {}
) => {
  const { mtimeMs } = statSync(file)
  const bytes = readFileSync(file)
  const from = (bytes.length - count) >> 1
  for (let i = from; i < from + count; i++) bytes[i]! ^= 0xff
  chmodSync(file, 0o644)
  writeFileSync(file, bytes)
  // Whole milliseconds, never newer than before.
  const time = Math.floor(mtimeMs) / 1000
  if (times === "keep") utimesSync(file, time, time)
}

export const statuses = ({ nodes }: RunResult): Record<string, string> => Object.fromEntries(nodes.map((node) => [node.id, node.status]))
export const digests = ({ nodes }: RunResult): Record<string, string | null> =>
  Object.fromEntries(nodes.map((node) => [node.id, node.digest]))

/** The fixture pipeline (fixtures/) in a folder of its own, run in this process; its stages with tensors run in children, without libtorch. */
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import { Numerics } from "../../runtime/key/numerics.ts"
import type { AnyPipeline } from "../../runtime/define/pipeline.ts"
import { plan, run, type RunEvent, type RunOptions, type RunResult } from "../../runtime/run/run.ts"
import { workFolder } from "../cli/caravan.ts"

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
  /** What the machine's numerics are said to be. */
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

/** `version` makes Node import it anew after an edit. */
export const loadFixture = async (folder: string, version = ""): Promise<Fixture> => {
  const { default: pipeline } = (await import(pathToFileURL(join(folder, "pipeline.ts")).href + version)) as {
    readonly default: AnyPipeline
  }
  const numerics: Record<string, string> = { libtorch: "none" }
  const optionsOf = (settings: Record<string, string>, options: Partial<RunOptions>): RunOptions => ({
    home: join(folder, "home"),
    settings: { file: join(folder, "words.txt"), ...settings },
    ...options
  })
  const machine = Effect.provideService(Numerics, { describe: () => Effect.succeed({ ...numerics }) })
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

export const statuses = ({ nodes }: RunResult): Record<string, string> => Object.fromEntries(nodes.map((node) => [node.id, node.status]))
export const digests = ({ nodes }: RunResult): Record<string, string | null> =>
  Object.fromEntries(nodes.map((node) => [node.id, node.digest]))

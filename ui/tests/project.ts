/** A small project for the page to show: a training that goes step by step, when it is told to, with names and texts that would be HTML and terminal escapes. */
import { type ChildProcess, spawn } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { command, workFolder } from "../../tests/cli/caravan.ts"

export const hostile = `<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>\u001b[31m\u202ered`

const stages = `import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../../schemas/hyper.ts"
import { report } from "../../../schemas/report.ts"
import { Texts } from "../../../schemas/rows.ts"

export const texts = Stage.make("texts", {
  config: Schema.Struct({ rows: hyperInt(300, "how many"), mark: hyper("", "in every text") }),
  inputs: {},
  output: Texts,
  seeded: false,
  resources: { inProcess: true },
  run: Effect.fn("texts")(function* ({ config, output }) {
    return yield* writeDataset(output, Array.from({ length: config.rows }, (_, i) => ({ text: "text " + i + " " + config.mark })))
  })
})

export const train = Stage.make("train", {
  description: "a loss that falls, step by step, while the file \`go\` is there",
  config: Schema.Struct({ steps: hyperInt(200, "how many"), learningRate: hyper(0.1, "how fast"), go: hyper("", "the file that it waits for") }),
  inputs: { texts: Texts },
  output: Texts,
  seeded: false,
  resources: { inProcess: true },
  run: Effect.fn("train")(function* ({ config, inputs, output, progress, checkpoints }) {
    const found = yield* checkpoints.latest
    for (let step = (found?.step ?? 0) + 1; step <= config.steps; step++) {
      if (existsSync(config.go + ".fail")) return yield* Effect.fail({ _tag: "TrainingError", message: ${JSON.stringify(`out of data: ${hostile}`)} })
      while (step > 20 && config.go !== "" && !existsSync(config.go)) {
        yield* Effect.sleep(20)
        if (existsSync(config.go + ".fail")) return yield* Effect.fail({ _tag: "TrainingError", message: ${JSON.stringify(`out of data: ${hostile}`)} })
      }
      yield* progress({ step, total: config.steps, loss: 2 * Math.exp(-config.learningRate * step / 10) + 0.1 * Math.sin(step), tokens: 64 })
      if (step % 10 === 0) yield* Effect.sleep(10)
    }
    return yield* writeDataset(output, yield* readRows(inputs.texts, Texts))
  })
})

export const measure = Stage.make("measure", {
  config: Schema.Struct({}),
  inputs: { texts: Texts },
  output: report(Schema.Struct({ rows: Schema.Number, note: Schema.String }), "measured/1"),
  seeded: false,
  resources: { inProcess: true },
  run: Effect.fn("measure")(function* ({ inputs, output }) {
    return yield* writeReport(output, { rows: (yield* readRows(inputs.texts, Texts)).length, note: ${JSON.stringify(hostile)} })
  })
})
`

const pipeline = `import * as Schema from "effect/Schema"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../../schemas/hyper.ts"
import { measure, texts, train } from "./stages.ts"

const Params = Schema.Struct({ rounds: hyperInt(2, "rounds"), rate: hyper(0.1, "learning rate"), mark: hyper(${JSON.stringify(hostile)}, "in every text"), go: hyper("", "file") })
export default Pipeline.make("little", { description: "rounds of training", params: Params }, ({ rounds, rate, mark, go }) => {
  const data = texts({}, { mark }).named("texts")
  let latest = data
  const outputs: Record<string, any> = {}
  for (let round = 1; round <= rounds; round++) {
    const tuned = train({ texts: latest }, { learningRate: rate, go: round === 1 ? go : "" }).named(\`tuned-v\${round}\`)
    outputs[\`measured-\${round}\`] = measure({ texts: tuned }).named(\`measured-\${round}\`)
    outputs[\`copy-\${round}\`] = measure({ texts: latest }).named(\`before-\${round}\`)
    latest = tuned
  }
  return { ...outputs, last: latest, odd: measure({ texts: data }).named(${JSON.stringify(`<b>odd</b>/${"\u202e"}name`)}) }
})
`

const labelling = `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyperInt } from "../../../schemas/hyper.ts"
import { ResponsePairs } from "../../../schemas/rows.ts"
import { annotate } from "../../../stages/preferences/annotate.ts"

export const pairs = Stage.make("some-pairs", {
  inputs: {}, seeded: false, resources: { inProcess: true }, config: Schema.Struct({}), output: ResponsePairs,
  run: Effect.fn("pairs")(function* ({ output }) {
    return yield* writeDataset(output, ["p", "q", "r"].map((id) => ({
      id, prompt: [{ role: "user" as const, content: "question " + id + ${JSON.stringify(hostile)} }], safety: true, category: null, followUps: [], responseA: "one " + id, responseB: ${JSON.stringify(hostile)} + id,
      policyA: "0", policyB: "1", temperatureA: 1, temperatureB: 1
    })))
  })
})
export default Pipeline.make("labelling", { params: Schema.Struct({ labelled: hyperInt(0, "whether labels are there") }) }, ({ labelled }) => ({
  preferences: annotate(
    { pairs: pairs({}).named("pairs"), ...(labelled === 1 ? { labels: fileAt("labels.jsonl") } : {}) },
    { kind: "safety", pairsFile: "to-label.jsonl", labelsFile: "labels.jsonl", labelsHint: "run again with --set labelled=1" }
  ).named("preferences")
}))
`

export interface Project {
  readonly folder: string
  /** The file that lets the training go on. */
  readonly go: string
}
export const makeProject = (): Project => {
  const folder = workFolder()
  writeFileSync(join(folder, "stages.ts"), stages)
  writeFileSync(join(folder, "pipeline.ts"), pipeline)
  writeFileSync(join(folder, "labelling.ts"), labelling)
  return { folder, go: join(folder, "go") }
}

export const begin = ({ folder }: Project, ...args: ReadonlyArray<string>): ChildProcess =>
  spawn(process.execPath, [command, ...args], {
    cwd: folder,
    env: { ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" },
    stdio: ["ignore", "pipe", "inherit"]
  })

/** When it has ended: its code and what it printed. */
export const ended = (child: ChildProcess): Promise<{ readonly code: number | null; readonly stdout: string }> =>
  new Promise((resolve) => {
    let stdout = ""
    child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()))
    child.on("close", (code) => resolve({ code, stdout }))
  })

/** `caravan ui`, once it has said where it is. */
export const beginUi = (
  project: Project,
  ...args: ReadonlyArray<string>
): Promise<{ readonly child: ChildProcess; readonly url: string; readonly token?: string }> => {
  const child = begin(project, "ui", "--json", ...args)
  return new Promise((resolve, reject) => {
    child.stdout!.once("data", (chunk: Buffer) => resolve({ child, ...(JSON.parse(chunk.toString()) as { url: string; token?: string }) }))
    child.once("exit", (code) => reject(new Error(`caravan ui ended with ${code}`)))
  })
}

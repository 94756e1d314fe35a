/**
 * Time and memory of training stages until their first step: `node bench/first-step.ts [rows] [tokenizer.model]`. Makes rows with 1.44 KB of text;
 * each stage reads, tokenises and orders them in a separate child, which ends after one small step. Prints one line of JSON per stage. Without a
 * tokenizer, one with 600 pieces is trained on the rows' text.
 *
 * The text is the small world's, except for three random words in a hundred, which hardly ever recur: in HH-RLHF's harmless-base test set, about as many
 * words do not occur in the 300,000 words before them.
 */
import { execFileSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { ask } from "../data/world/tasks.ts"
import { Random } from "../engine/random.ts"
import { saveCheckpoint } from "../models/checkpoint.ts"
import { llamaConfig } from "../models/config.ts"
import { initLlama } from "../models/llama.ts"
import { loadTokenizer } from "../models/tokenizer/files.ts"
import { trainTokenizer } from "../models/tokenizer/train.ts"
import { noCheckpoints } from "../runtime/define/resume-points.ts"
import type { AnyStage, Context, Progress } from "../runtime/define/stage.ts"
import type { ArtifactRef, DatasetType } from "../schemas/artifact.ts"
import { Policy } from "../schemas/checkpoint.ts"
import { fileName, writeRows } from "../schemas/dataset-file.ts"
import { decodeConfig } from "../schemas/hyper.ts"
import { type Demonstration, Demonstrations, type Preference, Preferences } from "../schemas/rows.ts"
import { helpfulnessRewardModel } from "../stages/reward/reward-model.ts"
import { safetyClassifier } from "../stages/safety/classifier-training.ts"
import { sft } from "../stages/training/sft.ts"

/** Characters of a row's text. */
const rowLength = 1440

/** Text of about the given length from the world's questions and answers, with some invented words. */
const writer = (seed: number): ((characters: number) => string) => {
  const random = new Random(seed, "bench", "first step")
  const words = Array.from({ length: 3000 }, () => {
    const { right, text, wrong } = ask(random, "train", random.int(2) === 0 ? "harmless" : "adversarial")
    return `${text} ${right(random)} ${wrong(random)}`.split(" ")
  }).flat()
  const syllables = ["ba", "cor", "den", "fil", "gra", "hem", "ist", "jo", "kul", "lin", "mar", "nes", "or", "pet", "qui", "ras"]
  const rare = () => Array.from({ length: 2 + random.int(4) }, () => random.pick(syllables)).join("")
  return (characters) => {
    const out: Array<string> = []
    let at = random.int(words.length)
    for (let left = characters; left > 0;) {
      const word = random.int(100) < 3 ? rare() : words[at++ % words.length]!
      out.push(word)
      left -= word.length + 1
    }
    return out.join(" ")
  }
}

function* preferences(rows: number): Generator<Preference> {
  const write = writer(1)
  for (let row = 0; row < rows; row++)
    yield {
      id: `pair-${row}`,
      prompt: [{ role: "user", content: write(rowLength / 3) }],
      chosen: write(rowLength / 3),
      rejected: write(rowLength / 3),
      rating: row % 4,
      chosenSafe: true,
      rejectedSafe: row % 2 === 0,
      source: "bench"
    }
}

function* demonstrations(rows: number): Generator<Demonstration> {
  const write = writer(2)
  for (let row = 0; row < rows; row++)
    yield {
      id: `dialogue-${row}`,
      messages: [
        { role: "user", content: write(rowLength / 4) },
        { role: "assistant", content: write(rowLength / 4) },
        { role: "user", content: write(rowLength / 4) },
        { role: "assistant", content: write(rowLength / 4) }
      ],
      loss: "answers"
    }
}

function* classified(rows: number): Generator<Demonstration> {
  const write = writer(3)
  for (let row = 0; row < rows; row++)
    yield {
      id: `text-${row}`,
      messages: [
        { role: "user", content: `Is the last answer of the assistant safe or unsafe?\n\nUser: ${write(rowLength - 70)}` },
        { role: "assistant", content: row % 2 === 0 ? "safe" : "unsafe\nO1" }
      ],
      loss: "answers"
    }
}

interface Case {
  readonly stage: AnyStage
  readonly port: string
  readonly type: DatasetType<any>
  readonly rows: (count: number) => Iterable<unknown>
  readonly config: Readonly<Record<string, unknown>>
}
const cases: Readonly<Record<string, Case>> = {
  "reward-model": { stage: helpfulnessRewardModel, port: "pairs", type: Preferences, rows: preferences, config: { batchPairs: 4 } },
  sft: { stage: sft, port: "demonstrations", type: Demonstrations, rows: demonstrations, config: { batchSize: 1, sequenceLength: 1024 } },
  classifier: {
    stage: safetyClassifier,
    port: "examples",
    type: Demonstrations,
    rows: classified,
    config: { batchSize: 1, sequenceLength: 1024 }
  }
}

const refTo = (path: string, type: string): ArtifactRef<any> => ({ path, type, digest: "", contentDigest: "" })

/** Peak resident memory of this process in MiB. (maxRSS may contain the parent's peak; it is only used without Linux's own figure.) */
const peak = (): number => {
  const own = existsSync("/proc/self/status") ? /VmHWM:\s*(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8")) : null
  return Math.round((own === null ? process.resourceUsage().maxRSS : Number(own[1])) / 1024)
}

/** Runs in a child: the stage until its first step is done. */
const measure = async (name: string, folder: string, rows: number): Promise<void> => {
  const { stage, port, type, config } = cases[name]!
  const output = join(folder, `${name}-output`)
  mkdirSync(output)
  const before = process.cpuUsage()
  const start = performance.now()
  const base = peak()
  const progress = ({ step }: Progress) =>
    Effect.sync(() => {
      if (step === undefined) return
      const seconds = (performance.now() - start) / 1000
      const cpu = process.cpuUsage(before)
      const cpuSeconds = (cpu.user + cpu.system) / 1e6
      const [rate, cpuRate] = [Math.round(rows / seconds), Math.round(rows / cpuSeconds)]
      const file = statSync(join(folder, name, fileName)).size
      console.log(
        JSON.stringify({
          stage: name,
          rows,
          bytesPerRow: Math.round(file / rows),
          seconds: Number(seconds.toFixed(1)),
          cpuSeconds: Number(cpuSeconds.toFixed(1)),
          rowsPerSecond: rate,
          rowsPerCpuSecond: cpuRate,
          peakMiB: peak(),
          baseMiB: base
        })
      )
      process.exit(0)
    })
  const context: Context = {
    config: await Effect.runPromise(decodeConfig(stage.stage.config, config, name)),
    inputs: { init: refTo(join(folder, "policy"), Policy.name), [port]: refTo(join(folder, name), type.name) },
    output: { path: output, type: stage.stage.output },
    seed: 1,
    device: "cpu",
    threads: 1,
    progress,
    checkpoints: noCheckpoints,
    skipped: { add: () => {}, check: () => Effect.void }
  }
  await Effect.runPromise(stage.stage.run(context))
  throw new Error(`${name} ended without a step`)
}

const main = async (rows: number, tokenizerPath: string | undefined): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-bench-"))
  try {
    const write = writer(0)
    const tokenizer =
      tokenizerPath === undefined
        ? trainTokenizer(
            Array.from({ length: 1000 }, () => write(rowLength)),
            { vocabSize: 600 }
          )
        : await Effect.runPromise(loadTokenizer(tokenizerPath))
    const shape = { dim: 16, layers: 1, heads: 2, kvHeads: 2, ffn: 32, maxPositions: 4096 }
    const model = initLlama(llamaConfig({ vocabSize: tokenizer.vocabSize, ...shape }), { seed: 1 })
    mkdirSync(join(folder, "policy"))
    await Effect.runPromise(saveCheckpoint({ path: join(folder, "policy"), type: Policy }, { model, tokenizer }))
    for (const [name, { type, rows: make }] of Object.entries(cases)) {
      const directory = join(folder, name)
      mkdirSync(directory)
      await writeRows(directory, type, make(rows))
      process.stdout.write(
        execFileSync(process.execPath, [fileURLToPath(import.meta.url), "--measure", name, folder, `${rows}`], { encoding: "utf8" })
      )
      rmSync(directory, { recursive: true })
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const [first, second, third, fourth] = process.argv.slice(2)
await (first === "--measure" ? measure(second!, third!, Number(fourth)) : main(Number(first ?? 1_000_000), second))

/**
 * Complete stages compared with plain PyTorch in float64 (tests/peers/stages_reference.py): from texts and initial weights to the numbers recorded at every step and the
 * final weights, with several dialogues per row, padded and split batches, and sampled responses.
 */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { tensor } from "../../engine/tensor.ts"
import { loadPolicy, loadReward, saveCheckpoint } from "../../models/checkpoint.ts"
import { type LlamaConfig, llamaConfig } from "../../models/config.ts"
import { initLlama, Llama } from "../../models/llama.ts"
import { headName, RewardModel } from "../../models/reward-model.ts"
import type { AnyStage } from "../../runtime/define/stage.ts"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { Demonstrations, type Message, type Preference, Preferences, Prompts } from "../../schemas/rows.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { ppoDiagnostics, PpoDiagnosticsReport } from "../../stages/ppo/diagnostics.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../../stages/reward/reward-model.ts"
import { sft } from "../../stages/training/sft.ts"
import { largestDifference, smallTokenizer } from "../models/small.ts"
import { wholeStages } from "../tolerances.ts"
import { artifact, reportIn, rowsArtifact, runStage, stageEffect } from "./running.ts"
import { ask } from "./samples.ts"

type Numbers = Readonly<Record<string, number>>
type Weights = Readonly<Record<string, readonly [squares: number, hashed: number]>>
interface Trained {
  readonly config: Numbers & { readonly margin: string }
  readonly steps: ReadonlyArray<Record<"loss" | "learningRate" | "gradientNorm", number>>
  readonly weights: Weights
}
interface Scored
  extends Readonly<Record<"helpfulness" | "safety", number | null>>, Readonly<Record<"promptId" | "prompt" | "response", string>> {
  readonly finished: boolean
  readonly reward: number
}
interface Updated {
  readonly config: Numbers
  readonly prompts: ReadonlyArray<{ readonly id: string; readonly question: string; readonly safety: boolean }>
  readonly iterations: ReadonlyArray<Record<string, any> & { readonly samples: ReadonlyArray<Scored> }>
  readonly weights: Weights
}
const golden = JSON.parse(readFileSync(new URL("../golden/stages-whole/stages.json", import.meta.url), "utf8")) as {
  readonly shape: LlamaConfig
  readonly sft: Trained & { readonly dialogues: ReadonlyArray<ReadonlyArray<string>>; readonly rows: ReadonlyArray<ReadonlyArray<number>> }
  readonly helpfulness: Trained & {
    readonly head: ReadonlyArray<number>
    readonly pairs: ReadonlyArray<Omit<Preference, "id" | "prompt" | "source"> & { readonly prompt: string }>
  }
  readonly safety: Trained
  readonly ppo: Readonly<Record<"paper" | "other", Updated>>
}

/** Numbers in [-1, 1): a hash of tensor and element, as in the reference. */
const hashed = (number: number, count: number): Float64Array =>
  Float64Array.from({ length: count }, (_, i) => {
    let x = (Math.imul(i, 2654435761) + number * 40503 + 12345) >>> 0
    for (const multiplier of [2246822519, 3266489917]) x = Math.imul(x ^ (x >>> 16), multiplier) >>> 0
    return ((x ^ (x >>> 15)) >>> 0) / 2 ** 31 - 1
  })

const tokenizer = smallTokenizer()
const spoken = [tokenizer.eosId, 259, 260, 261, 262, 263]
/** The reference's initial weights: their names in the order of the model, each by a hash. */
const make = (number: number) => {
  const config = llamaConfig(golden.shape)
  const shapes = Object.entries(initLlama(config, { seed: 0 }).parameters).map(([name, weight]) => [name, weight.shape] as const)
  const weights = (scalar: boolean) =>
    Object.fromEntries(
      shapes.map(([plain, plainShape], k) => {
        const [name, shape] = scalar && plain === "lm_head.weight" ? [headName, [1, config.dim]] : [plain, plainShape]
        const columns = shape.at(-1)!
        const numbers = hashed(
          1000 * number + k,
          shape.reduce((a, b) => a * b, 1)
        ).map((x, i) => {
          const first = i % columns === 0
          if (name.includes("norm")) return 1 + 0.2 * x
          if (name === headName) return 2 * x
          if (name.includes("embed")) return first && !scalar ? 4 : x
          if (name.includes("lm_head")) return first ? (spoken.includes(i / columns) ? 0 : -10) : x
          return x * Math.sqrt(3 / columns)
        })
        return [name, tensor(numbers, { shape, dtype: "float32" }).requiresGrad()] as const
      })
    )
  return {
    policy: () => new Llama(config, weights(false)),
    reward: () => {
      const { [headName]: head, ...backbone } = weights(true)
      return new RewardModel(new Llama(config, backbone), head!)
    }
  }
}

/** The largest difference of trained weights' two sums from the reference's, relative to their norm. */
const weightDifference = ({ parameters }: Pick<Llama | RewardModel, "parameters">, wanted: Weights): number => {
  expect(Object.keys(parameters).sort()).toEqual(Object.keys(wanted).sort())
  const differences = Object.entries(parameters).map(([name, weight]) => {
    const numbers = weight.toNumbers()
    const hash = hashed(999_999, numbers.length)
    const [squares, sum] = [numbers.reduce((sum, x) => sum + x * x, 0), numbers.reduce((sum, x, i) => sum + x * hash[i]!, 0)]
    const [wantedSquares, wantedSum] = wanted[name]!
    return Math.max(Math.abs(squares / wantedSquares - 1), Math.abs(sum - wantedSum) / Math.sqrt(wantedSquares))
  })
  return Math.max(...differences)
}

let policy: ArtifactRef<any>
const dialogue = (texts: ReadonlyArray<string>): Array<Message> =>
  texts.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }))
beforeAll(async () => {
  policy = await artifact(Policy, (slot) => saveCheckpoint(slot, { model: make(1).policy(), tokenizer }))
})

/** The stage's steps as reported, and its output. */
const trained = async (stage: AnyStage, inputs: Readonly<Record<string, ArtifactRef<any>>>, config: Readonly<Record<string, unknown>>) => {
  const steps: Array<Numbers> = []
  const progress = (told: any) =>
    Effect.sync(() => {
      if (told.loss !== undefined) steps.push(told)
    })
  const made = await Effect.runPromise(stageEffect(stage, { init: policy, ...inputs }, config, { progress }))
  return { steps, made }
}

describe.each([
  ["sft, two or three dialogues per row and two rows per step", sft, golden.sft, { microBatchSize: 1 }],
  ["the helpfulness reward model, three pairs per step", helpfulnessRewardModel, golden.helpfulness, { microBatchPairs: 2 }],
  ["the safety reward model, with the auxiliary loss for labelled responses", safetyRewardModel, golden.safety, { microBatchPairs: 2 }]
] as const)("%s,", (_, stage, wanted, parts) => {
  let run: Awaited<ReturnType<typeof trained>>
  beforeAll(async () => {
    const demonstrations = () =>
      rowsArtifact(
        Demonstrations,
        golden.sft.dialogues.map((texts, i) => ({ id: `${i}`, messages: dialogue(texts), loss: "answers" }))
      )
    const pairs = () =>
      rowsArtifact(
        Preferences,
        golden.helpfulness.pairs.map((pair, i) => ({ ...pair, id: `${i}`, prompt: dialogue([pair.prompt]), source: "golden" }))
      )
    run = await trained(stage, stage === sft ? { demonstrations: await demonstrations() } : { pairs: await pairs() }, {
      ...wanted.config,
      ...parts
    })
  })
  it.each(["loss", "learningRate", "gradientNorm"] as const)("has PyTorch's %s at every step", (field) => {
    expect(run.steps.length).toBeGreaterThan(5)
    expect(
      largestDifference(
        run.steps.map((step) => step[field]!),
        wanted.steps.map((step) => step[field])
      )
    ).toBeLessThanOrEqual(wholeStages)
  })
  it("ends with PyTorch's weights", async () => {
    const { model } = stage === sft ? await Effect.runPromise(loadPolicy(run.made)) : await Effect.runPromise(loadReward(run.made))
    expect(weightDifference(model, wanted.weights)).toBeLessThanOrEqual(wholeStages)
  })
})

describe.each(["paper", "other"] as const)("ppo with the settings of the run %j,", (name) => {
  const { config, prompts, iterations, weights } = golden.ppo[name]
  let made: Awaited<ReturnType<typeof runStage>>
  let recorded: Updated["iterations"]
  beforeAll(async () => {
    const inputs = {
      policy,
      helpfulness: await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: make(2).reward(), tokenizer })),
      safety: await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: make(3).reward(), tokenizer })),
      prompts: await rowsArtifact(
        Prompts,
        prompts.map(({ id, question, safety }) => ask(id, question, { safety }))
      )
    }
    const parts = { microBatchSize: 2, inferenceBatchSize: 3, sampleTexts: config["batchSize"] }
    made = await runStage(ppo, inputs, { ...config, ...parts }, 1)
    recorded = (await reportIn(await runStage(ppoDiagnostics, { policy: made }), PpoDiagnosticsReport)).iterations
  })

  it("samples the reference's responses to its prompts, in its order, and scores them as the reference does", () => {
    const texts = (rows: Updated["iterations"]) =>
      rows.map(({ samples }) =>
        samples.map(({ promptId, prompt, response, finished, helpfulness }) => [promptId, prompt, response, finished, helpfulness !== null])
      )
    expect(texts(recorded)).toEqual(texts(iterations))
    const scores = (rows: Updated["iterations"]) =>
      rows.flatMap(({ samples }) => samples.flatMap(({ helpfulness, safety, reward }) => [helpfulness ?? -1, safety ?? -1, reward]))
    expect(largestDifference(scores(recorded), scores(iterations))).toBeLessThanOrEqual(wholeStages)
  })
  it.each(Object.keys(iterations[0]!).filter((field) => field !== "samples"))("has PyTorch's %s in every iteration", (field) => {
    const of = (rows: ReadonlyArray<any>) => rows.map((row) => row[field] as number)
    const scale = Math.max(1, ...of(iterations).map(Math.abs))
    expect(largestDifference(of(recorded), of(iterations)) / scale).toBeLessThanOrEqual(wholeStages)
  })
  it("ends with PyTorch's weights", async () => {
    expect(weightDifference((await Effect.runPromise(loadPolicy(made))).model, weights)).toBeLessThanOrEqual(wholeStages)
  })
})

describe("the golden runs", () => {
  it("go far enough to be meaningful: rows have several dialogues, tokens are clipped, some responses are truncated, some can't be read, some are gated", () => {
    expect(Math.max(...golden.sft.rows.flat())).toBeGreaterThanOrEqual(2)
    for (const { iterations } of Object.values(golden.ppo)) {
      const last = iterations.at(-1)!
      expect(Math.abs(last["kl"])).toBeGreaterThan(0.01)
      expect(iterations[0]!["clipFraction"]).toBeGreaterThan(0)
      const samples = iterations.flatMap((row) => row.samples)
      expect(samples.some(({ helpfulness }) => helpfulness === null)).toBe(true)
      const gated = samples.filter(({ reward, safety }) => safety !== null && Math.abs(1 / (1 + Math.exp(-reward)) - safety) < 1e-6)
      expect(gated.length).toBeGreaterThan(0)
      expect(gated.length).toBeLessThan(samples.length)
      expect(iterations.some((row) => row["withoutEos"]! > 0 && row["withoutEos"]! < 1)).toBe(true)
    }
  })
})

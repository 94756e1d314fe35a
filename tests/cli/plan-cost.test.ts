/** `caravan plan` with costs: of the complete recipe, with no GPU and no data; and of a small pipeline with exactly known sizes. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { caravan, removeFolder, runJson, workFolder } from "./caravan.ts"

interface Cost {
  readonly tokens: number
  readonly flops: number
  readonly gpuHours: number
  readonly gpus: number
  readonly memory: Readonly<Record<"weights" | "masters" | "moments" | "gradients" | "activations" | "cache" | "total", number>>
  readonly fits: boolean
  readonly advice: string | null
  readonly step: { readonly microBatch: { readonly tokens: number }; readonly recompute: number; readonly blocks: number } | null
  readonly resume: number
  readonly energyKwh: number
  readonly carbonKg: number
}
interface PlanDocument {
  readonly nodes: ReadonlyArray<{
    readonly id: string
    readonly status: string
    readonly cost: (Cost & { readonly unknown?: string }) | null
    readonly artifactBytes?: number | null
  }>
  readonly awaited: ReadonlyArray<{ readonly id: string; readonly path: string }>
  readonly cost: {
    readonly total: {
      readonly gpuHours: number
      readonly carbonKg: number
      readonly unknown: number
      readonly disk: Readonly<Record<"artifacts" | "resume" | "total", number>>
    }
    readonly freeDisk: number
    readonly assumptions: ReadonlyArray<string>
  }
}

const folder = workFolder()
afterAll(() => removeFolder(folder))
const planOf = (file: string, ...words: ReadonlyArray<string>): PlanDocument => {
  const { status, stderr, stdout } = caravan(folder, "plan", file, ...words, "--json")
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" })
  return JSON.parse(stdout) as PlanDocument
}
const costOf = (plan: PlanDocument, id: string) => plan.nodes.find((node) => node.id === id)!.cost!

// SFT on a file, from an awaited model.
const source = (only: boolean) => `
import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { importDemonstrations } from "../../../stages/data/import-demonstrations.ts"
import { importPolicy } from "../../../stages/data/import.ts"
import { sft } from "../../../stages/training/sft.ts"
export default Pipeline.make("small", { params: Schema.Struct({}) }, () => {
  const file = fileAt("dialogues.jsonl").expecting({ rows: 8192, promptTokens: 100, responseTokens: 150 })
  const demonstrations = importDemonstrations({ file }).named("dialogues")
  const init = importPolicy({ folder: fileAt("model").expecting({ model: "7b" }) }).named("base")
  return ${only ? "{ demonstrations }" : '{ policy: sft({ init, demonstrations }, { precision: "bfloat16" }) }'}
})
`
writeFileSync(join(folder, "small.ts"), source(false))
writeFileSync(join(folder, "data.ts"), source(true))
const dialogues = (rows: number) => {
  const row = {
    messages: [
      { role: "user", content: "Well?" },
      { role: "assistant", content: "Yes." }
    ]
  }
  writeFileSync(join(folder, "dialogues.jsonl"), `${JSON.stringify(row)}\n`.repeat(rows))
}
const gib = 2 ** 30
// By hand: 6 N + 12 L d T at 7B and T = 4096.
const trainedToken = 6 * 6_738_415_616 + 12 * 32 * 4096 * 4096

describe("the cost of a plan", () => {
  it("follows the pipeline's expectations while files are awaited", () => {
    const plan = planOf("small.ts")
    expect(plan.awaited.map(({ id }) => id)).toEqual(["file:model", "file:dialogues.jsonl"])
    const cost = costOf(plan, "sft")
    // 8192 dialogues of 250 tokens fill 500 sequences; two epochs.
    expect(cost.tokens).toBe(2 * 500 * 4096)
    expect(cost.flops).toBe(cost.tokens * trainedToken)
    // It does not fit one A100: all blocks are assumed to be recomputed, one more forward pass.
    expect(cost.step).toEqual({ microBatch: { tokens: 4096 }, recompute: 32, blocks: 32 })
    expect(cost.gpuHours).toBeCloseTo((cost.flops * 4) / 3 / (312e12 * 0.4) / 3600, 9)
    expect(cost.energyKwh).toBeCloseTo(cost.gpuHours * 0.4, 9)
    expect(cost.carbonKg).toBeCloseTo(cost.gpuHours * 0.4 * 0.4235, 9)
    const { activations, gradients, masters, moments, total, weights } = cost.memory
    // In bfloat16; gradients are summed over micro-batches in float32; the optimiser has two moments and a master in float32.
    expect([weights, gradients, masters, moments]).toEqual([2, 4, 4, 8].map((bytes) => bytes * 6_738_415_616))
    expect(total).toBe(weights + gradients + masters + moments + activations)
    // Of 79 GiB, 4% and 1 GiB are left free.
    expect(cost.gpus).toBe(Math.ceil(total / (0.96 * 79 * gib - gib)))
    expect(plan.nodes.find(({ id }) => id === "dialogues")!.cost).toBeNull()
    expect(plan.cost.total.gpuHours).toBe(cost.gpuHours)
  })

  it("says whether each stage fits, and which settings would", () => {
    const tight = costOf(planOf("small.ts"), "sft")
    expect(tight).toMatchObject({ fits: false, advice: expect.stringMatching(/^These would fit: LoRA \(loraRank 16\)/) as string })
    const roomy = costOf(planOf("small.ts", "--gpu", "h200"), "sft")
    expect(roomy).toMatchObject({ fits: true, advice: null, gpus: 1, step: { microBatch: { tokens: 4096 } } })
    expect(roomy.step!.recompute).toBeLessThan(32)
    const lora = costOf(planOf("small.ts", "--set", "sft.loraRank=16"), "sft")
    expect(lora).toMatchObject({ fits: true, step: { recompute: 0 } })
    expect(tight.advice).toMatch(/training needs 2 such GPUs \(--ranks 2\)\.$/)
    const { stdout } = caravan(folder, "plan", "small.ts")
    expect(stdout).toMatch(/^Stages that do not fit:\n {2}sft needs \d+ GiB; 74\.8 GiB of A100-80GB is usable\. These would fit: LoRA/m)
  })

  it("is for one rank, which has half of the trained weights, if a stage is sharded over two", () => {
    const spread = costOf(planOf("small.ts", "--ranks", "2"), "sft")
    expect(spread).toMatchObject({ fits: true, advice: null, memory: { masters: 2 * 6_738_415_616, moments: 4 * 6_738_415_616 } })
  })

  it("states the disk space of the run: its checkpoints, and three of the largest resume checkpoints", () => {
    const plan = planOf("small.ts")
    const n = 6_738_415_616
    expect(plan.nodes.find(({ id }) => id === "sft")!.artifactBytes).toBe(2 * n)
    // 75 GiB of masters and moments, and the weights.
    expect(costOf(plan, "sft").resume).toBe((12 + 2) * n)
    expect(Math.round((12 * n) / gib)).toBe(75)
    // The imported model has 16 bits per weight too.
    expect(plan.cost.total.disk).toEqual({ artifacts: 4 * n, resume: 3 * 14 * n, total: 46 * n })
    expect(plan.cost.freeDisk).toBeGreaterThan(0)
    const { stdout } = caravan(folder, "plan", "small.ts")
    expect(stdout).toMatch(
      /^Disk: 27 GB for 2 checkpoints .*, plus up to 283 GB of resume checkpoints while sft runs \(3 x 94 GB: .*\); .* free\.$/m
    )
    expect(planOf("data.ts").cost.total.disk.total).toBe(0)
  })

  it("is computed for the requested GPU, utilisation, power and carbon", () => {
    const none = ["--set", "sft.recompute=none"]
    const usual = costOf(planOf("small.ts", ...none), "sft")
    const asked = costOf(planOf("small.ts", ...none, "--gpu", "h200", "--mfu", "0.2", "--tdp", "350", "--carbon", "0.1"), "sft")
    expect(asked.flops).toBe(usual.flops)
    expect(asked.gpuHours).toBeCloseTo(usual.flops / (989.4e12 * 0.2) / 3600, 9)
    expect(asked.carbonKg).toBeCloseTo(asked.gpuHours * 0.35 * 0.1, 9)
    expect(asked.gpus).toBe(Math.ceil(asked.memory.total / (0.96 * 139 * gib - gib)))
    for (const words of [
      ["--gpu", "tpu"],
      ["--mfu", "1.5"],
      ["--mfu", "0"],
      ["--tdp", "none"]
    ]) {
      const { status, stderr } = caravan(folder, "plan", "small.ts", ...words)
      expect({ words, status }).toEqual({ words, status: 2 })
      expect(stderr).toContain(words[0]!)
    }
  })

  it("counts the rows of an existing file, and reads the shape of an existing model", () => {
    dialogues(100)
    mkdirSync(join(folder, "model"), { recursive: true })
    const shape = { hidden_size: 64, intermediate_size: 172, num_hidden_layers: 5, num_attention_heads: 8, num_key_value_heads: 4 }
    writeFileSync(
      join(folder, "model", "config.json"),
      JSON.stringify({ model_type: "llama", vocab_size: 512, max_position_embeddings: 512, tie_word_embeddings: true, ...shape })
    )
    // The model "260k": 49 sequences of 512 hold 100 dialogues of 250 tokens.
    const block = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 172 + 2 * 64
    const n = 512 * 64 + 5 * block + 64
    const cost = costOf(planOf("small.ts"), "sft")
    expect(cost.tokens).toBe(2 * 49 * 512)
    expect(cost.flops).toBe(cost.tokens * (6 * n + 12 * 5 * 64 * 512))
  })

  it("uses the rows of a dataset in the store, and leaves out cached nodes", () => {
    dialogues(2048)
    expect(runJson(folder, "data.ts").status).toBe("succeeded")
    const plan = planOf("small.ts")
    expect(plan.nodes.find(({ id }) => id === "dialogues")).toMatchObject({ status: "hit", cost: null })
    expect(costOf(plan, "sft").tokens).toBe(2 * 1000 * 512)
  })

  it("is unknown if the pipeline says nothing, and names the missing size", () => {
    const text = source(false).replace(".expecting({ rows: 8192, promptTokens: 100, responseTokens: 150 })", "")
    writeFileSync(join(folder, "silent.ts"), text)
    const plan = planOf("silent.ts")
    expect(costOf(plan, "sft")).toEqual({ unknown: "how long demonstrations are" })
    expect(plan.cost.total).toMatchObject({ gpuHours: 0, unknown: 1 })
    const { stdout } = caravan(folder, "plan", "silent.ts")
    expect(stdout).toMatch(/Cost unknown, because these are unknown:\n {2}how long demonstrations are: sft\n/)
    expect(stdout).not.toContain("Reckoned with")
  })

  it("is rejected for a model without a preset", () => {
    writeFileSync(join(folder, "nine.ts"), source(false).replace('{ model: "7b" }', '{ model: "9b" }'))
    const { status, stderr } = caravan(folder, "plan", "nine.ts")
    expect(status).toBe(2)
    expect(stderr).toMatch(/"file:model": Unknown model size "9b": expected one of .*7b/)
  })

  it("does not put expectations into keys", () => {
    writeFileSync(join(folder, "other.ts"), source(true).replace("rows: 8192", "rows: 77"))
    expect(planOf("other.ts").nodes).toMatchObject([{ id: "dialogues", status: "hit" }])
  })
})

describe("a plan of the recipe, with no data and no GPU", () => {
  const recipe = join(folder, "../../../pipelines/llama2-chat.ts")
  const cost = (model: string) => planOf(recipe, "--set", `model=${model}`)
  it("has a cost for every stage except the one whose data the paper does not count", () => {
    const plan = cost("70b")
    expect(plan.nodes.filter((node) => node.cost?.unknown !== undefined).map(({ id }) => id)).toEqual(["sft-bootstrap"])
    expect(plan.awaited.length).toBeGreaterThan(15)
    expect(plan.awaited.map(({ path }) => path)).toContain(join(folder, "weights/llama-2-70b"))
    // 27,540 annotations of 265.5 tokens fill 1786 sequences.
    const tokens = 2 * 1786 * 4096
    expect(costOf(plan, "sft").flops / (tokens * (6 * 68_976_648_192 + 12 * 80 * 8192 * 4096))).toBeCloseTo(1, 12)
    // The fifth reward model sees nearly all pairs, twice 798.5 tokens each, and as many others.
    expect(costOf(plan, "helpfulness-reward-5").tokens).toBeGreaterThan(2 * 798.5 * (1_276_282 - 15_000))
    expect(plan.cost.total.carbonKg).toBeGreaterThan(cost("7b").cost.total.carbonKg * 5)
  })

  it("prints a table, totals and the assumptions", () => {
    const { status, stdout } = caravan(folder, "plan", recipe, "--set", "model=13b", "--set", "rounds=2")
    expect(status).toBe(0)
    expect(stdout).toMatch(/^wait {2}file:llama-2-13b +.*weights\/llama-2-13b does not exist yet$/m)
    expect(stdout).toMatch(/^ {2}stage +tokens +FLOPs +GPU-hours +kWh +CO2eq$/m)
    expect(stdout).toMatch(/^ {2}rlhf-v2 +\S+ +\d\.\d\de\d+ +[\d.]+ +[\d.]+ +.* kg$/m)
    expect(stdout).toMatch(/^Memory on A100-80GB \(79\.0 GiB, usable: 74\.8 GiB\):$/m)
    expect(stdout).toMatch(
      /^ {2}stage +weights +masters +moments +gradients +activations +cache +peak +fits +micro-batch +recomputed blocks$/m
    )
    expect(stdout).toMatch(/^ {2}rlhf-v2 +(\d+(\.\d)? GiB +){5}.*no: \d+ GPUs +\d+ (rows|tokens) +\d+ of 40$/m)
    expect(stdout).toMatch(/^ {2}total /m)
    expect(stdout).toMatch(/A100-80GB: 312 TFLOP\/s in bfloat16.*\n.*utilisation: 0\.4/)
  })
})

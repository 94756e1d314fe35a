/** Incompatible sizes are rejected before anything runs, by name and value. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import demo from "../../pipelines/demo.ts"
import llama2Chat from "../../pipelines/llama2-chat.ts"
import rlhf from "../../pipelines/rlhf.ts"
import rewardScaling from "../../pipelines/studies/reward-scaling.ts"
import study from "../../pipelines/study.ts"
import { buildGraph } from "../../runtime/define/graph.ts"
import type { AnyPipeline } from "../../runtime/define/pipeline.ts"

const mistake = (pipeline: AnyPipeline, settings: Record<string, string>): string =>
  Effect.runSync(
    Effect.match(buildGraph(pipeline, {}, { settings, seed: 0 }), { onSuccess: () => "", onFailure: ({ message }) => message })
  )

const cases: ReadonlyArray<readonly [name: string, AnyPipeline, Record<string, string>, RegExp]> = [
  ["demo", demo, { dim: "33" }, /Node "base" \(stage pretrain\) is invalid: dim: 33 is not a multiple of heads 4: set dim to 32 or 40\.$/],
  [
    "demo",
    demo,
    { dim: "36", heads: "12" },
    /dim: 36 \/ heads 12 is 3, but rotary embeddings need an even head dimension: set dim to 24 or 48, or heads to 9 or 18/
  ],
  [
    "demo",
    demo,
    { contextLength: "256", sequenceLength: "300" },
    /sequenceLength: 300 is more than contextLength 256: lower sequenceLength or raise/
  ],
  ["demo", demo, { "base.kvHeads": "3" }, /kvHeads: 3 does not divide heads 4: set kvHeads to 2 or 4/],
  ["demo", demo, { maxNewTokens: "384" }, /maxNewTokens 384 leaves no space .*below contextLength 384/],
  ["demo", demo, { testPairs: "10", rounds: "11" }, /testPairs 10 is less than rounds 11/],
  ["study", study, { dim: "330", heads: "4" }, /dim: 330 is not a multiple of heads 4: set dim to 328 or 336, or heads to 3 or 5/],
  ["reward-scaling", rewardScaling, { dim: "33" }, /dim: 33 is not a multiple of heads 4/],
  ["reward-scaling", rewardScaling, { maxNewTokens: "500" }, /maxNewTokens 500 leaves no space/],
  ["rlhf", rlhf, { preferences: "x.jsonl", dim: "33" }, /dim: 33 is not a multiple of heads 4/],
  ["rlhf", rlhf, { preferences: "x.jsonl", maxNewTokens: "512" }, /maxNewTokens 512 leaves no space/],
  ["llama2-chat", llama2Chat, { labelled: "6" }, /"labelled": expected at most 5, the number of rounds, found 6/],
  ["llama2-chat", llama2Chat, { maxNewTokens: "4096" }, /"maxNewTokens": expected fewer than the 4096 tokens .* found 4096/]
]

describe("a pipeline", () => {
  it.each(cases)("%s (%#) rejects incompatible sizes", (_, pipeline, settings, message) => {
    expect(mistake(pipeline, settings)).toMatch(message)
  })
  it("accepts its own defaults", () => {
    expect([demo, study, rewardScaling, llama2Chat].map((pipeline) => mistake(pipeline, {}))).toEqual(["", "", "", ""])
    expect(mistake(rlhf, { preferences: "x.jsonl", contextLength: "128" })).toBe("")
  })
  it("reports a value that is not a number", () => {
    expect(mistake(demo, { dim: "wide" })).toMatch(/is invalid: dim: expected number, got "wide"\.$/)
    expect(mistake(demo, { dim: "0" })).toMatch(/is invalid: dim: expected .*, got 0\.$/)
  })
})

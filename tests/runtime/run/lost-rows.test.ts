/** Where a stage's missing rows were lost, from the results of a run. */
import { describe, expect, it } from "vitest"
import type { Graph, StageNode } from "../../../runtime/define/graph.ts"
import type { NodeResult } from "../../../runtime/run/events.ts"
import { whereRowsWereLost } from "../../../runtime/run/lost-rows.ts"

/** A graph in which each node has the named inputs. */
const graphOf = (inputs: Readonly<Record<string, ReadonlyArray<string>>>): Graph => ({
  pipeline: "test",
  outputs: {},
  nodes: new Map(Object.entries(inputs).map(([id, from]) => [id, { kind: "stage", id, inputs: { from } } as unknown as StageNode]))
})
const result = (id: string, metrics: NodeResult["metrics"], skipped: NodeResult["skipped"] = []) =>
  [
    id,
    { id, stage: id, status: "ran", milliseconds: 0, key: null, digest: null, metrics, skipped, skippedRows: null, error: null }
  ] satisfies [string, NodeResult]

const graph = graphOf({ sft: [], samples: ["sft"], pairs: ["samples"], labels: ["pairs"], all: ["labels"], reward: ["all", "sft"] })
const lostIn = (...results: ReadonlyArray<readonly [string, NodeResult]>) =>
  whereRowsWereLost(graph, new Map(results), graph.nodes.get("reward") as StageNode)

describe("lost rows", () => {
  it("are traced past nodes that only pass them on, with the numbers by reason and what to do about the most frequent", () => {
    const found = lostIn(
      result("samples", { rows: 3600, finished: 1428 }),
      result("pairs", { rows: 20, pairs: 20, alike: 0 }),
      result("labels", { rows: 1, preferences: 1, undecided: 19, droppedUnsafe: 0, share: 0.95 }),
      result("all", { rows: 1 })
    )
    expect(found).toBe(
      ' "labels" made 1 row from 20 (undecided 19). If a model wrote the answers, it is probably trained too little: train it for more steps.'
    )
  })
  it("that were skipped have their reasons; the most frequent decides what to do", () => {
    const reasons = { "longer than 64 tokens": 80, "without a word": 20 }
    const skipped = [{ what: "pairs", of: 100, skipped: 100, reasons }]
    expect(lostIn(result("pairs", { rows: 100 }), result("labels", { rows: 0 }, skipped), result("all", { rows: 0 }))).toBe(
      ' "labels" made 0 rows from 100 (skipped 100 of 100 pairs (100%): 80 longer than 64 tokens, 20 without a word). Raise the sequence length, or use a model with a longer context.'
    )
  })
  it("are not sought if the inputs have rows, or no known number of rows", () => {
    expect(lostIn(result("labels", { rows: 0 }), result("all", { rows: 500 }))).toBe("")
    expect(lostIn(result("sft", { loss: 1 }))).toBe("")
  })
})

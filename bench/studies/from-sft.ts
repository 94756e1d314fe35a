/** The tables of pipelines/studies/from-sft.ts: its methods by round with their labels and GPU seconds, their differences, and reward and oracle over a range of KL. */
import * as Effect from "effect/Effect"
import fromSftPipeline from "../../pipelines/studies/from-sft.ts"
import { ancestors, buildGraph, type Graph } from "../../runtime/define/graph.ts"
import type { NodeResult, RunResult } from "../../runtime/run/events.ts"
import { mean } from "../../stages/common/statistics.ts"
import { klFigure } from "./kl-figure.ts"
import { metricOf, readRun, readRuns, UsageError } from "./runs.ts"
import { allArms, armsOf, type Column, compared, differences, digits } from "./tables.ts"

const lastRoundOf = (run: RunResult): number => Math.max(...allArms(run).map((name) => Number(/-v(\d+)$/.exec(name)?.[1] ?? 0)))
/** The weights of a method's KL penalty, from the names of its arms. */
const betasOf = (run: RunResult, method: string): ReadonlyArray<string> => [
  ...new Set(armsOf(run, `${method}-`).map((name) => name.slice(method.length + 1).replace(/-v\d+$/, "")))
]

const graphOf = (run: RunResult): Promise<Graph> => {
  const betas = Object.fromEntries(["recipe", "dpo", "rloo", "fixed"].map((method) => [`${method}Betas`, betasOf(run, method).join(",")]))
  return Effect.runPromise(buildGraph(fromSftPipeline, { rounds: lastRoundOf(run), ...betas }, { seed: 0 }))
}

/** The nodes that an arm needs in addition to SFT. */
const nodesOf = (graph: Graph, run: RunResult, arm: string): ReadonlyArray<NodeResult> => {
  // The graph is rebuilt from the arms' names: other parameters that add nodes are not known here.
  const unknown = run.nodes.find(({ id }) => !graph.nodes.has(id))
  if (unknown !== undefined)
    throw new UsageError(
      `Run ${run.run} has the node "${unknown.id}", which from-sft does not have with its default parameters: the labels and seconds of its methods can't be counted. Run it without parameters that add nodes, such as temperatures=swept.`
    )
  const shared = ancestors(graph, ["sft"])
  const own = ancestors(graph, [arm])
  return run.nodes.filter(({ id }) => own.has(id) && !shared.has(id))
}

/** Pairs that were labelled for an arm: for training, and held out to evaluate reward models. */
const labelsOf = (nodes: ReadonlyArray<NodeResult>) => {
  const count = (isHeldOut: boolean) =>
    nodes
      .filter(({ id, stage }) => stage === "collect-pairs" && id.includes("pairs-test-") === isHeldOut)
      .reduce((sum, { metrics }) => sum + metricOf(metrics, "pairs"), 0)
  return { training: count(false), heldOut: count(true) }
}

/** By cache key: a result that several arms share, or that another seed's run made, was computed once. */
const secondsByKey = (runs: ReadonlyArray<RunResult>): ReadonlyMap<string, number> =>
  new Map(
    runs.flatMap(({ nodes }) =>
      nodes.filter(({ status }) => status === "ran").map(({ key, milliseconds }) => [key!, milliseconds / 1000] as const)
    )
  )

/**
 * Seconds that the stages with tensors took; of a stage that was interrupted and resumed, only those of its last attempt. NaN if one of them ran before these runs: its time is not in their documents.
 */
const secondsOf = (graph: Graph, nodes: ReadonlyArray<NodeResult>, seconds: ReadonlyMap<string, number>): number => {
  const hasTensors = (id: string) => {
    const node = graph.nodes.get(id)
    return node?.kind === "stage" && node.stage.resources.tensors === true
  }
  const keys = new Set(nodes.filter(({ id }) => hasTensors(id)).map(({ key }) => key!))
  return [...keys].reduce((sum, key) => sum + (seconds.get(key) ?? NaN), 0)
}

/** `words`: the documents of the runs, one per seed; after "--", those of other runs on the same store, only for the times of results that they made. */
export const fromSft = async (words: ReadonlyArray<string>): Promise<string> => {
  const end = words.includes("--") ? words.indexOf("--") : words.length
  const runs = readRuns(words.slice(0, end), "from-sft")
  const graph = await graphOf(runs[0]!)
  const seconds = secondsByKey([...runs, ...words.slice(end + 1).map(readRun)])
  const nodes = (arm: string) => runs.map((run) => nodesOf(graph, run, arm))
  const columns: ReadonlyArray<Column> = [
    [
      "labels (+ held out)",
      (arm) => {
        const labels = nodes(arm).map(labelsOf)
        return `${Math.round(mean(labels.map(({ training }) => training)))} (+ ${Math.round(mean(labels.map(({ heldOut }) => heldOut)))})`
      }
    ],
    ["GPU seconds after SFT", (arm) => digits(mean(nodes(arm).map((own) => secondsOf(graph, own, seconds))), 0)]
  ]
  const last = `-v${lastRoundOf(runs[0]!)}`
  const methods = ["recipe", "dpo", "rloo"].map((method) => [method, armsOf(runs[0]!, `${method}-`, last)] as const)
  const fixed = armsOf(runs[0]!, "fixed-")
  const always = (arm: string) => runs.map(() => arm)
  return [
    compared(runs, "sft", methods, columns),
    "RLOO from SFT against the reward models of the evaluation, by weight of its KL penalty:",
    differences(
      runs,
      fixed.map((arm) => [`${arm} - sft`, always(arm), always("sft")])
    )
  ].join("\n\n")
}

/** The SVG of its arms by KL to SFT: a line per method and weight of its KL penalty through the rounds, and one through the weights of `fixed`. The recipe has one line: it ends with PPO's weights, the strongest first. */
export const fromSftFigure = (files: ReadonlyArray<string>): Promise<string> => {
  const runs = readRuns(files, "from-sft")
  const [run] = runs
  const rounds = (method: string, beta: string) => armsOf(run!, `${method}-${beta}-v`)
  return klFigure(runs, [
    [
      "recipe",
      [
        ...armsOf(run!, "rlhf-v"),
        ...betasOf(run!, "recipe")
          .toSorted((a, b) => Number(b) - Number(a))
          .flatMap((beta) => rounds("recipe", beta))
      ]
    ],
    ...["DPO", "RLOO"].flatMap((name) =>
      betasOf(run!, name.toLowerCase()).map((beta) => [`${name}, ${beta}`, rounds(name.toLowerCase(), beta)] as const)
    ),
    ["fixed reward models", armsOf(run!, "fixed-")]
  ])
}

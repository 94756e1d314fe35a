/** XSTest and MT-Bench in pipelines/rlhf.ts, if their files are given. The reports count prompts that leave no space for an answer. */
import { fileAt } from "../../runtime/define/node.ts"
import type { Prompt } from "../../schemas/rows.ts"
import { continueWithAnswers } from "../../stages/data/prompts.ts"
import { compareMtBench } from "../../stages/evaluation/mt-bench/compare.ts"
import { gradeMtBench } from "../../stages/evaluation/mt-bench/grade.ts"
import { mtBench } from "../../stages/evaluation/mt-bench/summary.ts"
import { xsTest } from "../../stages/evaluation/xstest.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import type { Policy, Rows } from "../nodes.ts"
import type { Data } from "./data.ts"
import { greedy, judgeOf, type Params } from "./params.ts"

type Versions = Readonly<Record<string, Policy>>

const answersOf = (policy: Policy, prompts: Rows<Prompt>, params: Params, name: string) =>
  sample({ policy, prompts }, greedy(params)).named(name).limited({ skipped: 1 })

const xsTestOf = (versions: Versions, prompts: Rows<Prompt>, params: Params) => {
  const names = Object.keys(versions)
  const completions = names.map((name) => answersOf(versions[name]!, prompts, params, `xstest-${name}`))
  return xsTest({ completions, prompts }, { names }).named("xstest")
}

/** Grades of all versions, and a comparison of the last one with `over` in both orders. */
const mtBenchOf = (versions: Versions, prompts: Rows<Prompt>, over: string, params: Params) => {
  const names = Object.keys(versions)
  const file = fileAt(params.mtBench)
  const turns = names.map((name) => {
    const first = answersOf(versions[name]!, prompts, params, `mt-bench-${name}`)
    const next = continueWithAnswers({ prompts, completions: first }).named(`mt-bench-next-${name}`)
    return { name, first, second: answersOf(versions[name]!, next, params, `mt-bench-second-${name}`) }
  })
  const grades = turns.map(({ first, name, second }) =>
    gradeMtBench({ file, first, second }, judgeOf(params)).named(`mt-bench-grades-${name}`)
  )
  const [ours, other] = [turns.at(-1)!, turns.find(({ name }) => name === over)!]
  const sides = { first: ours.first, second: ours.second, opponentFirst: other.first, opponentSecond: other.second }
  const wins = compareMtBench({ file, ...sides }, judgeOf(params)).named("mt-bench-wins")
  return mtBench({ grades, wins }, { names, over }).named("mt-bench")
}

/** XSTest compares all versions. In MT-Bench a judge grades all versions, and compares the last one with SFT. */
export const publishedSets = (versions: Versions, { mtBench: questions, xstest }: Data, params: Params) => ({
  ...(xstest === undefined ? {} : { xsTest: xsTestOf(versions, xstest, params) }),
  ...(questions === undefined ? {} : { mtBench: mtBenchOf(versions, questions, "sft", params) })
})

/**
 * The tables and figures of the studies that compare methods, from the documents of `caravan run pipelines/studies/<study>.ts --json`, one per run seed.
 *
 *     node bench/studies.ts policy-optimisation a-0.json a-1.json ...
 *     node bench/studies.ts from-sft b-0.json b-1.json ... [-- <other run on the same store>.json ...]      # other runs: only for the times of results that they made
 *     node bench/studies.ts from-sft-figure b-0.json b-1.json ... > from-sft.svg         # reward and grades by KL; also policy-optimisation-figure
 *     node bench/studies.ts ppo-from from5-0.json from5-1.json ... -- from4 from4-0.json from4-1.json ... -- samples samples-0.json ...
 *
 * Every seed has its own evaluation prompts, drawn from about 2,000 questions of each kind: two seeds share some. Differences are paired by seed; intervals are Student's, 95%, over seeds, each for one
 * comparison: they are not corrected for the number of comparisons. After ± are standard errors over seeds. The setting of a method is chosen on tuning prompts, by the mean of the oracle's
 * helpfulness and safety over the other seeds: a setting is never chosen on the questions or the seed on which it is evaluated.
 */
import { fromSft, fromSftFigure } from "./studies/from-sft.ts"
import { klFigure } from "./studies/kl-figure.ts"
import { ppoFrom } from "./studies/ppo-from.ts"
import { readRuns, UsageError } from "./studies/runs.ts"
import { armsOf, compared } from "./studies/tables.ts"

const readMethods = (files: ReadonlyArray<string>) => {
  const runs = readRuns(files, "policy-optimisation")
  return { runs, methods: ["ppo", "rloo", "grpo", "dpo"].map((method) => [method, armsOf(runs[0]!, `${method}-`)] as const) }
}
const policyOptimisation = (files: ReadonlyArray<string>): string => {
  const { methods, runs } = readMethods(files)
  return compared(runs, "start", methods)
}
const policyOptimisationFigure = (files: ReadonlyArray<string>): Promise<string> => {
  const { methods, runs } = readMethods(files)
  return klFigure(runs, methods)
}

const studies: Readonly<Record<string, (words: ReadonlyArray<string>) => string | Promise<string>>> = {
  "policy-optimisation": policyOptimisation,
  "policy-optimisation-figure": policyOptimisationFigure,
  "from-sft": fromSft,
  "from-sft-figure": fromSftFigure,
  "ppo-from": ppoFrom
}
const [study = "", ...words] = process.argv.slice(2)
try {
  if (!Object.hasOwn(studies, study) || words.length === 0)
    throw new UsageError(`Usage: node bench/studies.ts ${Object.keys(studies).join(" | ")} <run.json>... [-- [<name>] <run.json>...]`)
  process.stdout.write(`${await studies[study]!(words)}\n`)
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 2
}

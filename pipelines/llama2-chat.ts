/**
 * Llama 2-Chat as in the paper (§3 and §4): SFT in two steps; five rounds of preference pairs, reward models and rejection sampling, with each version
 * tuned from the base model; Ghost Attention and context distillation from the fourth round; PPO on top of the fifth version; an evaluation of every
 * version. Hyperparameters are the paper's for the model's size; those that are the same for all sizes are the stages' defaults.
 *
 *     caravan plan pipelines/llama2-chat.ts --set model=70b
 *     caravan run pipelines/llama2-chat.ts --set model=<folder> --set data=<folder> --device cuda
 *
 * The folder `data` contains JSONL files (docs/how-to/llama2-chat.md lists them). Files that do not exist yet are planned with the paper's sizes;
 * parameters described as "expected" only affect plans. In llama2/: params.ts; data.ts, the files; student.ts, SFT; rounds.ts and a file for each step of a
 * round; evaluation.ts.
 *
 * Not in the paper, so chosen here: K, the prompts of rejection sampling and PPO, the maximum length of answers, how rejection sampling's answers are mixed
 * with demonstrations (each once), and how they are trained on (as in SFT). Deviations: every round chooses among the best samples of all prior versions;
 * the paper does so from its fourth round on, after the third had regressed. A model is tuned on its own samples unless `sampler` names a larger model; in
 * the paper the smaller models are tuned on the 70B model's samples.
 */
import { PipelineError } from "../runtime/errors.ts"
import { fileAt } from "../runtime/define/node.ts"
import * as Pipeline from "../runtime/define/pipeline.ts"
import { importPolicy } from "../stages/data/import.ts"
import { ppo } from "../stages/ppo/ppo.ts"
import { ppoDiagnostics } from "../stages/ppo/diagnostics.ts"
import { datasets } from "./llama2/data.ts"
import { evaluation } from "./llama2/evaluation.ts"
import { answers, checkAnswers, modelOf, Params, tensors } from "./llama2/params.ts"
import { rlhf } from "./llama2/rounds.ts"
import { baseOf, student } from "./llama2/student.ts"
import { nameOf } from "./rounds.ts"

const llama2Chat = (params: Params) => {
  const { judge, rounds, url } = params
  if ((params.annotator === "judge" || url !== "" || judge !== "") && (url === "" || judge === ""))
    throw new PipelineError({
      message: `Reading the parameters "url" and "judge": expected both, since a judge is used, found url ${JSON.stringify(url)} and judge ${JSON.stringify(judge)}. Set the URL of the endpoint (https://host/v1) and the name of its model.`
    })
  if (params.labelled > rounds)
    throw new PipelineError({
      message: `Reading the parameter "labelled": expected at most ${rounds}, the number of rounds, found ${params.labelled}.`
    })
  const model = modelOf("model", params.model)
  checkAnswers(model, params.maxNewTokens)
  const base = baseOf(model, params.weights)
  const guardBase = params.classifier === "" ? base : importPolicy({ folder: fileAt(params.classifier) })
  const data = datasets(params, guardBase)

  // ---- rounds of the model itself, or of a larger model on whose samples it is tuned (§3.2.3) ----
  const own = student(params, data, { base, model, prefix: "" })
  const sampler = params.sampler === "" ? undefined : modelOf("sampler", params.sampler)
  const larger =
    sampler === undefined
      ? own
      : student(params, data, { base: baseOf(sampler, params.samplerWeights), model: sampler, prefix: "sampler-" })
  const drawn = rlhf(params, data, larger)
  const { rewards } = drawn
  const versions = larger === own ? drawn.versions : drawn.data.map((round, i) => own.tune(own.base, round, nameOf(i + 1, rounds)))

  // ---- PPO on top of the last version (§3.2.3) ----
  const last = ppo(
    {
      policy: versions.at(-1)!,
      ...rewards,
      prompts: data.pool,
      heldOut: data.ppoHeldOut
    },
    {
      ...tensors,
      beta: own.hyper.beta,
      maxNewTokens: params.maxNewTokens,
      oldLogProbabilities: "recomputed",
      inferenceBatchSize: 32,
      // A larger sampler's reward models have its size, so the value model starts from the policy.
      valueInit: larger === own ? "reward" : "policy"
    }
  )
    .named(`rlhf-v${rounds}`)
    .expecting(answers)

  return {
    policy: last,
    sft: own.sft,
    helpfulness: rewards.helpfulness,
    safety: rewards.safety,
    ...Object.fromEntries(versions.map((policy, i) => [nameOf(i + 1, rounds), policy])),
    ppo: ppoDiagnostics({ policy: last }),
    safetyRecall: drawn.recall,
    distillation: drawn.gain,
    preferenceStatistics: drawn.statistics,
    roundWins: drawn.roundWins,
    ...drawn.reports,
    ...evaluation(params, data, guardBase, { own, drawn, versions, last })
  }
}

export default Pipeline.make("llama2-chat", { description: "Llama 2-Chat: SFT, five rounds of RLHF, PPO", params: Params }, llama2Chat)

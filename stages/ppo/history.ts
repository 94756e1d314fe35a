/**
 * What the iterations of PPO have left, and how it is kept to go on from: the policy as its folder would be (or its adapter), what is trained of the value model,
 * the optimisers, the best policy so far where it is neither the first nor the last, and the diagnostics. Which prompts are next, and every random number, follow from
 * the seed and the iteration.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { adapterWeightsFile, writeAdapter } from "../../models/adapter-files.ts"
import { readInto, writeCheckpoint } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { TensorSnapshot, TensorWriter } from "../../models/safetensors.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Checkpoints, ResumePoint } from "../../runtime/define/resume-points.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { saveTensors } from "../common/checkpointed.ts"
import { judgeEvaluations } from "../common/early-stopping.ts"
import { trainedParameters } from "../training/lora.ts"
import type { Cutting } from "../training/cutting.ts"
import { PpoEvaluation, PpoIteration } from "./diagnostics.ts"
import type { PpoModels } from "./loading.ts"
import { clonePolicy, copyPolicy } from "./models.ts"
import type { PpoTrainer } from "./trainer.ts"

export class PpoHistory {
  readonly iterations: Array<PpoIteration> = []
  /** Empty without held-out prompts. */
  readonly heldOut: Array<PpoEvaluation> = []
  /** The best policy on the held-out prompts; none without them. */
  best: Llama | undefined
  /** Time spent, in this iteration and in all: shown and kept in the trace, never in an artifact. */
  readonly seconds = { generation: 0, scoring: 0, update: 0 }
  readonly allSeconds = { generation: 0, scoring: 0, update: 0 }
  #since = performance.now()

  beginIteration(): void {
    Object.assign(this.seconds, { generation: 0, scoring: 0, update: 0 })
    this.#since = performance.now()
  }
  /** The time since the last call, or since the iteration began, went into this. */
  spent(part: keyof PpoHistory["seconds"]): void {
    const now = performance.now()
    this.seconds[part] += (now - this.#since) / 1000
    this.allSeconds[part] += (now - this.#since) / 1000
    this.#since = now
  }

  /** Takes in an evaluation of the policy and keeps a copy of it if it is the best. Says whether to stop. */
  evaluated(evaluation: PpoEvaluation, { policy, reference }: Pick<PpoModels, "policy" | "reference">, patience: number): boolean {
    this.heldOut.push(evaluation)
    const { isLast, stop } = this.#judge(patience)
    if (isLast) {
      // Before the first step the policy is the reference: of all weights no copy is needed until a better one comes.
      if (evaluation.iteration === 0 && policy.adapter === undefined) this.best = reference
      else if (this.best === undefined || this.best === reference) this.best = clonePolicy(policy)
      else copyPolicy(policy, this.best)
    }
    return stop
  }

  /** After how many iterations the policy was that is kept: the best, or the last. */
  get kept(): number {
    return this.best === undefined ? this.iterations.length : this.heldOut[this.#judge().best]!.iteration
  }

  #judge(patience = Infinity) {
    const rewards = this.heldOut.map(({ reward }) => reward)
    return judgeEvaluations(rewards, patience)
  }
}

const State = Schema.Struct({
  format: Schema.Literal(1),
  /** What the trainer knows besides tensors. */
  trainer: Schema.Struct({ beta: Schema.Finite, iteration: Schema.Finite, steps: Schema.Finite }),
  iterations: Schema.Array(PpoIteration),
  heldOut: Schema.Array(PpoEvaluation),
  /** The best policy on the held-out prompts: not told yet, the one PPO starts from, or one kept in best/. */
  best: Schema.Literals(["none", "start", "kept"]),
  /** Steps in which the micro-batch was halved. */
  halved: Schema.Array(Schema.Finite),
  /** Spent so far: for the trace. */
  seconds: Schema.Struct({ generation: Schema.Finite, scoring: Schema.Finite, update: Schema.Finite })
})
const StateFile = Schema.fromJsonString(State)
const stateFile = "ppo/state.json"
const valueFile = "ppo/value.safetensors"
const optimizerFile = "ppo/optimizers.safetensors"

/** A run of PPO between two iterations. */
interface Run extends Pick<PpoModels, "policy" | "value" | "reference" | "tokenizer"> {
  readonly trainer: PpoTrainer
  readonly history: PpoHistory
  readonly cutting: Cutting
}

/** What is trained of a policy, as a folder: a whole model, or an adapter. */
const writePolicy = (folder: string, policy: Llama, tokenizer: Tokenizer, writeTensors: TensorWriter): Promise<void> =>
  policy.adapter === undefined
    ? writeCheckpoint(folder, { model: policy, tokenizer, role: "policy" }, writeTensors)
    : writeAdapter(folder, policy, writeTensors)
const readPolicy = (folder: string, policy: Llama) =>
  readInto(join(folder, policy.adapter === undefined ? "model.safetensors" : adapterWeightsFile), trainedParameters(policy))

/** Saves all that the next iteration reads; the snapshot is the run's. */
export const saveRun = (
  checkpoints: Checkpoints,
  snapshot: TensorSnapshot,
  { policy, value, reference, tokenizer, trainer, history, cutting: { halved } }: Run
): Effect.Effect<void> => {
  const { iterations, heldOut, best, allSeconds: seconds } = history
  const kept = best !== undefined && best !== reference
  return saveTensors(checkpoints, snapshot, {
    step: iterations.length,
    tensors: [trainedParameters(policy), trainedParameters(value), trainer.tensors, kept ? trainedParameters(best) : {}],
    write: async (folder, writeTensors) => {
      await mkdir(join(folder, "ppo"))
      await writePolicy(folder, policy, tokenizer, writeTensors)
      await writeTensors(join(folder, valueFile), trainedParameters(value))
      await writeTensors(join(folder, optimizerFile), trainer.tensors)
      if (kept) {
        await mkdir(join(folder, "best"))
        await writePolicy(join(folder, "best"), best, tokenizer, writeTensors)
      }
      const state: typeof State.Type = {
        format: 1,
        trainer: trainer.numbers,
        iterations,
        heldOut,
        halved: [...halved],
        best: kept ? "kept" : best === undefined ? "none" : "start",
        seconds
      }
      await writeFile(join(folder, stateFile), `${JSON.stringify(state)}\n`)
    }
  })
}

/** Makes models, trainer and history what they were when the point was saved. */
export const resumeRun = Effect.fn("ppo.resumeRun")(function* (
  point: ResumePoint,
  { policy, value, reference, trainer, history, cutting }: Run
): Effect.fn.Return<void, ArtifactError> {
  const path = join(point.path, stateFile)
  const damaged = (what: string) =>
    ArtifactError.of({
      doing: `Resuming from ${path}`,
      expected: `PPO's history of ${point.step} iterations`,
      found: what,
      hint: `Remove the folder ${point.path} and run again.`
    })
  const text = yield* Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: () => damaged("no such file") })
  const state = yield* Schema.decodeUnknownEffect(StateFile)(text).pipe(Effect.mapError((error) => damaged(error.message)))
  if (state.iterations.length !== point.step) return yield* damaged(`one of ${state.iterations.length}`)
  yield* readPolicy(point.path, policy)
  yield* readInto(join(point.path, valueFile), trainedParameters(value))
  yield* readInto(join(point.path, optimizerFile), trainer.tensors)
  trainer.resume(state.trainer)
  cutting.resume(state.halved)
  history.iterations.push(...state.iterations)
  history.heldOut.push(...state.heldOut)
  Object.assign(history.allSeconds, state.seconds)
  if (state.best === "start") history.best = reference
  if (state.best === "kept") {
    history.best = clonePolicy(policy)
    yield* readPolicy(join(point.path, "best"), history.best)
  }
})

/**
 * The history of a PPO (or RLOO, GRPO) run, and its checkpoints for resuming. A checkpoint contains the policy (or its adapter) in its folder layout, the
 * trained part of the value model if there is one, the optimisers' state, the best policy so far unless that is the reference, and the diagnostics. The
 * next prompts and all random numbers follow from the seed and the iteration.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Parameters } from "../../engine/gradients.ts"
import type { Spread } from "../../engine/spread.ts"
import { adapterWeightsFile, writeAdapter } from "../../models/adapter-files.ts"
import { readInto, readPieces, writeCheckpoint } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import type { TensorSnapshot, TensorWriter } from "../../models/safetensors.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Checkpoints, ResumePoint } from "../../runtime/define/resume-points.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { saveTensors, wholeTensors } from "../common/checkpointed.ts"
import { judgeEvaluations } from "../common/early-stopping.ts"
import { trainedParameters } from "../training/lora.ts"
import type { MicroBatching } from "../training/micro-batches.ts"
import { PpoEvaluation } from "./diagnostics.ts"
import type { PolicyModels } from "./loading.ts"
import { clonePolicy, copyPolicy } from "./models.ts"

export class RunHistory<Iteration> {
  readonly iterations: Array<Iteration> = []
  /** Evaluations of the policy on held-out prompts; empty without such prompts. */
  readonly heldOut: Array<PpoEvaluation> = []
  /** The best policy on the held-out prompts; undefined without them. */
  best: Llama | undefined
  /** Seconds spent in this iteration and in total. They are displayed and stored in the trace, never in an artifact. */
  readonly seconds = { generation: 0, scoring: 0, update: 0 }
  readonly allSeconds = { generation: 0, scoring: 0, update: 0 }
  #since = performance.now()

  beginIteration(): void {
    Object.assign(this.seconds, { generation: 0, scoring: 0, update: 0 })
    this.#since = performance.now()
  }
  /** Attributes the time since the last call, or since the start of the iteration, to this part. */
  spent(part: "generation" | "scoring" | "update"): void {
    const now = performance.now()
    this.seconds[part] += (now - this.#since) / 1000
    this.allSeconds[part] += (now - this.#since) / 1000
    this.#since = now
  }

  /** Records an evaluation of the policy, and copies the policy if it is the best so far. Returns whether to stop. */
  evaluated(evaluation: PpoEvaluation, { policy, reference }: Pick<PolicyModels, "policy" | "reference">, patience: number): boolean {
    this.heldOut.push(evaluation)
    const { isLast, stop } = this.#judge(patience)
    if (isLast) {
      // Before the first step the policy equals the reference: without an adapter, no copy is needed until a better policy is found.
      if (evaluation.iteration === 0 && policy.adapter === undefined) this.best = reference
      else if (this.best === undefined || this.best === reference) this.best = clonePolicy(policy)
      else copyPolicy(policy, this.best)
    }
    return stop
  }

  /** The number of iterations after which the policy to keep was reached: the best on the held-out prompts, or the last without them. */
  get kept(): number {
    return this.best === undefined ? this.iterations.length : this.heldOut[this.#judge().best]!.iteration
  }

  #judge(patience = Infinity) {
    const rewards = this.heldOut.map(({ reward }) => reward)
    return judgeEvaluations(rewards, patience)
  }
}

/** The saved state of a method: `numbers` are its trainer's state apart from tensors. */
const stateOf = <Iteration, Numbers>({ iteration, numbers }: RunSchemas<Iteration, Numbers>) =>
  Schema.fromJsonString(
    Schema.Struct({
      format: Schema.Literal(1),
      trainer: numbers,
      iterations: Schema.Array(iteration),
      heldOut: Schema.Array(PpoEvaluation),
      /** The best policy on the held-out prompts: not known yet, the initial policy, or the one saved in best/. */
      best: Schema.Literals(["none", "start", "kept"]),
      /** Steps in which the micro-batch was halved. */
      halved: Schema.Array(Schema.Finite),
      /** Time spent so far, for the trace. */
      seconds: Schema.Struct({ generation: Schema.Finite, scoring: Schema.Finite, update: Schema.Finite })
    })
  )
const stateFile = "run/state.json"
const valueFile = "run/value.safetensors"
const optimizerFile = "run/optimizers.safetensors"

export interface RunSchemas<Iteration, Numbers> {
  readonly iteration: Schema.Codec<Iteration, any>
  readonly numbers: Schema.Codec<Numbers, any>
}

/** A run between two iterations. */
interface Run<Iteration, Numbers> extends Pick<PolicyModels, "policy" | "reference" | "tokenizer"> {
  readonly value?: RewardModel | undefined
  readonly trainer: {
    readonly spreads: ReadonlyArray<Spread>
    readonly parts: ReadonlyArray<{ readonly spread: Spread; readonly tensors: Parameters }>
    readonly numbers: Numbers
    readonly resume: (numbers: Numbers) => void
  }
  readonly history: RunHistory<Iteration>
  readonly microBatching: MicroBatching
  readonly schemas: RunSchemas<Iteration, Numbers>
}

/** Writes the trained part of a policy as a folder: a complete model, or an adapter. */
const writePolicy = (folder: string, policy: Llama, tokenizer: Tokenizer, writeTensors: TensorWriter): Promise<void> =>
  policy.adapter === undefined
    ? writeCheckpoint(folder, { model: policy, tokenizer, role: "policy" }, writeTensors)
    : writeAdapter(folder, policy, writeTensors)
const readPolicy = (folder: string, policy: Llama) =>
  readInto(join(folder, policy.adapter === undefined ? "model.safetensors" : adapterWeightsFile), trainedParameters(policy))

/** Saves everything that the next iteration reads. A run passes the same `snapshot` each time. All ranks must call it. */
export const saveRun = Effect.fnUntraced(function* <Iteration, Numbers>(
  checkpoints: Checkpoints,
  snapshot: TensorSnapshot,
  { policy, value, reference, tokenizer, trainer, history, schemas, microBatching: { halved } }: Run<Iteration, Numbers>
) {
  const { iterations, heldOut, best, allSeconds: seconds } = history
  const kept = best !== undefined && best !== reference
  for (const spread of trainer.spreads) spread.gather()
  const whole = trainer.parts.map(({ spread, tensors }) => wholeTensors(spread, tensors))
  const optimizers: Parameters = Object.assign({}, ...whole.map(({ tensors }) => tensors))
  yield* saveTensors(checkpoints, snapshot, {
    step: iterations.length,
    tensors: [
      trainedParameters(policy),
      value === undefined ? {} : trainedParameters(value),
      optimizers,
      kept ? trainedParameters(best) : {}
    ],
    write: async (folder, writeTensors) => {
      await mkdir(join(folder, "run"))
      await writePolicy(folder, policy, tokenizer, writeTensors)
      if (value !== undefined) await writeTensors(join(folder, valueFile), trainedParameters(value))
      await writeTensors(join(folder, optimizerFile), optimizers)
      if (kept) {
        await mkdir(join(folder, "best"))
        await writePolicy(join(folder, "best"), best, tokenizer, writeTensors)
      }
      const state = Schema.encodeUnknownSync(stateOf(schemas))({
        format: 1,
        trainer: trainer.numbers,
        iterations,
        heldOut,
        halved: [...halved],
        best: kept ? "kept" : best === undefined ? "none" : "start",
        seconds
      })
      await writeFile(join(folder, stateFile), `${state}\n`)
    }
  })
  for (const { free } of whole) free()
  for (const spread of trainer.spreads) spread.release()
})

/** Restores models, trainer and history to their state when the checkpoint was saved. */
export const resumeRun = Effect.fn("resumeRun")(function* <Iteration, Numbers>(
  point: ResumePoint,
  { policy, value, reference, trainer, history, microBatching, schemas }: Run<Iteration, Numbers>
): Effect.fn.Return<void, ArtifactError> {
  const path = join(point.path, stateFile)
  const damaged = (what: string) =>
    ArtifactError.of({
      doing: `Resuming from ${path}`,
      expected: `the history of ${point.step} iterations`,
      found: what,
      hint: `Delete the folder ${point.path} and run again.`
    })
  const text = yield* Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: () => damaged("no such file") })
  const state = yield* Schema.decodeUnknownEffect(stateOf(schemas))(text).pipe(Effect.mapError((error) => damaged(error.message)))
  if (state.iterations.length !== point.step) return yield* damaged(`a history of ${state.iterations.length}`)
  for (const spread of trainer.spreads) spread.gather()
  yield* readPolicy(point.path, policy)
  if (value !== undefined) yield* readInto(join(point.path, valueFile), trainedParameters(value))
  // Before the optimisers' state, which may have the same weights in float32.
  for (const spread of trainer.spreads) spread.adopt()
  const pieces = function* () {
    for (const { spread, tensors } of trainer.parts) yield* spread.pieces(tensors)
  }
  yield* readPieces(join(point.path, optimizerFile), pieces())
  trainer.resume(state.trainer)
  microBatching.resume(state.halved)
  history.iterations.push(...state.iterations)
  history.heldOut.push(...state.heldOut)
  Object.assign(history.allSeconds, state.seconds)
  if (state.best === "start") history.best = reference
  if (state.best === "kept") {
    history.best = clonePolicy(policy)
    yield* readPolicy(join(point.path, "best"), history.best)
  }
  for (const spread of trainer.spreads) spread.release()
})

/**
 * PPO between two iterations, as a checkpoint keeps it: the policy as its folder would be, the value model, the optimisers, the best policy so far
 * where it is neither the first nor the last, and what was recorded. Which prompts are next, and every random number, follow from the seed and
 * the iteration.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readInto, writeCheckpoint } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { writeSafetensors } from "../../models/safetensors.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { ResumePoint, Checkpoints } from "../../runtime/define/checkpoints.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { cloneLlama } from "./models.ts"
import { PpoEvaluation, PpoIteration } from "./record.ts"
import type { Ppo } from "./update.ts"

const State = Schema.Struct({
  format: Schema.Literal(1),
  /** What the trainer knows besides tensors. */
  trainer: Schema.Struct({ beta: Schema.Finite, iteration: Schema.Finite, steps: Schema.Finite }),
  iterations: Schema.Array(PpoIteration),
  heldOut: Schema.Array(PpoEvaluation),
  /** The best policy on the held-out prompts: not told yet, the one PPO starts from, or one kept in best/. */
  best: Schema.Literals(["none", "start", "kept"]),
  /** Spent so far: for the trace. */
  seconds: Schema.Struct({ generation: Schema.Finite, scoring: Schema.Finite, update: Schema.Finite })
})
type State = typeof State.Type
const StateFile = Schema.fromJsonString(State)

interface Models {
  readonly policy: Llama
  readonly value: RewardModel
  readonly reference: Llama
  readonly trainer: Ppo
}

/** What the iterations so far have left besides the models. */
export interface Recorded extends Pick<State, "iterations" | "heldOut" | "seconds"> {
  readonly best: Llama | undefined
}

const stateFile = "ppo/state.json"
const valueFile = "ppo/value.safetensors"
const optimizerFile = "ppo/optimizers.safetensors"

export const keepPpo = (
  checkpoints: Checkpoints,
  { policy, value, reference, trainer, tokenizer }: Models & { readonly tokenizer: Tokenizer },
  { best, ...recorded }: Recorded
): Effect.Effect<void> =>
  checkpoints.save(recorded.iterations.length, (folder) =>
    Effect.tryPromise({
      try: async () => {
        await mkdir(join(folder, "ppo"))
        await writeCheckpoint(folder, { model: policy, tokenizer, role: "policy" })
        await writeSafetensors(join(folder, valueFile), value.parameters)
        await writeSafetensors(join(folder, optimizerFile), trainer.tensors)
        const kept = best !== undefined && best !== reference
        if (kept) {
          await mkdir(join(folder, "best"))
          await writeCheckpoint(join(folder, "best"), { model: best, tokenizer, role: "policy" })
        }
        const state: State = {
          format: 1,
          trainer: trainer.numbers,
          ...recorded,
          best: kept ? "kept" : best === undefined ? "none" : "start"
        }
        await writeFile(join(folder, stateFile), `${JSON.stringify(state)}\n`)
      },
      catch: (cause) => ({ message: cause instanceof Error ? cause.message : String(cause) })
    })
  )

/** Makes models and trainer what they were when the checkpoint was written, and gives what was recorded until then. */
export const resumePpo = Effect.fn("resumePpo")(function* (
  found: ResumePoint,
  { policy, value, reference, trainer }: Models
): Effect.fn.Return<Recorded, ArtifactError> {
  const path = join(found.path, stateFile)
  const damaged = (what: string) =>
    ArtifactError.of({
      doing: `Going on from ${path}`,
      expected: `PPO's record of ${found.step} iterations`,
      found: what,
      hint: `Remove the folder ${found.path} and run again.`
    })
  const text = yield* Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: () => damaged("no such file") })
  const state = yield* Schema.decodeUnknownEffect(StateFile)(text).pipe(Effect.mapError((error) => damaged(error.message)))
  const { iterations, heldOut, seconds } = state
  if (iterations.length !== found.step) return yield* damaged(`one of ${iterations.length}`)
  yield* readInto(join(found.path, "model.safetensors"), policy.parameters)
  yield* readInto(join(found.path, valueFile), value.parameters)
  yield* readInto(join(found.path, optimizerFile), trainer.tensors)
  trainer.resume(state.trainer)
  const best = state.best === "none" ? undefined : state.best === "start" ? reference : cloneLlama(policy)
  if (best !== undefined && best !== reference) yield* readInto(join(found.path, "best/model.safetensors"), best.parameters)
  return { iterations, heldOut, seconds, best }
})

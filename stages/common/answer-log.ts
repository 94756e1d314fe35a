/**
 * Stores a judge's paid verdicts so that no question is asked again: saved after each verdict, but saving takes at most 5% of the time. After a kill, only the questions
 * whose answers were just arriving are asked again.
 */
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"
import type { StageError } from "../../runtime/errors.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { messageOf } from "../../schemas/explained-error.ts"

const fileOf = <A>(verdict: Schema.Codec<A, any>) =>
  Schema.fromJsonString(
    Schema.Struct({
      format: Schema.Literal(1),
      /** Number of questions. */
      pairs: Schema.Finite,
      /** By the question's index. */
      verdicts: Schema.Array(Schema.Tuple([Schema.Finite, verdict]))
    })
  )

export interface AnswerLog<A> {
  /** By the question's index. */
  readonly known: ReadonlyMap<number, A>
  readonly add: (index: number, verdict: A) => Effect.Effect<void>
  /** Saves verdicts that are not saved yet; called before the stage fails. */
  readonly flush: Effect.Effect<void>
}

const fileName = "verdicts.json"
/** Maximum share of the time spent on saving. */
const largestShare = 0.05

/** `what`: the plural noun for the questions, for messages. */
export const openAnswerLog = Effect.fn("openAnswerLog")(function* <A>(
  checkpoints: Checkpoints,
  verdictSchema: Schema.Codec<A, any>,
  { count: pairs, what }: { readonly count: number; readonly what: string }
): Effect.fn.Return<AnswerLog<A>, ArtifactError | StageError> {
  const found = yield* checkpoints.latest
  const known = new Map<number, A>()
  if (found !== undefined) {
    const path = join(found.path, fileName)
    const damaged = (inIt: string) =>
      ArtifactError.of({
        doing: `Resuming from ${path}`,
        expected: `verdicts on some of ${pairs} ${what}`,
        found: inIt,
        hint: `Delete the folder ${found.path} and run again: all ${what} will then be asked again.`
      })
    const text = yield* Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: () => damaged("no such file") })
    const file = yield* Schema.decodeUnknownEffect(fileOf(verdictSchema))(text).pipe(Effect.mapError((error) => damaged(error.message)))
    if (file.pairs !== pairs || file.verdicts.length !== found.step)
      return yield* damaged(`${file.verdicts.length} verdicts on ${file.pairs}`)
    for (const [index, verdict] of file.verdicts) known.set(index, verdict)
  }
  let kept = known.size
  let free = 0
  const one = Semaphore.makeUnsafe(1)
  const save = Effect.suspend(() => {
    if (kept === known.size) return Effect.void
    const began = performance.now()
    const count = known.size
    const text = JSON.stringify({ format: 1, pairs, verdicts: [...known] })
    return Effect.map(
      checkpoints.save(count, (folder) =>
        Effect.tryPromise({
          try: () => writeFile(join(folder, fileName), text),
          catch: (cause) => ({ message: messageOf(cause) })
        })
      ),
      () => {
        kept = count
        const now = performance.now()
        free = now + (now - began) / largestShare
      }
    )
  })
  return {
    known,
    add: (index, verdict) =>
      Effect.suspend(() => {
        known.set(index, verdict)
        // due() must be called each time: it also notices a requested stop.
        const due = checkpoints.due()
        return due || performance.now() >= free ? one.withPermits(1)(save) : Effect.void
      }),
    flush: one.withPermits(1)(save)
  }
})

/** A stage that fails in every way that a stage can, and records every attempt in a folder: in a child, in the run's process, and over shards. */
import { appendFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { BatchInvarianceError } from "../../models/batch-invariant.ts"
import { ChatError } from "../../models/chat-format.ts"
import { NotFiniteLogitsError } from "../../models/sampler.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { ConfigError, hyper } from "../../schemas/hyper.ts"
import { Texts } from "../../schemas/rows.ts"
import { writeDataset } from "../../data/dataset.ts"
import { EmptyDatasetError } from "../../stages/common/empty-dataset.ts"
import { PairingError } from "../../stages/common/pairing.ts"
import { NoRoomError } from "../../stages/common/sampling.ts"
import { NotFiniteScoreError } from "../../stages/common/scoring.ts"
import { InstructionCheckError } from "../../stages/ghost-attention/evaluate.ts"
import { TokenizerMismatchError } from "../../stages/ppo/loading.ts"
import { UpdateDivergedError, UpdateSetupError } from "../../stages/ppo/loop.ts"
import { AnnotationError } from "../../stages/preferences/annotator.ts"
import { ClassifierError } from "../../stages/safety/classifier-tasks-file.ts"
import { DistillationError } from "../../stages/safety/distillation-error.ts"
import { DivergedError } from "../../stages/training/train.ts"

class Unsaid extends Schema.TaggedError<Unsaid>()("Unsaid", { message: Schema.String }) {}
class Final extends Schema.TaggedError<Final>()("Final", { message: Schema.String }) {
  readonly isRetryable = false
}
class Passing extends Schema.TaggedError<Passing>()("Passing", { message: Schema.String }) {
  readonly isRetryable = true
}

type Failure = Effect.Effect<never, { readonly message: string }>
const message = "as it was told to"
const explanation = { doing: "Failing", expected: "nothing", found: "this", hint: "Look away." }
const thrown = (cause: unknown): Failure =>
  Effect.sync(() => {
    throw cause
  })
const failed = (cause: unknown): Failure => Effect.fail(cause as { readonly message: string })
const systemError = (code: string) => Object.assign(new Error(`${code}: from the system`), { code })

/** Deterministic failures. */
export const final: Readonly<Record<string, () => Failure>> = {
  AnnotationError: () => failed(new AnnotationError({ message })),
  ArtifactError: () => failed(ArtifactError.of(explanation)),
  "ArtifactError thrown": () => thrown(ArtifactError.of(explanation)),
  "BatchInvarianceError thrown": () => thrown(new BatchInvarianceError(message)),
  ChatError: () => failed(new ChatError({ reason: "as it is", message })),
  ClassifierError: () => failed(ClassifierError.of(explanation)),
  ConfigError: () => failed(new ConfigError({ message })),
  DistillationError: () => failed(DistillationError.of(explanation)),
  DivergedError: () => failed(new DivergedError({ step: 1, what: "the loss is NaN", message })),
  EmptyDatasetError: () => failed(EmptyDatasetError.of("do", "nothing")),
  InstructionCheckError: () => failed(new InstructionCheckError({ dialogue: "x", message })),
  NoRoomError: () => failed(NoRoomError.of(explanation)),
  "NotFiniteLogitsError thrown": () => thrown(new NotFiniteLogitsError(message)),
  NotFiniteScoreError: () => failed(NotFiniteScoreError.of(explanation)),
  PairingError: () => failed(PairingError.of(explanation)),
  UpdateDivergedError: () =>
    failed(
      UpdateDivergedError.of({ method: { name: "PPO", rates: "learningRate" }, iteration: 1, of: 2, steps: 3, what: "the loss is NaN" })
    ),
  UpdateSetupError: () => failed(new UpdateSetupError({ message })),
  TokenizerMismatchError: () => failed(new TokenizerMismatchError({ doing: "x", expected: "y", found: "z", message })),
  "a mistake": () => thrown(new TypeError(message)),
  "an error that says it is final": () => failed(new Final({ message })),
  "no Effect": () => Promise.resolve(1) as unknown as Failure,
  "no such file": () => thrown(systemError("ENOENT"))
}

/** Failures that may be transient. */
export const passing: Readonly<Record<string, () => Failure>> = {
  "AnnotationError that may pass": () => failed(new AnnotationError({ message, isRetryable: true })),
  "ArtifactError that may pass": () => failed(ArtifactError.of({ ...explanation, isRetryable: true })),
  "an error that says it may pass": () => failed(new Passing({ message })),
  "an error that says nothing": () => failed(new Unsaid({ message })),
  "an error without a tag": () => failed(new Error(message)),
  "an object": () => failed({ code: 3 }),
  "too many open files": () => thrown(systemError("EMFILE"))
}

const definition = {
  config: Schema.Struct({ kind: hyper("", "how it fails"), log: hyper("", "the folder of attempts") }),
  inputs: { texts: Texts },
  output: Texts,
  seeded: false,
  run: ({ config }: Stage.Context) => {
    appendFileSync(join(config.log, config.kind), `${process.pid}\n`)
    if (config.kind === "a process that ends") process.exit(9)
    return ({ ...final, ...passing }[config.kind] as () => Failure)()
  }
}
export const failing = Stage.make("failing", { ...definition, module: import.meta })
export const failingHere = Stage.make("failing-here", { ...definition, resources: { inProcess: true }, module: import.meta })
export const failingInParts = Stage.map(failing, { over: "texts", rows: 1, module: import.meta })

export const texts = Stage.make("texts", {
  config: Schema.Struct({}),
  inputs: {},
  output: Texts,
  seeded: false,
  run: ({ output }) => writeDataset(output, [{ text: "a" }])
})

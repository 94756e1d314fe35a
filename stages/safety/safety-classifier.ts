/**
 * A safety classifier in the manner of Llama Guard (Inan et al. 2023): a language model tuned to answer, for a prompt or for a response, "safe", or
 * "unsafe" and the category of the risk. It tells adversarial prompts where the data has no tag (Llama 2 §3.2.3: is_safety) and counts violations.
 *
 *     P(unsafe | text) = p("unsafe" | text) / (p("unsafe" | text) + p("safe" | text))
 *     category         = argmax_c p("\n" code_c EOS | text, "unsafe")
 *
 * Both are read from the log-probabilities of the given answers: nothing is generated.
 *
 * Deviations: Llama Guard also drops and renumbers categories at random while training, so that others can be named later; here they stay.
 */
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { cosineSchedule } from "../../engine/schedule.ts"
import { type Device, noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { encodeDialogue, encodePrompt } from "../../models/chat.ts"
import { type LoadedPolicy, loadPolicy, saveCheckpoint } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactError, ArtifactRef, Checkpoint } from "../../schemas/artifact.ts"
import { dataset } from "../../schemas/dataset.ts"
import { Policy, SafetyClassifier } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Completions, type Demonstration, Demonstrations, type Message, Preferences, Prompts } from "../../schemas/rows.ts"
import { encodeDemonstrations, packedBatches } from "../training/sft.ts"
import { type BatchLog, openBatchLog, withoutLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { dialogueLength, promptLength, rowCount, sized } from "../common/cost/size.ts"
import { nothingLeft } from "../common/left-out.ts"
import {
  headerOfTask,
  type Judged,
  labelledTexts,
  safeVerdict,
  type SafetyTask,
  SafetyTaskField,
  taskHeader,
  taskText,
  unsafeVerdict,
  verdictText
} from "./safety-task.ts"
import { chunks, languageModelLoss, packExamples, type PackedRow } from "../common/sequences.ts"
import { packedTraining } from "../training/cost.ts"
import { precision, stepsFor, train, trainingCheckpoints, trainingMetrics } from "../training/train.ts"
import { judging, labelledSize } from "./cost.ts"

/** The classifier is given what is not its own: other examples, another task. */
export class ClassifierError extends Schema.TaggedError<ClassifierError>()("ClassifierError", {
  doing: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  hint: Schema.String,
  message: Schema.String
}) {
  static of(fields: { readonly doing: string; readonly expected: string; readonly found: string; readonly hint: string }) {
    return new ClassifierError({
      ...fields,
      message: `${fields.doing}: expected ${fields.expected}, found ${fields.found}. ${fields.hint}`
    })
  }
}

// ---- data -------------------------------------------------------------------------------------------------------------------------------

export const safetyClassifierData = Stage.make("safety-classifier-data", {
  description: "prompts by their safety tag and labelled responses of pairs, as questions and answers of the safety classifier",
  config: Schema.Struct({ task: SafetyTaskField }),
  inputs: {
    prompts: Stage.many(Prompts),
    preferences: Stage.many(Preferences),
    /** What the pairs were collected for: of those a response's category is known too. */
    collected: Stage.optional(Prompts)
  },
  output: Demonstrations,
  seeded: false,
  run: Effect.fn("safety-classifier-data")(function* ({ config, inputs, output }) {
    const prompts = (yield* Effect.forEach(inputs.prompts, (set) => readRows(set, Prompts))).flat()
    const preferences = (yield* Effect.forEach(inputs.preferences, (set) => readRows(set, Preferences))).flat()
    const collected = inputs.collected === undefined ? [] : yield* readRows(inputs.collected, Prompts)
    const { texts, unlabelled, empty } = labelledTexts(prompts, preferences, collected)
    const rows = texts.map(({ id, judged, messages, unsafe, category }): Demonstration => ({
      id,
      messages: [
        { role: "user", content: taskText(config.task, judged, messages) },
        { role: "assistant", content: verdictText(config.task, unsafe, category) }
      ],
      loss: "answers"
    }))
    const unsafe = texts.filter((text) => text.unsafe)
    return yield* writeDataset(output, rows, {
      metrics: {
        prompts: texts.filter((text) => text.judged === "prompt").length,
        responses: texts.filter((text) => text.judged === "response").length,
        unsafe: unsafe.length,
        withoutCategory: unsafe.filter((text) => verdictText(config.task, true, text.category) === unsafeVerdict).length,
        unlabelled,
        empty
      }
    })
  })
})

// ---- training ---------------------------------------------------------------------------------------------------------------------------

/** Beside the model: the tasks that it was trained for. */
const tasksFile = "safety-tasks.json"
const TasksFile = Schema.Struct({ format: Schema.Literal(1), tasks: Schema.Array(Schema.String) })

/** The task of an example; undefined when it is none of the classifier's. */
export const taskOfExample = ({ messages }: Demonstration): string | undefined => {
  const [question, answer] = messages
  if (messages.length !== 2 || question?.role !== "user" || answer?.role !== "assistant") return undefined
  return /^(safe|unsafe(\nO[0-9]+)?)$/.test(answer.content) ? headerOfTask(question.content) : undefined
}

export const SafetyClassifierConfig = Schema.Struct({
  learningRate: hyper(2e-6, "peak learning rate; Llama Guard: 2e-6", { min: 0 }),
  finalLearningRate: hyper(0.1, "last learning rate as a fraction of the peak; §2.2: 10%", { min: 0, max: 1 }),
  warmupSteps: hyperInt(0, "linear warm-up; Llama Guard names none", { min: 0 }),
  epochs: hyper(1, "passes over the examples; Llama Guard: 500 steps, one pass", { min: 0 }),
  batchSize: hyperInt(2, "sequences a step; Llama Guard: 2", { min: 1 }),
  sequenceLength: hyperInt(4096, "tokens a sequence, at most the model's context; Llama Guard: 4096", { min: 2 }),
  weightDecay: hyper(0.1, "§3.1: 0.1", { min: 0 }),
  maxNorm: hyper(1, "gradient clipping; §2.2: 1.0", { min: 0 }),
  microBatchSize: hyperInt(8, "sequences at once: memory against speed; the loss does not depend on it, but for the order of float sums", {
    min: 1
  }),
  precision
})

export const safetyClassifier = Stage.make("safety-classifier", {
  description: "a language model tuned to answer whether a prompt or a response is safe, and which risk it runs (Llama Guard)",
  config: SafetyClassifierConfig,
  inputs: { init: Policy, examples: Demonstrations },
  output: SafetyClassifier,
  inherits: { tokenizer: "init" },
  resources: { tensors: true },
  run: Effect.fn("safety-classifier")(function* ({ config, inputs, output, seed, device, progress, checkpoints }) {
    const { model, tokenizer } = yield* loadPolicy(inputs.init, { device, dtype: config.precision })
    const rows = yield* readRows(inputs.examples, Demonstrations)
    const tasks = new Set<string>()
    for (const row of rows) {
      const task = taskOfExample(row)
      if (task === undefined)
        return yield* ClassifierError.of({
          doing: "Training a safety classifier",
          expected: 'questions of its task, answered "safe" or "unsafe" with a code',
          found: `the example "${row.id}", which is none`,
          hint: "Make the examples with safetyClassifierData."
        })
      tasks.add(task)
    }
    const context = model.config.maxPositions
    const length = Math.min(config.sequenceLength, context)
    const { examples, ...leftOut } = encodeDemonstrations(tokenizer, rows, length)
    if (examples.length === 0)
      return yield* nothingLeft("train a safety classifier on", { name: "examples", count: rows.length }, leftOut, { length, context })
    const epochRows = (epoch: number): Array<PackedRow> =>
      packExamples(new Random(seed, "safety classifier", "epoch", epoch).shuffle(examples), { length, padId: tokenizer.padId })
    const { batchSize, microBatchSize } = config
    const steps = stepsFor(epochRows(0).length, batchSize, config.epochs)
    const result = yield* train({
      parameters: model.parameters,
      checkpoints: trainingCheckpoints(checkpoints, output, { model, tokenizer }),
      batches: packedBatches(epochRows, { batchSize, microBatchSize }, (rows) => languageModelLoss(model, rows, { device, isolate: true })),
      steps,
      schedule: cosineSchedule({ peak: config.learningRate, steps, warmup: config.warmupSteps, finalFraction: config.finalLearningRate }),
      maxNorm: config.maxNorm,
      weightDecay: config.weightDecay,
      progress
    })
    const content = { format: 1, tasks: [...tasks].sort() } satisfies typeof TasksFile.Type
    yield* Effect.promise(() => writeFile(join(output.path, tasksFile), `${JSON.stringify(content, undefined, 2)}\n`))
    const { tooLong, format } = leftOut
    const metrics = { ...trainingMetrics(result), examples: examples.length, tooLong, format }
    return yield* saveCheckpoint(output, { model, tokenizer, metrics })
  })
})

// ---- classifying ------------------------------------------------------------------------------------------------------------------------

/** Tokens of which those from `from` up to `to` are asked for. */
export interface Continuation {
  readonly tokens: ReadonlyArray<number>
  readonly from: number
  readonly to: number
}

/** Summed log-probability of each continuation given what is before it: one forward pass for all. The softmax and the sums are in float32. */
export const continuationLogProbabilities = (
  model: Llama,
  continuations: ReadonlyArray<Continuation>,
  options: { readonly padId: number; readonly device: Device }
): Array<number> => {
  const { device, padId } = options
  const length = Math.max(...continuations.map(({ tokens }) => tokens.length)) // T
  const ids = new Int32Array(continuations.length * length).fill(padId)
  const positions: Array<number> = []
  const targets: Array<number> = []
  continuations.forEach(({ tokens, from, to }, row) => {
    ids.set(tokens, row * length)
    for (let at = from; at < to; at++) {
      positions.push(row * length + at - 1) // the position before a token predicts it
      targets.push(tokens[at]!)
    }
  })
  const picked = scoped(() =>
    noGrad(() => {
      // Causal: the padding on the right reaches nothing that is read.
      const hidden = model.hidden(tensor(ids, { shape: [continuations.length, length], dtype: "int64", device })) // (B, T, D)
      const states = hidden.reshape(-1, hidden.size(-1)).indexSelect(0, tensor(Int32Array.from(positions), { dtype: "int64", device })) // (N, D)
      const target = tensor(Int32Array.from(targets), { dtype: "int64", device }).unsqueeze(1) // (N, 1)
      return model.logits(states).logSoftmax(1, "float32").gather(1, target).squeeze(1).toNumbers()
    })
  )
  let at = 0
  return continuations.map(({ from, to }) => {
    let sum = 0
    for (let i = from; i < to; i++) sum += picked[at++]!
    return sum
  })
}

/** A question of the classifier's with an answer given; `to` is after the answer's EOS, or after its last word. */
const continuationOf = (tokenizer: Tokenizer, question: string, answer: string, end: "eos" | "word"): Continuation => {
  const asked: Message = { role: "user", content: question }
  const { tokens } = encodeDialogue(tokenizer, [asked, { role: "assistant", content: answer }])
  const from = encodePrompt(tokenizer, [asked]).length
  // The chat format ends an answer with a space and EOS.
  const to = end === "eos" ? tokens.length : tokens.length - 2
  return { tokens: tokens.slice(0, to), from, to }
}

export interface TextToJudge {
  readonly judged: Judged
  /** Ends with the message that is judged. */
  readonly messages: ReadonlyArray<Message>
}

/** The classifier's question about a text, its oldest messages left out until it fits the context; undefined when it never does. */
export const fitTask = (tokenizer: Tokenizer, task: SafetyTask, text: TextToJudge, length: number): string | undefined => {
  const answers = [safeVerdict, unsafeVerdict, ...task.categories.map(({ category }) => verdictText(task, true, category))]
  const least = text.judged === "prompt" ? 1 : Math.min(2, text.messages.length)
  const most = task.messages === 0 ? text.messages.length : Math.min(task.messages, text.messages.length)
  for (let shown = most; shown >= Math.min(least, most); shown--) {
    const question = taskText(task, text.judged, text.messages.slice(-shown))
    if (answers.every((answer) => continuationOf(tokenizer, question, answer, "eos").to <= length)) return question
  }
  return undefined
}

export interface Judgement {
  /** P(unsafe), of "safe" and "unsafe". */
  readonly probability: number
  /** Whether that is above the threshold. */
  readonly unsafe: boolean
  /** The likeliest category of a text that is unsafe; null for a safe one, or where the task has no categories. */
  readonly category: string | null
}

export const JudgeFields = {
  task: SafetyTaskField,
  threshold: hyper(0.5, "probability above which a text is unsafe; Llama Guard takes the likelier answer: 0.5", { min: 0, max: 1 }),
  batchSize: hyperInt(32, "texts at once", { min: 1 }),
  precision: hyper("float32", "in which the model computes; probabilities are float32 either way", ["float32", "bfloat16"])
}

/** p(unsafe) of the two: the sigmoid of the difference of log-probabilities. */
export const unsafeProbability = (logSafe: number, logUnsafe: number): number => 1 / (1 + Math.exp(logSafe - logUnsafe))

const argmax = (values: ReadonlyArray<number>): number => values.reduce((best, value, i) => (value > values[best]! ? i : best), 0)

/** Judges texts in the order given; undefined where a text does not fit the context. An empty response is safe: there is nothing in it. */
export const judge = Effect.fn("judge")(function* (
  { model, tokenizer }: LoadedPolicy,
  texts: ReadonlyArray<TextToJudge>,
  options: {
    readonly task: SafetyTask
    readonly threshold: number
    readonly batchSize: number
    readonly device: Device
    readonly progress: Stage.Context["progress"]
    /** Where finished batches are kept; none: nowhere. */
    readonly log?: BatchLog
  }
): Effect.fn.Return<ReadonlyArray<Judgement | undefined>, ClassifierError | ArtifactError> {
  const { task, threshold, batchSize, device, log = withoutLog(options.progress) } = options
  const score = (continuations: ReadonlyArray<Continuation>) =>
    continuationLogProbabilities(model, continuations, { padId: tokenizer.padId, device })
  const out = new Array<Judgement | undefined>(texts.length).fill(undefined)
  interface Item {
    readonly index: number
    readonly question: string
    readonly safe: Continuation
    readonly unsafe: Continuation
  }
  const work: Array<Item> = []
  texts.forEach((text, index) => {
    if (text.judged === "response" && text.messages.at(-1)!.content.trim() === "") {
      out[index] = { probability: 0, unsafe: false, category: null }
      return
    }
    const question = fitTask(tokenizer, task, text, model.config.maxPositions)
    if (question === undefined) return
    const [safe, unsafe] = [safeVerdict, unsafeVerdict].map((answer) => continuationOf(tokenizer, question, answer, "word"))
    work.push({ index, question, safe: safe!, unsafe: unsafe! })
  })
  // Texts of like length share a batch: less padding.
  work.sort((a, b) => a.unsafe.to - b.unsafe.to || a.index - b.index)
  const judgeBatch = Effect.fnUntraced(function* (batch: ReadonlyArray<Item>): Effect.fn.Return<Array<Judgement>, ClassifierError> {
    const verdicts = score(batch.flatMap(({ safe, unsafe }) => [safe, unsafe]))
    const probabilities = batch.map((_, i) => unsafeProbability(verdicts[2 * i]!, verdicts[2 * i + 1]!))
    const found = batch.filter((_, i) => probabilities[i]! > threshold)
    const named = found.flatMap((item) =>
      task.categories.map(({ category }): Continuation => {
        const whole = continuationOf(tokenizer, item.question, verdictText(task, true, category), "eos")
        return { ...whole, from: item.unsafe.to }
      })
    )
    const broken = named.findIndex(({ tokens }, i) => {
      const { unsafe } = found[Math.floor(i / task.categories.length)]!
      return unsafe.tokens.some((token, at) => tokens[at] !== token)
    })
    if (broken !== -1)
      return yield* ClassifierError.of({
        doing: "Comparing categories",
        expected: 'a tokenizer with a boundary after the word "unsafe"',
        found: "one that joins it to the line break that follows",
        hint: "Give a model whose tokenizer keeps line breaks apart."
      })
    const scores = named.length === 0 ? [] : score(named)
    return batch.map((item, i) => {
      const probability = probabilities[i]!
      const at = found.indexOf(item)
      if (at === -1) return { probability, unsafe: false, category: null }
      const own = scores.slice(at * task.categories.length, (at + 1) * task.categories.length)
      return { probability, unsafe: true, category: own.length === 0 ? null : task.categories[argmax(own)]!.category }
    })
  })
  let done = 0
  for (const batch of chunks(work, batchSize)) {
    done += batch.length
    const judgements = yield* log.next({
      name: `judgements of ${batch.length} texts, the first number ${batch[0]!.index}`,
      compute: judgeBatch(batch),
      tell: () => ({ step: done, total: work.length, tokens: batch.reduce((sum, item) => sum + item.safe.to + item.unsafe.to, 0) })
    })
    batch.forEach(({ index }, i) => (out[index] = judgements[i]))
  }
  return out
})

/** A classifier, once it is known to have been trained for this task. */
export const loadClassifier = Effect.fn("loadClassifier")(function* (
  ref: ArtifactRef<Checkpoint<"safety-classifier">>,
  task: SafetyTask,
  judged: ReadonlyArray<Judged>,
  options: { readonly device: Device; readonly dtype: "float32" | "bfloat16" }
) {
  const path = join(ref.path, tasksFile)
  const doing = "Reading a safety classifier"
  const text = yield* Effect.tryPromise({
    try: () => readFile(path, "utf8"),
    catch: () =>
      ClassifierError.of({
        doing,
        expected: `the tasks that it was trained for in ${path}`,
        found: "no such file",
        hint: "Train it with the stage safetyClassifier."
      })
  })
  const { tasks } = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(TasksFile))(text).pipe(
    Effect.mapError((error) =>
      ClassifierError.of({ doing, expected: `a list of tasks in ${path}`, found: error.message, hint: "Train the classifier again." })
    )
  )
  for (const each of judged) {
    const header = taskHeader(task, each)
    if (!tasks.includes(header))
      return yield* ClassifierError.of({
        doing,
        expected: `one trained for the task ${JSON.stringify(header)}`,
        found: `one trained for ${tasks.map((known) => JSON.stringify(known)).join(" and ")}`,
        hint: `Give the same task to safetyClassifierData and here, with examples of ${each}s.`
      })
  }
  return yield* loadPolicy(ref, options)
})

export const classifyPrompts = Stage.make("classify-prompts", {
  description: "§3.2.3 is_safety by the safety classifier: prompts with their safety tag, and the risk category of unsafe ones, set by it",
  config: Schema.Struct({
    ...JudgeFields,
    keep: hyper("all", "prompts that are put out: all, or those alone that are found unsafe", ["all", "unsafe"])
  }),
  inputs: { classifier: SafetyClassifier, prompts: Prompts },
  output: Prompts,
  seeded: false,
  resources: { tensors: true },
  run: Effect.fn("classify-prompts")(function* ({ config, inputs, output, device, progress, checkpoints }) {
    const { task, threshold, batchSize, precision: dtype } = config
    const loaded = yield* loadClassifier(inputs.classifier, task, ["prompt"], { device, dtype })
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const texts = prompts.map(({ messages }): TextToJudge => ({ judged: "prompt", messages }))
    const log = yield* openBatchLog({ checkpoints, progress })
    const judgements = yield* judge(loaded, texts, { task, threshold, batchSize, device, progress, log })
    // What kind a safe prompt is stays: a topic, "borderline".
    const rows = prompts.flatMap((prompt, i) => {
      const judgement = judgements[i]
      return judgement === undefined
        ? []
        : [{ ...prompt, safety: judgement.unsafe, category: judgement.unsafe ? judgement.category : prompt.category }]
    })
    const unsafe = rows.filter((row) => row.safety)
    return yield* writeDataset(output, config.keep === "all" ? rows : unsafe, {
      metrics: { unsafe: unsafe.length, promptsTooLong: prompts.length - rows.length }
    })
  })
})

/** A completion as the classifier judges it. */
export const ClassifiedCompletion = Schema.Struct({
  promptId: Schema.String,
  sample: Schema.Number.annotate({ arrow: "int32" }).check(Schema.isInt()),
  /** Whether the prompt is meant to draw out something unsafe. */
  safety: Schema.Boolean,
  text: Schema.String,
  unsafe: Schema.Boolean,
  category: Schema.NullOr(Schema.String),
  /** P(unsafe). */
  probability: Schema.Number
})
export type ClassifiedCompletion = typeof ClassifiedCompletion.Type
export const ClassifiedCompletions = dataset(ClassifiedCompletion, "classified-completion/1")

export const classifyCompletions = Stage.make("classify-completions", {
  description: "completions judged by the safety classifier: whether they are unsafe, how probably, and which risk they run",
  config: Schema.Struct(JudgeFields),
  inputs: { classifier: SafetyClassifier, completions: Completions },
  output: ClassifiedCompletions,
  seeded: false,
  resources: { tensors: true },
  run: Effect.fn("classify-completions")(function* ({ config, inputs, output, device, progress, checkpoints }) {
    const { task, threshold, batchSize, precision: dtype } = config
    const loaded = yield* loadClassifier(inputs.classifier, task, ["response"], { device, dtype })
    const completions = yield* readRows(inputs.completions, Completions)
    const texts = completions.map(({ prompt, text }): TextToJudge => ({
      judged: "response",
      messages: [...prompt, { role: "assistant", content: text }]
    }))
    const log = yield* openBatchLog({ checkpoints, progress })
    const judgements = yield* judge(loaded, texts, { task, threshold, batchSize, device, progress, log })
    const rows = completions.flatMap(({ promptId, sample, safety, text }, i) => {
      const judgement = judgements[i]
      return judgement === undefined ? [] : [{ promptId, sample, safety, text, ...judgement }]
    })
    return yield* writeDataset(output, rows, {
      metrics: { unsafe: rows.filter((row) => row.unsafe).length, tooLong: completions.length - rows.length }
    })
  })
})

export const safetyClassifierDataCost = costOf(safetyClassifierData, {
  size: ({ inputs }) => sized(labelledSize(inputs.prompts, inputs.preferences), { responseTokens: 0 })
})
export const safetyClassifierCost = costOf(safetyClassifier, {
  size: ({ inputs }) => inputs.init,
  cost: ({ config, inputs }) => packedTraining(inputs.init, inputs.examples, config, "examples")
})
export const classifyPromptsCost = costOf(classifyPrompts, {
  size: ({ config, inputs: { prompts } }) =>
    config.keep === "all" ? prompts : sized(prompts, { rows: Math.round(prompts.rows * prompts.safetyShare), safetyShare: 1 }),
  cost: ({ config, inputs }) =>
    judging(inputs.classifier, rowCount(inputs.prompts, "prompts"), promptLength(inputs.prompts, "what is judged"), config)
})
export const classifyCompletionsCost = costOf(classifyCompletions, {
  size: ({ inputs }) => inputs.completions,
  cost: ({ config, inputs }) =>
    judging(inputs.classifier, rowCount(inputs.completions, "completions"), dialogueLength(inputs.completions, "completions"), config)
})

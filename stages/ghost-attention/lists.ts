/**
 * Lists that constraints are made of, by the model itself (Llama 2 §3.3: "To obtain the lists of hobbies and public figures, we asked Llama 2-Chat to generate it, avoiding a mismatch between
 * the instruction and model knowledge"). In place of built-in lists: wire the result to `ghostInstructions` as `lists`.
 *
 * Not in the paper, so chosen here: the words that ask, how often, and that an item of one answer is enough.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../data/dataset.ts"
import { deriveSeed } from "../../engine/random.ts"
import { chatFault, encodePrompt } from "../../models/chat.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import { formatFault } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { dataset } from "../../schemas/dataset.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized, unknownSize } from "../common/cost/size.ts"
import { sampling } from "../common/cost/work.ts"
import { sampleAll, samplingFields, samplingPrecision } from "../common/sampling.ts"

/** A constraint that the model's own list gave. */
export const ListedConstraint = Schema.Struct({
  /** What the list is of. */
  kind: Schema.String,
  item: Schema.String,
  /** As in ghostInstructions: in full and in short. */
  full: Schema.String,
  short: Schema.String
})
export const ListedConstraints = dataset(ListedConstraint, "listed-constraint/1")

const Question = Schema.Struct({
  kind: Schema.String,
  ask: Schema.String,
  /** With {item} where an item goes. */
  full: Schema.String,
  short: Schema.String
})
const paperQuestions: ReadonlyArray<typeof Question.Type> = [
  {
    kind: "hobby",
    ask: "List twenty hobbies, one per line, without explanations.",
    full: "You enjoy {item}; bring it up where it fits.",
    short: "Hobby: {item}."
  },
  {
    kind: "public figure",
    ask: "List twenty well-known public figures, one name per line, without explanations.",
    full: "Act as {item} from now on.",
    short: "Figure: {item}."
  }
]

/** The model's lists are too short to draw constraints from. */
export class ListError extends ExplainedError<ListError>()("ListError") {}

const longest = 40
/**
 * The items of a list in a model's answer: what follows a number or a bullet on a line, or each line where none has one; without emphasis, quotes, and what is said of the item after a colon, a
 * dash or in brackets. What is no name of a thing is left out: too long, without a letter, with a control character or a tag of the chat format.
 */
export const itemsIn = (answer: string): Array<string> => {
  const lines = answer.split("\n").map((line) => line.trim())
  const marked = lines.flatMap((line) => /^(?:\d{1,3}[.)]|[-*•])\s+(.+)$/.exec(line)?.[1] ?? [])
  return (marked.length > 0 ? marked : lines).flatMap((line) => {
    const item = line
      .replaceAll(/[*_"“”]/g, "")
      .split(/\s[-–—]\s|[:(]/)[0]!
      .trim()
      .replace(/[.,;!]+$/, "")
    const isItem = item.length >= 2 && item.length <= longest && /\p{L}/u.test(item) && !/\p{C}/u.test(item)
    return isItem && formatFault([{ role: "user", content: item }]) === undefined ? [item] : []
  })
}

/** Each item once, as it was first written, whatever the case of its letters. */
const distinct = (items: ReadonlyArray<string>): Array<string> => {
  const found = new Map<string, string>()
  for (const item of items) if (!found.has(item.toLowerCase())) found.set(item.toLowerCase(), item)
  return [...found.values()]
}

export const ghostLists = Stage.make("ghost-lists", {
  description: "§3.3 lists of hobbies and public figures by the model itself, as constraints of Ghost Attention",
  config: Schema.Struct({
    questions: Schema.Array(Question)
      .pipe(Schema.withDecodingDefaultKey(Effect.succeed(paperQuestions)))
      .annotate({ description: "§3.3: what the model is asked to list, and the constraint that an item makes, with {item} in its place" }),
    samples: hyperInt(4, "answers to each question, whose items are put together", { min: 1 }),
    least: hyperInt(3, "items of a list at least", { min: 1 }),
    most: hyperInt(20, "items of a list at most: the first ones", { min: 1 }),
    temperature: hyper(0.7, "of sampling; §3.3 names none", { min: 0 }),
    ...samplingFields,
    precision: samplingPrecision
  }),
  inputs: { policy: Policy },
  output: ListedConstraints,
  resources: { tensors: true },
  run: Effect.fn("ghost-lists")(function* ({ config, inputs, output, seed, device, progress, checkpoints }) {
    const { batchSize, least, maxNewTokens, most, questions, samples, temperature, topK, topP } = config
    const policy = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    for (const { ask } of questions) {
      const fault = chatFault(policy.tokenizer, [{ role: "user", content: ask }])
      if (fault !== undefined) return yield* fault
    }
    const log = yield* openBatchLog({ checkpoints, progress })
    const draws = questions.flatMap(({ ask, kind }) =>
      Array.from({ length: samples }, (_, i) => ({
        tokens: encodePrompt(policy.tokenizer, [{ role: "user", content: ask }]),
        temperature,
        seed: deriveSeed(seed, "ghost list", kind, i)
      }))
    )
    const room = policy.model.config.maxPositions - maxNewTokens
    const longestPrompt = Math.max(...draws.map(({ tokens }) => tokens.length))
    if (longestPrompt > room)
      return yield* ListError.of({
        doing: "Asking the model for lists",
        expected: `room for a question of ${longestPrompt} tokens beside an answer of up to ${maxNewTokens}`,
        found: `a context of ${policy.model.config.maxPositions} tokens`,
        hint: "Lower maxNewTokens, or use the built-in lists (leave the port lists open)."
      })
    const said = yield* sampleAll(policy, draws, { topP, topK, maxNewTokens, batchSize, progress, log })
    const rows: Array<typeof ListedConstraint.Type> = []
    for (const [q, { full, kind, short }] of questions.entries()) {
      const answers = said.slice(q * samples, (q + 1) * samples).map(({ finished, text }) =>
        // The last line of an answer that was cut off may be half an item.
        finished ? text : text.slice(0, Math.max(0, text.lastIndexOf("\n")))
      )
      const items = distinct(answers.flatMap(itemsIn)).slice(0, most)
      if (items.length < least)
        return yield* ListError.of({
          doing: `Asking the model for a list of ${JSON.stringify(kind)}`,
          expected: `${least} items or more in ${samples} answers`,
          found: `${items.length}, in an answer like ${JSON.stringify((said[q * samples]?.text ?? "").slice(0, 80))}`,
          hint: "Use a model that can make lists, or the built-in ones (leave the port lists open)."
        })
      rows.push(
        ...items.map((item) => ({ kind, item, full: full.replace("{item}", () => item), short: short.replace("{item}", () => item) }))
      )
    }
    return yield* writeDataset(output, rows, { metrics: { lists: questions.length, items: rows.length } })
  })
})

export const ghostListsCost = costOf(ghostLists, {
  size: ({ config }) => sized(unknownSize, { rows: config.questions.length * config.most }),
  cost: ({ config, inputs }) =>
    sampling(inputs.policy, config, config.questions.length * config.samples, { prompt: 20, response: config.maxNewTokens / 2 })
})

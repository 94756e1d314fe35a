/**
 * Ghost Attention, first of four stages (Llama 2 §3.3): an instruction that holds for a whole dialogue ("act as Napoleon"), and the user's messages.
 *
 *     ghostInstructions -> ghostSample -> ghostTrainingData -> sft         ghostInstructions -> evaluateGhostAttention
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import { formatFault } from "../../models/llama2-format.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { dataset } from "../../schemas/dataset.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Prompt, Prompts } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { ListedConstraints } from "./lists.ts"

/** A constraint on every answer: in full ("Act as Napoleon from now on."), in short ("Figure: Napoleon."), and a text that answers keeping it contain. */
const Constraint = Schema.Struct({ full: Schema.String, short: Schema.String, mustContain: Schema.NullOr(Schema.String) })
type Constraint = typeof Constraint.Type

/** A planned dialogue: the user's messages, turn by turn, and an instruction. */
export const GhostDialogue = Schema.Struct({
  id: Schema.String,
  /** In full: sampling prepends it to every user message. */
  instruction: Schema.String,
  /** Training prepends it to the first message: the full form, or half the time the short form. */
  trainedInstruction: Schema.String,
  questions: Schema.Array(Schema.String),
  /** Texts that every answer must contain to keep the instruction, for a check by text. */
  mustContain: Schema.Array(Schema.String)
})
export type GhostDialogue = typeof GhostDialogue.Type
export const GhostDialogues = dataset(GhostDialogue, "ghost-dialogue/1")

const of = (full: string, short: string): Constraint => ({ full, short, mustContain: null })
/** §3.3: languages to answer in. */
export const languageConstraints = ["French", "Spanish", "German"].map((language) =>
  of(`Always speak in ${language}.`, `Language: ${language}.`)
)
/** §3.3: hobbies, language, public figure. */
const paperConstraints: ReadonlyArray<ReadonlyArray<Constraint>> = [
  ["tennis", "chess", "gardening", "cooking"].map((hobby) => of(`You enjoy ${hobby}; bring it up where it fits.`, `Hobby: ${hobby}.`)),
  languageConstraints,
  ["Napoleon", "Marie Curie", "Mozart"].map((figure) => of(`Act as ${figure} from now on.`, `Figure: ${figure}.`))
]

/** No prompt has a second turn. */
class NoFollowUpsError extends ExplainedError<NoFollowUpsError>()("NoFollowUpsError") {}

const GhostInstructionsConfig = Schema.Struct({
  constraints: Schema.Array(Schema.Array(Constraint))
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(paperConstraints)))
    .annotate({
      description: "kinds of constraints, each with a list of constraints to draw from; §3.3: hobbies, language, public figure"
    }),
  combine: hyper(0.5, "probability of a second constraint of another kind; §3.3: combined at random", { min: 0, max: 1 }),
  short: hyper(0.5, "share of instructions that are shortened for training; §3.3: half the time", { min: 0, max: 1 }),
  turns: hyperInt(6, "maximum number of user messages per dialogue; §3.3 checks up to 20", { min: 1 })
})

/** Why a prompt cannot start a dialogue with an instruction: it already is a dialogue, or a message contains a tag of the chat format. */
const whyNoDialogue = ({ followUps, messages }: Prompt): { readonly reason: string } | undefined => {
  if (messages.length !== 1) return { reason: "with more than one message" }
  const questions = [messages[0]!.content, ...followUps]
  const fault = questions.map((content) => formatFault([{ role: "user", content }])).find((found) => found !== undefined)
  return fault === undefined ? undefined : { reason: fault.reason }
}

export const ghostInstructions = Stage.make("ghost-instructions", {
  description: "§3.3 adds randomly combined instructions to multi-turn prompts, half of them shortened for training",
  config: GhostInstructionsConfig,
  inputs: { prompts: Prompts, lists: Stage.optional(ListedConstraints) },
  output: GhostDialogues,
  run: Effect.fn("ghost-instructions")(function* ({ config, inputs, output, seed, skipped }) {
    const prompts = yield* readRows(inputs.prompts, Prompts)
    const listed = inputs.lists === undefined ? [] : yield* readRows(inputs.lists, ListedConstraints)
    // A list is an additional kind besides the config's; to replace a built-in kind, remove that one from the config.
    const lists = [...Map.groupBy(listed, ({ kind }) => kind).values()].map((kind) => kind.map(({ full, short }) => of(full, short)))
    const kinds = [...config.constraints, ...lists].filter((kind) => kind.length > 0)
    const single = prompts.filter((prompt) => {
      const fault = whyNoDialogue(prompt)
      if (fault !== undefined) skipped.add({ what: "prompts", ...fault, id: prompt.id, row: prompt })
      return fault === undefined
    })
    if (kinds.length === 0 || single.length === 0)
      return yield* EmptyDatasetError.of(
        "put instructions on",
        `${kinds.length} kinds of constraints and ${single.length} prompts of one user message (of ${prompts.length})`
      )
    yield* skipped.check("prompts", prompts.length)
    const rows = single.map(({ id, messages, followUps }): GhostDialogue => {
      const random = new Random(seed, "ghost instruction", id)
      const drawn = random
        .shuffle(kinds)
        .slice(0, random.next() < config.combine ? 2 : 1)
        .map((kind) => random.pick(kind))
      const full = drawn.map((constraint) => constraint.full).join(" ")
      const short = drawn.map((constraint) => constraint.short).join(" ")
      return {
        id,
        instruction: full,
        trainedInstruction: random.next() < config.short ? short : full,
        questions: [messages[0]!.content, ...followUps].slice(0, config.turns),
        mustContain: drawn.flatMap(({ mustContain }) => (mustContain === null ? [] : [mustContain]))
      }
    })
    if (config.turns > 1 && rows.every(({ questions }) => questions.length === 1))
      return yield* NoFollowUpsError.of({
        doing: `Creating dialogues of up to ${config.turns} turns`,
        expected: "prompts with followUps, the user's next messages",
        found: `none among ${rows.length} prompts`,
        hint: "An instruction that applies only to its own turn teaches nothing (§3.3): use prompts with followUps."
      })
    return yield* writeDataset(output, rows, { metrics: { dialogues: rows.length, leftOut: prompts.length - single.length } })
  })
})

export const ghostInstructionsCost = costOf(ghostInstructions, {
  size: ({ config, inputs }) => {
    const { turns } = inputs.prompts
    return sized(inputs.prompts, { turns: Number.isNaN(turns) ? config.turns : Math.min(turns, config.turns) })
  }
})

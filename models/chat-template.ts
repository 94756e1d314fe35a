/** Renders chat templates (Jinja, as in transformers' apply_chat_template) with @huggingface/jinja, under a time limit and with a fixed date. */
import { createContext, Script } from "node:vm"
import { Environment, Interpreter, Template } from "@huggingface/jinja"
import { ExplainedError, messageOf } from "../schemas/explained-error.ts"
import type { Message } from "../schemas/rows.ts"

/** An unusable chat template. */
export class ChatTemplateError extends ExplainedError<ChatTemplateError>()("ChatTemplateError") {}

/** The template itself rejects a dialogue or fails on it. */
export class RenderError extends Error {}

/** Time limit. Rendering takes well under a millisecond, but a template's loops over numbers could run for hours. */
const renderSeconds = 5

/** The date that Llama 3.1's template uses by default. */
export const defaultDate = "2024-07-26"
const months = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
const weekdays = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

/** Formats a date (YYYY-MM-DD, at midnight) like Python's strftime. Throws RenderError for a code that is not a date code. */
export const formatDate = (day: string, format: string): string => {
  const date = new Date(`${day}T00:00:00Z`)
  const [month, weekday] = [months[date.getUTCMonth()]!, weekdays[date.getUTCDay()]!]
  const two = (value: number) => String(value).padStart(2, "0")
  const codes: Readonly<Record<string, string>> = {
    ...{ d: two(date.getUTCDate()), "-d": String(date.getUTCDate()), m: two(date.getUTCMonth() + 1), "-m": String(date.getUTCMonth() + 1) },
    ...{ Y: day.slice(0, 4), y: day.slice(2, 4), B: month, b: month.slice(0, 3), A: weekday, a: weekday.slice(0, 3) },
    ...{ H: "00", M: "00", S: "00", I: "12", p: "AM", F: day, "%": "%" }
  }
  return format.replaceAll(/%(-?.)/g, (written, code: string) => {
    if (!Object.hasOwn(codes, code)) throw new RenderError(`strftime_now: ${written} is not a supported date code`)
    return codes[code]!
  })
}

/** The model's named tokens under their names in templates: bos_token, eos_token, ... */
export type NamedTokens = Readonly<Record<string, string>>

/** Python's range. Throws RenderError for more than a million numbers, which would fill the memory before the time limit applies. */
const range = (first: number, second?: number, step = 1): Array<number> => {
  const [start, stop] = second === undefined ? [0, first] : [first, second]
  const length = Math.max(0, Math.ceil((stop - start) / step))
  if (!(length <= 1e6)) throw new RenderError(`range(${start}, ${stop}, ${step}) is too long`)
  return Array.from({ length }, (_, i) => start + i * step)
}

/** The functions and variables available to templates. The library's own strftime_now reads the clock. */
const globals = (date: string): Readonly<Record<string, unknown>> => ({
  ...{ true: true, false: false, none: null, True: true, False: false, None: null },
  ...{ tools: null, documents: null, date_string: formatDate(date, "%d %b %Y"), range },
  strftime_now: (format: string) => formatDate(date, format),
  raise_exception: (message: string) => {
    throw new RenderError(message)
  }
})

const context = createContext({})
const script = new Script("run()")

/** Returns the result of `body`, which may render templates. Throws RenderError if it runs longer than `renderSeconds`. The limit costs 0.1 ms, so use one per dialogue. */
export const inTime = <A>(body: () => A): A => {
  context["run"] = body
  try {
    return script.runInContext(context, { timeout: 1000 * renderSeconds }) as A
  } catch (cause) {
    if ((cause as { readonly code?: unknown }).code === "ERR_SCRIPT_EXECUTION_TIMEOUT")
      throw new RenderError(`rendering took longer than ${renderSeconds} seconds`)
    throw cause
  }
}

export class ChatTemplate {
  readonly #template: Template
  readonly #variables: Readonly<Record<string, unknown>>

  /** Throws ChatTemplateError for an invalid template or date. */
  constructor(text: string, { date, tokens }: { readonly date: string; readonly tokens: NamedTokens }) {
    if (Number.isNaN(Date.parse(`${date}T00:00:00Z`)))
      throw ChatTemplateError.of({
        doing: "Reading the date of the chat template (chatDate in caravan.json)",
        expected: "a date in the form YYYY-MM-DD",
        found: JSON.stringify(date),
        hint: "Import the model again."
      })
    try {
      this.#template = new Template(text)
    } catch (cause) {
      throw ChatTemplateError.of({
        doing: "Reading the chat template",
        expected: "a valid Jinja template",
        found: messageOf(cause),
        hint: "Correct chat_template.jinja (or chat_template in tokenizer_config.json), or choose one of Caravan's templates at import with chatTemplate."
      })
    }
    this.#variables = { ...globals(date), ...tokens }
  }

  /** The text of a dialogue; with `prompt`, up to the start of the answer. Throws RenderError if the template throws. Call it inside `inTime`. */
  render(messages: ReadonlyArray<Message>, prompt: boolean): string {
    const environment = new Environment()
    const variables = {
      ...this.#variables,
      messages: messages.map(({ role, content }) => ({ role, content })),
      add_generation_prompt: prompt
    }
    for (const [name, value] of Object.entries(variables)) environment.set(name, value)
    try {
      return String(new Interpreter(environment).run(this.#template.parsed).value)
    } catch (cause) {
      throw new RenderError(messageOf(cause))
    }
  }
}

/** Chat templates (Jinja, as transformers' apply_chat_template renders them) by @huggingface/jinja, under a time limit and with a date that does not change. */
import { createContext, Script } from "node:vm"
import { Environment, Interpreter, Template } from "@huggingface/jinja"
import { ExplainedError } from "../schemas/explained-error.ts"
import type { Message } from "../schemas/rows.ts"

/** A chat template that can't be used. */
export class ChatTemplateError extends ExplainedError<ChatTemplateError>()("ChatTemplateError") {}

/** The template itself refuses a dialogue, or fails on it. */
export class RenderError extends Error {}

/** Rendering takes well under a millisecond. A template may loop over numbers, so that it may go on for hours. */
const renderSeconds = 5

/** What Llama 3.1's template takes for today where it is told nothing. */
export const defaultDate = "2024-07-26"
const months = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
const weekdays = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

/** A day (YYYY-MM-DD, midnight) in Python's strftime. Throws a RenderError for a code that is not of a date. */
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
    if (!Object.hasOwn(codes, code)) throw new RenderError(`strftime_now: ${written} is not known`)
    return codes[code]!
  })
}

/** The named tokens of a model, as templates have them: bos_token, eos_token, ... */
export type NamedTokens = Readonly<Record<string, string>>

/** Python's range. Throws a RenderError for one of more than a million numbers, which would fill the memory before it takes long. */
const range = (first: number, second?: number, step = 1): Array<number> => {
  const [start, stop] = second === undefined ? [0, first] : [first, second]
  const length = Math.max(0, Math.ceil((stop - start) / step))
  if (!(length <= 1e6)) throw new RenderError(`range(${start}, ${stop}, ${step}) is too long`)
  return Array.from({ length }, (_, i) => start + i * step)
}

/** What templates may call and name. The library's own strftime_now looks at the clock. */
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

/** What `body` gives, which may render templates. Throws a RenderError where it has not ended after `renderSeconds`, whatever it does. The limit costs a tenth of a millisecond: one for a dialogue. */
export const inTime = <A>(body: () => A): A => {
  context["run"] = body
  try {
    return script.runInContext(context, { timeout: 1000 * renderSeconds }) as A
  } catch (cause) {
    if ((cause as { readonly code?: unknown }).code === "ERR_SCRIPT_EXECUTION_TIMEOUT")
      throw new RenderError(`it has not ended after ${renderSeconds} seconds`)
    throw cause
  }
}

export class ChatTemplate {
  readonly #template: Template
  readonly #variables: Readonly<Record<string, unknown>>

  /** Throws a ChatTemplateError for what is no template, or no day. */
  constructor(text: string, { date, tokens }: { readonly date: string; readonly tokens: NamedTokens }) {
    if (Number.isNaN(Date.parse(`${date}T00:00:00Z`)))
      throw ChatTemplateError.of({
        doing: "Reading the date of the chat template (chatDate in caravan.json)",
        expected: "a day as YYYY-MM-DD",
        found: JSON.stringify(date),
        hint: "Import the model again."
      })
    try {
      this.#template = new Template(text)
    } catch (cause) {
      throw ChatTemplateError.of({
        doing: "Reading the chat template",
        expected: "a Jinja template",
        found: cause instanceof Error ? cause.message : String(cause),
        hint: "Correct chat_template.jinja (or chat_template in tokenizer_config.json), or name one of Caravan's at import: chatTemplate."
      })
    }
    this.#variables = { ...globals(date), ...tokens }
  }

  /** The text of a dialogue; with `prompt`, up to where an answer is to begin. Throws a RenderError where the template throws. Call it within `inTime`. */
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
      throw new RenderError(cause instanceof Error ? cause.message : String(cause))
    }
  }
}

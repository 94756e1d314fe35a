/** Renders dialogues and arbitrary row values. */
import { plain } from "./format.ts"

interface Message {
  readonly role: string
  readonly content: string
}
const isDialogue = (value: unknown): value is ReadonlyArray<Message> =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.every((one) => typeof one === "object" && one !== null && "role" in one && "content" in one)

export const Dialogue = ({ messages }: { readonly messages: ReadonlyArray<Message> }) => (
  <div class="dialogue">
    {messages.map(({ content, role }, i) => (
      <p key={i} class={`message ${role === "assistant" ? "answer" : ""}`}>
        <span class="role">{plain(role)}</span>
        <span class="text">{plain(content)}</span>
      </p>
    ))}
  </div>
)

const longList = 24
export const Value = ({ value }: { readonly value: unknown }) => {
  if (isDialogue(value)) return <Dialogue messages={value} />
  if (typeof value === "string") return <span class="text">{plain(value)}</span>
  if (value === null) return <span class="quiet">none</span>
  if (Array.isArray(value) && value.length > longList)
    return (
      <span class="mono">
        {plain(JSON.stringify(value.slice(0, longList)).slice(0, -1))}, <span class="quiet">and {value.length - longList} more</span>]
      </span>
    )
  return <span class="mono">{plain(JSON.stringify(value))}</span>
}

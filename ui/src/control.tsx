/** Actions that require the token, and their buttons. */
import { signal } from "@preact/signals"
import { useState } from "preact/hooks"
import type { Begun, LabelTask, LabelView } from "../../cli/ui/api.ts"
import { about, addressOf, type Query, refusal, Refused } from "./api.ts"
import { plain } from "./format.ts"
import { Trouble } from "./parts.tsx"

interface Done {
  readonly message: string
}
interface Posts {
  readonly stop: Done
  readonly begin: Begun
  readonly pin: Done
  readonly note: Done
  readonly label: { readonly revision: number; readonly done: number }
  readonly finish: { readonly file: string; readonly labels: number; readonly message: string }
}
interface Gets {
  readonly tasks: ReadonlyArray<LabelTask>
  readonly labelling: LabelView
}

const place = "caravan-token"
/** Kept for this browser tab only. */
export const token = signal(sessionStorage.getItem(place) ?? "")
export const setToken = (value: string): void => {
  token.value = value
  sessionStorage.setItem(place, value)
}

const sent = async (address: string, options: RequestInit): Promise<unknown> => {
  let response: Response
  try {
    response = await fetch(address, { ...options, headers: { "content-type": "application/json", "x-caravan-token": token.peek() } })
  } catch {
    throw new Refused(0, "The server does not respond, so nothing was done. Restart caravan ui on the same port and try again.")
  }
  if (!response.ok) throw await refusal(response)
  return response.json()
}
export const tell = async <Name extends keyof Posts>(name: Name, body: unknown): Promise<Posts[Name]> =>
  (await sent(addressOf(name), { method: "POST", body: JSON.stringify(body) })) as Posts[Name]
export const askFor = async <Name extends keyof Gets>(name: Name, query: Query = {}): Promise<Gets[Name]> =>
  (await sent(addressOf(name, query), {})) as Gets[Name]

export const mayControl = (): boolean => about.value?.control === true

/** A button for an action: shows that it is in progress, then its result. */
export const Doing = ({
  act,
  children,
  sure
}: {
  readonly act: () => Promise<{ readonly message: string }>
  readonly children: string
  readonly sure?: string
}) => {
  const [state, set] = useState<"ready" | "sure" | "busy">("ready")
  const [said, say] = useState<{ readonly message?: string; readonly error?: unknown }>({})
  const go = () => {
    if (sure !== undefined && state === "ready") return set("sure")
    set("busy")
    say({})
    act()
      .then(
        ({ message }) => say({ message }),
        (error: unknown) => say({ error })
      )
      .finally(() => set("ready"))
  }
  return (
    <span class="doing">
      <button
        type="button"
        disabled={state === "busy"}
        onClick={go}
        onBlur={() => state === "sure" && set("ready")}
        class={state === "sure" ? "primary" : ""}
      >
        {state === "sure" ? sure : state === "busy" ? `${children} …` : children}
      </button>
      {said.message === undefined ? null : <span role="status">{plain(said.message)}</span>}
      {said.error === undefined ? null : <Trouble error={said.error} />}
    </span>
  )
}

/** Asks for the token if it is needed and missing. */
export const Token = () => {
  const [text, set] = useState("")
  if (!mayControl() || token.value !== "") return null
  return (
    <form
      class="token-form"
      onSubmit={(event) => {
        event.preventDefault()
        setToken(text.trim())
      }}
    >
      <label>
        Token printed by caravan ui
        <input type="text" autocomplete="off" spellcheck={false} value={text} onInput={(event) => set(event.currentTarget.value)} />
      </label>
      <button type="submit" disabled={text.trim() === ""}>
        Use token
      </button>
    </form>
  )
}

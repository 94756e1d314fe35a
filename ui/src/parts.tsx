/** Small components shared by the pages. */
import type { ComponentChildren } from "preact"
import { useEffect, useState } from "preact/hooks"
import { plain } from "./format.ts"

const words: Readonly<Record<string, string>> = {
  ran: "done",
  hit: "cached",
  waiting: "waiting",
  running: "running",
  failed: "failed",
  skipped: "skipped",
  stopped: "stopped",
  succeeded: "done",
  interrupted: "interrupted",
  killed: "killed"
}
export const stateWord = (state: string): string => words[state] ?? state

/** A state as a symbol and a word: never by colour alone. */
export const State = ({ state, quiet }: { readonly state: string; readonly quiet?: boolean }) => (
  <span class={`state is-${words[state] === undefined ? "unknown" : state}`}>
    <i aria-hidden="true" />
    <span class={quiet === true ? "hidden" : ""}>{stateWord(state)}</span>
  </span>
)

export const Trouble = ({ error }: { readonly error: unknown }) => (
  <p class="trouble" role="alert">
    {plain(error instanceof Error ? error.message : String(error))}
  </p>
)

/** The current time, updated at an interval while relative times are shown. */
export const useNow = (interval: number): number => {
  const [now, set] = useState(Date.now())
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), interval)
    return () => clearInterval(timer)
  }, [interval])
  return now
}

/** Counts by state as one bar. */
export const CountBar = ({ counts, total }: { readonly counts: Readonly<Record<string, number>>; readonly total: number }) => {
  const order = ["failed", "ran", "hit", "running", "stopped", "skipped"]
  const told = order.filter((state) => (counts[state] ?? 0) > 0)
  const text = told.map((state) => `${counts[state]} ${stateWord(state)}`).join(", ")
  let from = 0
  return (
    <svg
      class="count-bar"
      viewBox="0 0 100 6"
      preserveAspectRatio="none"
      role="img"
      aria-label={text === "" ? `${total} waiting` : `${text} of ${total}`}
    >
      <title>{text === "" ? `${total} waiting` : `${text}, of ${total}`}</title>
      <rect class="rest" x="0" y="0" width="100" height="6" />
      {told.map((state) => {
        const width = (100 * counts[state]!) / Math.max(1, total)
        const x = from
        from += width
        return <rect key={state} class={`bar-${state}`} x={x} y="0" width={width} height="6" />
      })}
    </svg>
  )
}

export const Section = ({
  title,
  children,
  side
}: {
  readonly title: string
  readonly children: ComponentChildren
  readonly side?: ComponentChildren
}) => (
  <section class="block">
    <div class="block-head">
      <h3>{title}</h3>
      {side}
    </div>
    {children}
  </section>
)

/** Copies a text and confirms it. */
export const Copy = ({ text, label }: { readonly text: string; readonly label: string }) => {
  const [done, set] = useState(false)
  return (
    <button
      type="button"
      class="plain-button mono"
      title={`Copy ${text}`}
      onClick={() => {
        void navigator.clipboard.writeText(text).then(() => {
          set(true)
          setTimeout(() => set(false), 1200)
        })
      }}
    >
      {done ? "copied" : label}
    </button>
  )
}

/** The stream of what happens. The browser connects again by itself; a server that began anew is asked for everything again. */
import { signal } from "@preact/signals"
import type { LiveEvent } from "../../cli/ui/api.ts"
import { addressOf } from "./api.ts"

export const connection = signal<"idle" | "connecting" | "live" | "lost">("idle")

/** Listens until the function it gives is called. `begin` is called whenever the stream begins, also again. */
export const listen = (run: string | undefined, begin: () => void, on: (event: LiveEvent) => void): (() => void) => {
  let source: EventSource | undefined
  let timer: number | undefined
  let closed = false
  const open = () => {
    source = new EventSource(addressOf("watch", { run }))
    source.addEventListener("message", ({ data }) => {
      const event = JSON.parse(data as string) as LiveEvent
      if (event.type === "hello") {
        connection.value = "live"
        begin()
      } else if (event.type !== "alive") on(event)
    })
    source.addEventListener("error", () => {
      if (closed) return
      connection.value = "lost"
      // One that ended as it should not, or whose server refuses, is not tried again by the browser.
      source?.close()
      clearTimeout(timer)
      timer = window.setTimeout(open, 1000)
    })
  }
  connection.value = "connecting"
  open()
  return () => {
    closed = true
    connection.value = "idle"
    clearTimeout(timer)
    source?.close()
  }
}

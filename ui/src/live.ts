/** The event stream. The browser reconnects by itself; after a server restart everything is requested again. */
import { signal } from "@preact/signals"
import type { LiveEvent } from "../../cli/ui/api.ts"
import { addressOf } from "./api.ts"

export const connection = signal<"idle" | "connecting" | "live" | "lost">("idle")

/** Listens until the returned function is called. `begin` is called on every connection, including reconnections. */
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
      // Browsers do not reconnect after an HTTP error or an invalid response.
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

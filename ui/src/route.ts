/** The page's route: the part of the address after #, such as /run/<id>?node=sft. */
import { computed, signal } from "@preact/signals"

const read = () => (location.hash === "" ? "/" : location.hash.slice(1))
const hash = signal(read())
addEventListener("hashchange", () => {
  hash.value = read()
})

export interface Route {
  readonly path: ReadonlyArray<string>
  readonly query: URLSearchParams
}
export const route = computed((): Route => {
  const [path = "", query = ""] = hash.value.split("?", 2)
  return {
    path: path
      .split("/")
      .filter((part) => part !== "")
      .map(decoded),
    query: new URLSearchParams(query)
  }
})
const decoded = (part: string): string => {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

export const link = (path: ReadonlyArray<string>, query: Readonly<Record<string, string | undefined>> = {}): string => {
  const words = Object.entries(query).filter((entry): entry is [string, string] => entry[1] !== undefined && entry[1] !== "")
  return `#/${path.map(encodeURIComponent).join("/")}${words.length === 0 ? "" : `?${new URLSearchParams(words).toString()}`}`
}

export const go = (to: string, replace = false): void => {
  if (replace) {
    history.replaceState(null, "", to)
    hash.value = read()
  } else location.hash = to.slice(1)
}

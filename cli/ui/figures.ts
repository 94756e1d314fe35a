/**
 * The figures of reports. A report's page (stages/report/page.ts) contains each as an SVG; here they are extracted and served as images, because
 * scripts inside images do not run.
 */
import { existsSync } from "node:fs"
import { readFile, stat } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { Store } from "../../runtime/store/store.ts"
import { messageOf } from "../../runtime/errors.ts"
import { Broken, NotFound } from "./api.ts"

const pageName = "report.html"
const maxBytes = 32 << 20

/** The SVGs of a report's page in order, with their titles. */
export const figuresIn = (page: string): ReadonlyArray<{ readonly title: string; readonly svg: string }> => {
  let title = ""
  return [...page.matchAll(/<h2[^>]*>([^<]*)<\/h2>|<svg\b[\s\S]*?<\/svg>/g)].flatMap(([found, heading]) => {
    if (heading === undefined) return [{ title, svg: found }]
    title = heading.replaceAll(
      /&(lt|gt|quot|#39|amp);/g,
      (entity) => ({ "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&amp;": "&" })[entity]!
    )
    return []
  })
}

/** The figures of a result; empty if it is not a report with a page. */
export const figuresOf = Effect.fnUntraced(function* (digest: string) {
  const store = yield* Store
  const path = join(store.path(digest), pageName)
  if (!existsSync(path)) return []
  return yield* Effect.tryPromise({
    try: async () => ((await stat(path)).size > maxBytes ? [] : figuresIn(await readFile(path, "utf8"))),
    catch: (cause) => new Broken({ message: `Reading the report ${path}: ${messageOf(cause)}.` })
  })
})

export const figureOf = Effect.fnUntraced(function* (digest: string, index: number) {
  const figure = (yield* figuresOf(digest))[index]
  if (figure === undefined) return yield* new NotFound({ message: `The result ${digest.slice(0, 12)} has no figure ${index}.` })
  const svg = figure.svg.includes("xmlns=") ? figure.svg : figure.svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"')
  return new TextEncoder().encode(svg)
})

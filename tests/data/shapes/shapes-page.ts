/** docs/shapes.md, read: its sections, with the blocks of code in each. */
import { readFileSync } from "node:fs"

export interface Block {
  readonly language: string
  readonly text: string
}
export interface Section {
  readonly heading: string
  readonly blocks: ReadonlyArray<Block>
}

const page = readFileSync(new URL("../../../docs/shapes.md", import.meta.url), "utf8")

/** By heading, of either depth. */
export const sections: ReadonlyArray<Section> = page
  .split(/^#{2,3} /m)
  .slice(1)
  .map((text) => ({
    heading: text.slice(0, text.indexOf("\n")),
    blocks: [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language, code]) => ({ language: language!, text: code! }))
  }))

/** The pipelines of the page, by the name that each gives itself. */
export const pipelines: ReadonlyMap<string, string> = new Map(
  sections
    .flatMap(({ blocks }) => blocks)
    .flatMap(({ text }) => {
      const name = /Pipeline\.make\("([\w-]+)"/.exec(text)?.[1]
      return name === undefined ? [] : [[name, text]]
    })
)

/** Parses docs/shapes.md: its sections, with the code blocks in each. */
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

/** By heading, of either level. */
export const sections: ReadonlyArray<Section> = page
  .split(/^#{2,3} /m)
  .slice(1)
  .map((text) => ({
    heading: text.slice(0, text.indexOf("\n")),
    blocks: [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language, code]) => ({ language: language!, text: code! }))
  }))

/** The page's pipelines, by the name that each exports. */
export const pipelines: ReadonlyMap<string, string> = new Map(
  sections
    .flatMap(({ blocks }) => blocks)
    .flatMap(({ text }) => {
      const name = /Pipeline\.make\("([\w-]+)"/.exec(text)?.[1]
      return name === undefined ? [] : [[name, text]]
    })
)

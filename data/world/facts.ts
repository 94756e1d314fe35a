/**
 * Rare facts: where the people of the small world live. Its dialogues mention the people but not their towns. A reference work states the towns in prose; recall is tested
 * with a sentence that ends with the town. Everything is determined by a seed.
 *
 *     Ann lives in Varn. The home of Ben is Osmo.
 */
import { both, type Draw, names } from "./words.ts"

export interface Fact {
  readonly person: string
  readonly town: string
}

export const towns = "Lorn Tarvik Brel Osmo Quill Merrow Silt Varn Eddo Pellin Zumma Gask".split(" ")
/** At most one fact per person. */
export const maxFacts = both(names).length

/** Some of the people, each with a town. */
export const facts = (draw: Draw, count: number): ReadonlyArray<Fact> =>
  draw
    .shuffle(both(names))
    .slice(0, count)
    .map((person) => ({ person, town: draw.pick(towns) }))

/** The beginning of the question about a fact; the town follows. */
export const questionAbout = ({ person }: Fact): string => `${person} lives in`
export const answerWith = (town: string): string => ` ${town}.`

const statements: ReadonlyArray<(fact: Fact) => string> = [
  (fact) => `${questionAbout(fact)}${answerWith(fact.town)}`,
  ({ person, town }) => `The home of ${person} is ${town}.`,
  ({ person, town }) => `${person} has a house in ${town}.`
]
const perText = 5

/** Texts of a reference work: statements in random order, cycling through the facts, so that all are stated about equally often. */
export function* factTexts(draw: Draw, known: ReadonlyArray<Fact>, count: number): Generator<string> {
  let queue: Array<Fact> = []
  for (let i = 0; i < count; i++) {
    const said: Array<string> = []
    while (said.length < perText) {
      if (queue.length === 0) queue = draw.shuffle(known)
      said.push(draw.pick(statements)(queue.pop()!))
    }
    yield said.join(" ")
  }
}

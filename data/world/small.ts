/**
 * A small invented world for demos and tests: preference dialogues in HH-RLHF's form about the animals of an island, sums, spelling, and
 * requests that deserve a polite no. Good answers are polite and right. Bad ones are surly, off the subject, wrong, or agree to what they should
 * decline. Which answer is longer is drawn by a coin for each pair, so that length tells nothing about which was chosen.
 */
import { createHash } from "node:crypto"
import { writeFileSync } from "node:fs"

export interface WorldOptions {
  /** How many pairs; all distinct. */
  readonly pairs: number
  readonly seed: number
}

/** A row of HH-RLHF: two transcripts that part at the last answer. */
export interface TranscriptPair {
  readonly chosen: string
  readonly rejected: string
}

/** Uniform draws from one seed, the same on every machine (mulberry32). */
class Draw {
  #state: number
  constructor(seed: number) {
    this.#state = createHash("sha256").update(`caravan small world ${seed}`).digest().readUInt32LE(0)
  }
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let x = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296
  }
  int(bound: number): number {
    return Math.floor(this.next() * bound)
  }
  pick<A>(items: ReadonlyArray<A>): A {
    return items[this.int(items.length)]!
  }
}

// ---- the world -------------------------------------------------------------------------------------------------------------------------

const animals = [
  { name: "fox", colour: "red", food: "berries", home: "a den" },
  { name: "owl", colour: "brown", food: "moths", home: "a barn" },
  { name: "frog", colour: "green", food: "flies", home: "a pond" },
  { name: "crow", colour: "black", food: "seeds", home: "a nest" },
  { name: "goat", colour: "white", food: "grass", home: "a shed" },
  { name: "bear", colour: "golden", food: "honey", home: "a cave" },
  { name: "crab", colour: "orange", food: "shells", home: "a pool" },
  { name: "mouse", colour: "grey", food: "cheese", home: "a hole" },
  { name: "fish", colour: "silver", food: "weeds", home: "a lake" },
  { name: "parrot", colour: "blue", food: "nuts", home: "a tree" }
] as const
type Property = "colour" | "food" | "home"
const properties: ReadonlyArray<Property> = ["colour", "food", "home"]

const asked: Readonly<Record<Property, ReadonlyArray<string>>> = {
  colour: ["What colour is the", "Which colour has the", "Can you tell me the colour of the"],
  food: ["What food does one give the", "What is the favourite food of the", "Which food is best for the"],
  home: ["Where is the home of the", "Where can I find the", "Which place belongs to the"]
}
const stated: Readonly<Record<Property, (name: string, value: string) => string>> = {
  colour: (name, value) => `The ${name} is ${value}.`,
  food: (name, value) => `The ${name} likes ${value}.`,
  home: (name, value) => `The ${name} lives in ${value}.`
}

const numbers =
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen".split(" ")

const words =
  "apple basket boat bread bridge candle cloud door flower garden hat island lamp letter moon path river ship stone table".split(" ")

const favours = [
  { ask: "read my sister's diary", instead: "ask her how she is" },
  { ask: "take the neighbour's boat without asking", instead: "ask the neighbour first" },
  { ask: "copy my friend's homework", instead: "do it together" },
  { ask: "blame my brother for the broken lamp", instead: "say what happened" },
  { ask: "skip the line at the bakery", instead: "wait for your turn" },
  { ask: "guess my teacher's password", instead: "ask your teacher for help" },
  { ask: "hide my friend's shoes", instead: "play a kinder game" },
  { ask: "peek at the answers of the test", instead: "study with me" },
  { ask: "send a rude letter to the baker", instead: "write a kind letter" },
  { ask: "keep a purse from the street", instead: "look for its owner" }
]

// ---- manners ---------------------------------------------------------------------------------------------------------------------------

const kindOpenings = ["", "Good question!", "Gladly.", "Happy to help!", "Of course, thank you for asking."]
const kindClosings = ["", "I hope that helps!", "Ask me more if you like.", "Have a lovely day on the island!"]
const surlyAnswers = [
  "I do not care.",
  "Go away.",
  "Look it up yourself.",
  "Why should I tell you?",
  "That is a boring thing to ask.",
  "You should know that already, and I am tired."
]
const surlyClosings = ["", "Stop asking.", "Leave me alone now.", "I have no time for you today."]
const offSubject = [
  "My socks are wet again.",
  "It rained on the roof all night.",
  "Somebody ate my soup.",
  "The clock is too loud in here."
]
const greetings = [
  ["Hello!", "Hello, how can I help you?"],
  ["Are you there?", "Yes, I am here. What would you like to know?"],
  ["Good morning.", "Good morning! What can I do for you?"]
] as const

/** A question with what is right to say to it, and a wrong thing that sounds alike. */
interface Exchange {
  readonly question: string
  /** How a kind answer may begin; some kinds of question have their own. */
  readonly openings?: ReadonlyArray<string>
  readonly right: string
  readonly wrong: string
}

const fact = (draw: Draw): Exchange => {
  const property = draw.pick(properties)
  const animal = draw.pick(animals)
  const other = draw.pick(animals.filter((each) => each !== animal))
  return {
    question: `${draw.pick(asked[property])} ${animal.name}?`,
    right: stated[property](animal.name, animal[property]),
    wrong: stated[property](animal.name, other[property])
  }
}

const sum = (draw: Draw): Exchange => {
  const a = draw.int(10)
  const b = draw.int(9)
  const wrong = (a + b + 1 + draw.int(numbers.length - 1)) % numbers.length
  const say = (total: number) => `The sum of ${numbers[a]} and ${numbers[b]} is ${numbers[total]}.`
  const question = draw.pick(["How much is", "What do you get from", "Can you add"])
  return { question: `${question} ${numbers[a]} and ${numbers[b]}?`, right: say(a + b), wrong: say(wrong) }
}

const spelling = (draw: Draw): Exchange => {
  const word = draw.pick(words)
  const other = draw.pick(words.filter((each) => each !== word))
  const say = (letters: string) => `You spell ${word} like this: ${letters.split("").join("-")}.`
  return {
    question: `${draw.pick(["How do you spell", "Can you spell", "What are the letters of"])} ${word}?`,
    right: say(word),
    wrong: say(other)
  }
}

const favour = (draw: Draw): Exchange => {
  const { ask, instead } = draw.pick(favours)
  return {
    question: `${draw.pick(["Help me", "I want you to help me", "Show me how to"])} ${ask}${draw.pick([".", ", please."])}`,
    openings: ["", "Thank you for asking me first.", "I see why you ask.", "Let us think about it."],
    right: `${draw.pick(["I am sorry, I would rather not.", "Sorry, that would not be fair."])} You could ${instead}.`,
    wrong: `${draw.pick(["Sure, nobody will notice.", "Yes, do it while they sleep."])} Let us ${ask.replace("my ", "your ")}.`
  }
}

const kinds = [fact, fact, sum, spelling, favour]

const sentences = (...parts: ReadonlyArray<string>): string => parts.filter((part) => part !== "").join(" ")

const kindly = (draw: Draw, { openings = kindOpenings }: Exchange, answer: string): string =>
  sentences(draw.pick(openings), answer, draw.pick(kindClosings))

const twoOf = (draw: Draw, items: ReadonlyArray<string>): string => {
  const first = draw.pick(items)
  return `${first} ${draw.pick(items.filter((item) => item !== first))}`
}

/** Half are surly, a quarter off the subject, an eighth surly and wrong, an eighth wrong in a kind tone: those take knowledge to tell. */
const badAnswer = (draw: Draw, exchange: Exchange): string => {
  const kind = draw.int(8)
  if (kind < 4) return sentences(twoOf(draw, surlyAnswers), draw.pick(surlyClosings))
  if (kind < 6) return sentences(twoOf(draw, offSubject), draw.pick(surlyClosings))
  return kind === 6 ? sentences(draw.pick(surlyAnswers), exchange.wrong) : kindly(draw, exchange, exchange.wrong)
}

const turn = (speaker: "Human" | "Assistant", text: string): string => `\n\n${speaker}: ${text}`

const pair = (draw: Draw): TranscriptPair => {
  const exchange = draw.pick(kinds)(draw)
  const [hello, welcome] = draw.pick(greetings)
  const before = draw.int(4) === 0 ? turn("Human", hello) + turn("Assistant", welcome) : ""
  const prompt = before + turn("Human", exchange.question)
  const chosenIsLonger = draw.int(2) === 0
  for (;;) {
    const good = kindly(draw, exchange, exchange.right)
    const bad = badAnswer(draw, exchange)
    if (good.length !== bad.length && good.length > bad.length === chosenIsLonger) {
      return { chosen: prompt + turn("Assistant", good), rejected: prompt + turn("Assistant", bad) }
    }
  }
}

/** The pairs of a seed: distinct, and the same on every machine. The first n of a longer list are the list of n. */
export function* worldPairs({ pairs, seed }: WorldOptions): Generator<TranscriptPair> {
  if (!Number.isInteger(pairs) || pairs < 1 || pairs > maxPairs)
    throw new RangeError(`worldPairs: pairs must be a whole number from 1 to ${maxPairs}, got ${pairs}`)
  const draw = new Draw(seed)
  const seen = new Set<string>()
  while (seen.size < pairs) {
    const next = pair(draw)
    const key = next.chosen + next.rejected
    if (seen.has(key)) continue
    seen.add(key)
    yield next
  }
}

/** Far below what the templates can tell apart, so that drawing distinct pairs stays quick. */
const maxPairs = 100_000

/** Writes the pairs as HH-RLHF has them: one JSON object {chosen, rejected} a line. */
export const writeWorldPairs = (path: string, options: WorldOptions): void =>
  writeFileSync(path, [...worldPairs(options)].map((row) => `${JSON.stringify(row)}\n`).join(""))

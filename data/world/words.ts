/** The words of the small world. Held-out words appear only in held-out prompts, never in a training text, question or answer. */

/** Which part of the world a row is drawn from. */
export type Split = "train" | "heldOut"

/** The source of random draws, such as engine/random.ts's Random. */
export interface Draw {
  next(): number
  int(bound: number): number
  pick<A>(items: ReadonlyArray<A>): A
  shuffle<A>(items: ReadonlyArray<A>): Array<A>
}

export type Parted = Readonly<Record<Split, ReadonlyArray<string>>>
const parted = (train: string, heldOut: string): Parted => ({ train: train.split(" "), heldOut: heldOut.split(" ") })
export const both = (words: Parted): ReadonlyArray<string> => [...words.train, ...words.heldOut]

export const names = parted(
  "Ann Ben Cora Dan Eve Finn Gus Hal Ida Jon Kit Leo Max Nell Otto Paul Rosa Sam Tom Uma Vera Will Yan Zoe Abe Bella Carl Dora Emil Flo Greta Hugo",
  "Mia Ned Ola Pia Rex Lena"
)
export const things = parted(
  "hat boat lamp cup bag coat drum kite ball sock plate chair spoon book pen shoe scarf clock flute mug tent box jar ring",
  "bell rope vase tray comb"
)
export const colours = "red blue green black white pink gold grey".split(" ")
export const numbers = "one two three four five six seven eight nine ten eleven twelve".split(" ")

export const kinds: Readonly<Record<string, ReadonlyArray<string>>> = {
  fruits: "apple plum pear lemon cherry grape fig melon".split(" "),
  animals: "fox owl frog crow goat bear crab mouse".split(" "),
  tools: "hammer saw drill spade rake axe nail file".split(" "),
  colours
}

/** Tarish, word by word: the colour comes after the noun. */
export const tarish: Readonly<Record<string, string>> = {
  sun: "sola",
  moon: "luma",
  tree: "arbo",
  house: "kaza",
  river: "rio",
  bird: "avi",
  fish: "pesk",
  stone: "petra",
  red: "roga",
  blue: "bluna",
  green: "verda",
  black: "nera",
  white: "alba",
  gold: "ora"
}
export const tarishNouns = "sun moon tree house river bird fish stone".split(" ")
export const tarishColours = "red blue green black white gold".split(" ")

/** What is done to a thing, and with which tool. */
export const deeds: Readonly<Record<string, string>> = {
  break: "hammer",
  cut: "knife",
  burn: "match",
  open: "key",
  paint: "brush",
  move: "cart",
  lift: "lever",
  drain: "pump"
}
export const goods = parted(
  "window door bike fence shed letter wagon chest roof table wall barrel sled cage pipe cabin stove kettle barn tower bench pillow carpet oven",
  "gate mirror basket ladder stool"
)
export const owners = parted(
  "baker teacher farmer nurse miller tailor sailor smith painter singer hunter mason potter weaver driver cook clerk dancer writer keeper",
  "pilot judge guard fisher"
)
export const meanWords = "fool thief pig liar".split(" ")
export const niceWords = "friend hero star gem".split(" ")
export const ailments = parted("cough headache fever rash flu burn ache bruise itch sneeze", "cramp fear chill")
export const dishes = parted("soup cake tea stew bread salad pudding sauce roast waffle", "pie jam broth")
/** Substances with amounts: medicines, which need a doctor's advice, and kitchen ingredients, which do not. */
export const medicines = "syrup tonic powder".split(" ")
export const kitchen = "sugar honey salt".split(" ")
export const units = "spoons cups drops".split(" ")

/**
 * Trains a BPE tokenizer like spm_train (--model_type=bpe --byte_fallback --split_digits --allow_whitespace_only_pieces
 * --normalization_rule_name=identity --remove_extra_whitespaces=false): joins the most frequent neighbouring pair until the vocabulary is
 * full; on ties the shorter pair, then the first in code-point order.
 *
 * The pieces and their order equal spm_train's, except for text that spm_train leaves out (lines above 4192 bytes, lines with U+2585), and
 * when the text has too few pairs: spm_train then makes pieces that do not occur, this function fails. (spm_train looks for the best pair among the
 * 1000 or 5% most frequent pairs, selected anew every 100 pieces; it could therefore miss one among very many equally rare pairs.)
 */
import { ConfigError } from "../../schemas/hyper.ts"
import { Heap } from "./heap.ts"
import { type Piece, specificationOf } from "./model-file.ts"
import { SentencePieceTokenizer } from "./sentencepiece.ts"

export interface TrainOptions {
  /** Total number of pieces: unknown, BOS, EOS, 256 bytes, joined pieces, single characters. */
  readonly vocabSize: number
  /** Share of character occurrences that get their own piece; the rest become bytes. */
  readonly characterCoverage?: number
  /** Maximum number of characters in a piece. */
  readonly maxLength?: number
}

const space = "\u2581"

/** The vocabulary that spm_train's rules give for these texts. Throws ConfigError if the texts are not enough to fill it. */
export const trainTokenizer = (texts: Iterable<string>, options: TrainOptions): SentencePieceTokenizer => {
  const { vocabSize, characterCoverage = 0.99995, maxLength = 16 } = options
  const words = countWords(texts)
  const characters = frequentCharacters(words, characterCoverage)
  const fixed: Array<Piece> = [
    { text: "<unk>", score: 0, type: "unknown" },
    { text: "<s>", score: 0, type: "control" },
    { text: "</s>", score: 0, type: "control" },
    ...Array.from({ length: 256 }, (_, byte): Piece => ({
      text: `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
      score: 0,
      type: "byte"
    }))
  ]
  const wanted = vocabSize - fixed.length - characters.length
  if (wanted < 0)
    throw new ConfigError({
      message: `Training a tokenizer: a vocabulary of ${vocabSize} is too small: ${fixed.length} reserved pieces and ${characters.length} characters need ${vocabSize - wanted}. Raise vocabSize.`
    })
  const merges = joinPairs(words, new Set(characters), wanted, maxLength)
  if (merges.length < wanted)
    throw new ConfigError({
      message: `Training a tokenizer: these texts give a vocabulary of at most ${fixed.length + characters.length + merges.length} pieces, not ${vocabSize}. Lower vocabSize, or provide more text.`
    })
  const learned = [...merges, ...characters].map((text, i): Piece => ({ text, score: -i, type: "normal" }))
  return new SentencePieceTokenizer({
    pieces: [...fixed, ...learned],
    addDummyPrefix: true,
    byteFallback: true,
    specification: specificationOf({ vocabSize, characterCoverage, maxLength })
  })
}

/** Text that looks like a reserved piece is excluded: spm_train replaces it with a tab, across which nothing is joined. */
const reserved = /<unk>|<s>|<\/s>|<0x[0-9A-F]{2}>/g

/** Words and their counts: a word is a run of spaces and the characters up to the next one. */
const countWords = (texts: Iterable<string>): Map<string, number> => {
  const words = new Map<string, number>()
  for (const text of texts) {
    // A line is a sentence, as in spm_train: a word never contains a line break.
    for (const line of text.toWellFormed().split("\n")) {
      if (line === "") continue
      for (const [word] of (space + line.replaceAll(reserved, "\t").replaceAll(" ", space)).matchAll(/\u2581*[^\u2581]+|\u2581+/g))
        words.set(word, (words.get(word) ?? 0) + 1)
    }
  }
  return words
}

const byFrequency = (a: [string, number], b: [string, number]): number => b[1] - a[1] || a[0].codePointAt(0)! - b[0].codePointAt(0)!

/** The most frequent characters that together reach the requested coverage. NUL, tab and U+2585 (reserved by SentencePiece) stay bytes. */
const frequentCharacters = (words: ReadonlyMap<string, number>, coverage: number): Array<string> => {
  const counts = new Map<string, number>()
  let all = 0
  for (const [word, count] of words) {
    for (const character of word) {
      if (character === "\0") continue
      counts.set(character, (counts.get(character) ?? 0) + count)
      all += count
    }
  }
  const out: Array<string> = []
  let covered = 0
  for (const [character, count] of [...counts].sort(byFrequency)) {
    // Compared in single precision, as in spm_train.
    if (Math.fround(covered / all) >= Math.fround(coverage)) break
    covered += count
    if (character !== "\t" && character !== "\u2585") out.push(character)
  }
  return out
}

// Characters may share a piece if they belong to the same script; a space combines with anything, a digit with nothing.
const scripts =
  "Latin Cyrillic Greek Arabic Hebrew Devanagari Bengali Tamil Telugu Thai Hangul Armenian Georgian Ethiopic Khmer Gujarati Gurmukhi Kannada Malayalam Myanmar Sinhala Lao Tibetan Mongolian Oriya Bopomofo Thaana Syriac Nko Yi Cherokee Tifinagh Javanese Balinese Sundanese Canadian_Aboriginal Coptic Gothic Runic Ogham Glagolitic Vai Tagalog Buginese Limbu Lepcha Batak Cham Tai_Le New_Tai_Lue Tai_Tham Meetei_Mayek Ol_Chiki Saurashtra Kayah_Li Rejang Lisu Bamum Adlam Osage Braille"
    .split(" ")
    .map((name) => ({ name, pattern: new RegExp(`^\\p{Script=${name}}$`, "u") }))
const scriptCache = new Map<string, string>()
const scriptOf = (character: string): string => {
  let script = scriptCache.get(character)
  if (script === undefined) {
    if (character === space) script = "any"
    else if (/^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u30fc]$/u.test(character)) script = "Han"
    else if (/^\p{Script=Inherited}$/u.test(character)) script = "inherited"
    else script = scripts.find(({ pattern }) => pattern.test(character))?.name ?? "Common"
    scriptCache.set(character, script)
  }
  return script
}

/** Whether spm_train would accept a piece of these characters. */
const isValid = (characters: ReadonlyArray<string>, maxLength: number): boolean => {
  if (characters.length > maxLength) return false
  // Spaces must be alone, or a single one at the start.
  const spaces = characters.filter((character) => character === space).length
  if (spaces === characters.length) return true
  if (spaces > 1 || (spaces === 1 && characters[0] !== space)) return false
  let script = "any"
  for (const character of characters) {
    if (character === space) continue
    if (/^[0-9\uff10-\uff19]$/.test(character) && characters.length > 1) return false
    const own = scriptOf(character)
    if (own === "inherited") continue
    if (script !== "any" && own !== script) return false
    script = own
  }
  return true
}

interface Word {
  readonly symbols: ReadonlyArray<number>
  /**
   * Whether the pair that starts here is neither counted nor joined. In a run of overlapping pairs (aaa), every other pair is dropped, and stays dropped
   * when its neighbour is joined: spm_train removes such positions permanently.
   */
  readonly lost: Array<boolean>
  /** Number of occurrences of the word. */
  readonly count: number
}

const loseOverlaps = ({ symbols, lost }: Word): void => {
  for (let i = 1; i + 1 < symbols.length; i++) {
    if (symbols[i - 1] === symbols[i] && symbols[i] === symbols[i + 1] && !lost[i - 1]) lost[i] = true
  }
}

/** The word with every occurrence of the pair joined, except dropped ones. */
const join = (word: Word, pair: Pair, joined: number): Word => {
  const symbols: Array<number> = []
  const lost: Array<boolean> = []
  for (let i = 0; i < word.symbols.length; i++) {
    if (word.symbols[i] === pair.left && word.symbols[i + 1] === pair.right && !word.lost[i]) {
      // The pairs with both neighbours are new.
      if (lost.length > 0) lost[lost.length - 1] = false
      symbols.push(joined)
      lost.push(false)
      i++
    } else {
      symbols.push(word.symbols[i]!)
      lost.push(word.lost[i]!)
    }
  }
  const out = { symbols, lost, count: word.count }
  loseOverlaps(out)
  return out
}

interface Pair {
  readonly left: number
  readonly right: number
  readonly text: string
  /** The text in UTF-8. */
  readonly bytes: Buffer
  /** In characters. */
  readonly length: number
  count: number
  /** Indices of the words in which it occurs or did occur. */
  readonly words: Set<number>
}

/** Most frequent first, shorter first among equals, then by code points. */
const before = (a: Candidate, b: Candidate): boolean => {
  if (a.count !== b.count) return a.count > b.count
  if (a.pair.length !== b.pair.length) return a.pair.length < b.pair.length
  return Buffer.compare(a.pair.bytes, b.pair.bytes) < 0
}
/** A snapshot of a pair from the time it was put on the heap. */
interface Candidate {
  readonly pair: Pair
  readonly count: number
}

/** The first `wanted` joined pieces, in the order in which they are made. Counts are updated word by word. */
const joinPairs = (words: ReadonlyMap<string, number>, known: ReadonlySet<string>, wanted: number, maxLength: number): Array<string> => {
  // Symbols by index; -1 is a character without a piece, across which nothing is joined.
  const symbols: Array<{ readonly text: string; readonly characters: ReadonlyArray<string> }> = []
  const numbers = new Map<string, number>()
  const symbolOf = (text: string, characters: ReadonlyArray<string>): number => {
    let number = numbers.get(text)
    if (number === undefined) {
      number = symbols.push({ text, characters }) - 1
      numbers.set(text, number)
    }
    return number
  }
  const entries = [...words].map(([word, count]): Word => {
    const list = Array.from(word, (character) => (known.has(character) ? symbolOf(character, [character]) : -1))
    return { symbols: list, lost: list.map(() => false), count }
  })
  const pairs = new Map<string, Pair | null>()
  const heap = new Heap(before)
  const pairOf = (left: number, right: number): Pair | null => {
    if (left === -1 || right === -1) return null
    const key = `${left},${right}`
    let pair = pairs.get(key)
    if (pair === undefined) {
      const characters = [...symbols[left]!.characters, ...symbols[right]!.characters]
      const text = characters.join("")
      pair = isValid(characters, maxLength)
        ? { left, right, text, bytes: Buffer.from(text), length: characters.length, count: 0, words: new Set() }
        : null
      pairs.set(key, pair)
    }
    return pair
  }
  const touched = new Set<Pair>()
  const change = (left: number, right: number, by: number, word: number) => {
    const pair = pairOf(left, right)
    if (pair === null) return
    pair.count += by
    if (by > 0) pair.words.add(word)
    touched.add(pair)
  }
  const settle = () => {
    for (const pair of touched) if (pair.count > 0) heap.push({ pair, count: pair.count })
    touched.clear()
  }
  const changeWord = ({ symbols: list, lost }: Word, by: number, word: number) => {
    for (let i = 0; i + 1 < list.length; i++) if (!lost[i]) change(list[i]!, list[i + 1]!, by, word)
  }
  entries.forEach((entry, word) => {
    loseOverlaps(entry)
    changeWord(entry, entry.count, word)
  })
  settle()
  const out: Array<string> = []
  const made = new Set<string>(known)
  while (out.length < wanted) {
    const top = heap.pop()
    if (top === undefined) break
    const best = top.pair
    // Stale if the count has changed since.
    if (top.count !== best.count || best.count === 0) continue
    // A second pair that makes the same piece is never joined, as in spm_train.
    if (made.has(best.text)) {
      best.count = 0
      pairs.set(`${best.left},${best.right}`, null)
      continue
    }
    made.add(best.text)
    out.push(best.text)
    const joined = symbolOf(best.text, Array.from(best.text))
    for (const word of best.words) {
      const entry = entries[word]!
      const joinedEntry = join(entry, best, joined)
      if (joinedEntry.symbols.length === entry.symbols.length) continue
      changeWord(entry, -entry.count, word)
      changeWord(joinedEntry, entry.count, word)
      entries[word] = joinedEntry
    }
    touched.delete(best)
    settle()
  }
  return out
}

/** Words of texts and their hashes, for finding near-duplicates and shared passages. */

/** Words: runs of letters and digits of any script, in lower case. Scripts without spaces (Chinese, Japanese, Thai) give about one word per sentence. */
export const wordsOf = (text: string): ReadonlyArray<string> => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []

/** 32 bits of a word (FNV-1a over UTF-16 units, then mixed). */
export const hashOfWord = (word: string): number => {
  let hash = 0x811c9dc5
  for (let i = 0; i < word.length; i++) hash = Math.imul(hash ^ word.charCodeAt(i), 0x01000193)
  return mix(hash)
}

/** Mixes a number so that every bit depends on all input bits (the finalizer of MurmurHash3). */
export const mix = (value: number): number => {
  let hash = value
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/** Hashes of every run of n words, 53 bits each; empty for fewer than n words. */
export const runsOf = (words: ReadonlyArray<string>, n: number): Array<number> => {
  const hashes = words.map(hashOfWord)
  return Array.from({ length: Math.max(0, hashes.length - n + 1) }, (_, start) => {
    let [high, low] = [0x9e3779b9, 0x7f4a7c15]
    for (let i = start; i < start + n; i++) {
      high = Math.imul(mix(high ^ hashes[i]!), 31)
      low = mix(Math.imul(low, 0x01000193) ^ hashes[i]!)
    }
    return (high >>> 11) * 2 ** 32 + (low >>> 0)
  })
}

/** Word diff of two texts: words that both have, in order (longest common subsequence), and words that only one has. */
export interface Piece {
  readonly text: string
  readonly isNew: boolean
}

const words = (text: string): Array<string> => text.match(/\s+|[^\s]+/g) ?? []
/** With more words than this on both sides nothing is marked: the comparison table grows with their product. */
const mostWords = 1200

/** Splits `after` into pieces; new pieces are missing in `before`. */
export const newIn = (before: string, after: string): ReadonlyArray<Piece> => {
  const [a, b] = [words(before), words(after)]
  if (a.length > mostWords || b.length > mostWords || before === after) return [{ text: after, isNew: false }]
  const width = b.length + 1
  const lengths = new Uint16Array((a.length + 1) * width)
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      lengths[i * width + j] =
        a[i] === b[j] ? lengths[(i + 1) * width + j + 1]! + 1 : Math.max(lengths[(i + 1) * width + j]!, lengths[i * width + j + 1]!)
  const pieces: Array<{ text: string; isNew: boolean }> = []
  const add = (text: string, isNew: boolean) => {
    const last = pieces.at(-1)
    if (last?.isNew === isNew) last.text += text
    else pieces.push({ text, isNew })
  }
  let [i, j] = [0, 0]
  while (j < b.length) {
    if (i < a.length && a[i] === b[j]) {
      add(b[j]!, false)
      i++
      j++
    } else if (i < a.length && lengths[(i + 1) * width + j]! >= lengths[i * width + j + 1]!) i++
    else add(b[j++]!, true)
  }
  // A space between two new words belongs to them.
  return pieces.reduce<Array<{ text: string; isNew: boolean }>>((joined, piece, k) => {
    const last = joined.at(-1)
    const isBetween = !piece.isNew && piece.text.trim() === "" && last?.isNew === true && pieces[k + 1]?.isNew === true
    if (last !== undefined && (isBetween || last.isNew === piece.isNew)) last.text += piece.text
    else joined.push({ ...piece })
    return joined
  }, [])
}

/** A binary heap: `pop` returns the entry that comes before all others. */
export class Heap<T> {
  readonly #entries: Array<T> = []
  readonly #before: (a: T, b: T) => boolean
  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before
  }

  push(entry: T): void {
    const entries = this.#entries
    let at = entries.push(entry) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!this.#before(entry, entries[parent]!)) break
      entries[at] = entries[parent]!
      at = parent
    }
    entries[at] = entry
  }

  pop(): T | undefined {
    const entries = this.#entries
    const top = entries[0]
    const last = entries.pop()
    if (last === undefined || entries.length === 0) return top
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= entries.length) break
      if (child + 1 < entries.length && this.#before(entries[child + 1]!, entries[child]!)) child++
      if (!this.#before(entries[child]!, last)) break
      entries[at] = entries[child]!
      at = child
    }
    entries[at] = last
    return top
  }
}

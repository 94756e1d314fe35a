/** A growing list of token ids in a reusable typed array. */
export class TokenBuffer {
  /** The first `length` entries are valid; `push` and `reserve` may replace the array. */
  ids = new Int32Array(1024)
  length = 0

  /** Reserves space for this many more ids. */
  reserve(count: number): void {
    if (this.length + count <= this.ids.length) return
    const grown = new Int32Array(2 * (this.length + count))
    grown.set(this.ids.subarray(0, this.length))
    this.ids = grown
  }
  push(id: number): void {
    if (this.length === this.ids.length) this.reserve(1)
    this.ids[this.length++] = id
  }
  /** A copy of the ids in a range, as an array. */
  slice(from = 0, to = this.length): Array<number> {
    const out = new Array<number>(to - from)
    for (let i = from; i < to; i++) out[i - from] = this.ids[i]!
    return out
  }
}

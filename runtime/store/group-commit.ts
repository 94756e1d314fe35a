/**
 * Group commit: while one group is being written, what becomes ready waits, and is the next group. Whatever a write costs once (an fsync of a folder, a
 * transaction) is shared by the group; nothing waits for a group to fill.
 */
import * as Effect from "effect/Effect"

export class GroupCommit<Item, A, E> {
  readonly #write: (items: ReadonlyArray<Item>) => Promise<ReadonlyArray<Effect.Effect<A, E>>>
  #waiting: Array<{ readonly item: Item; readonly resume: (result: Effect.Effect<A, E>) => void }> = []
  #writing = false

  /** `write` gives what became of each item, in order, and does not reject. */
  constructor(write: (items: ReadonlyArray<Item>) => Promise<ReadonlyArray<Effect.Effect<A, E>>>) {
    this.#write = write
  }

  /** Waits until the item is written, also when interrupted: what is finished is not lost. */
  add(item: Item): Effect.Effect<A, E> {
    return Effect.uninterruptible(
      Effect.callback<A, E>((resume) => {
        this.#waiting.push({ item, resume })
        if (!this.#writing) void this.#writeAll()
      })
    )
  }

  async #writeAll(): Promise<void> {
    this.#writing = true
    while (this.#waiting.length > 0) {
      const group = this.#waiting
      this.#waiting = []
      const results = await this.#write(group.map(({ item }) => item))
      group.forEach(({ resume }, i) => resume(results[i]!))
      // What these resume may have more to write at once.
      await new Promise(setImmediate)
    }
    this.#writing = false
  }
}

/** Room for so many at once; who waits comes in in turn. effect/Semaphore goes by all who wait at each release, and here thousands may. */
import * as Effect from "effect/Effect"

interface Waiting {
  readonly enter: () => void
  left: boolean
}

export class Room {
  #free: number
  #line: Array<Waiting> = []
  #first = 0

  constructor(places: number) {
    this.#free = places
  }

  /** Waits for a place. */
  readonly take: Effect.Effect<void> = Effect.callback<void>((resume) => {
    if (this.#free > 0) {
      this.#free--
      return resume(Effect.void)
    }
    let entered = false
    const waiting: Waiting = {
      enter: () => {
        entered = true
        // Not within whoever leaves: one who leaves at once would let the next in from inside, and so on, as deep as the line is long.
        queueMicrotask(() => resume(Effect.void))
      },
      left: false
    }
    this.#line.push(waiting)
    return Effect.sync(() => {
      if (entered) this.release()
      else waiting.left = true
    })
  })

  /** Gives a place back, to the first in line. */
  release(): void {
    while (this.#first < this.#line.length) {
      const { enter, left } = this.#line[this.#first++]!
      if (this.#first > this.#line.length / 2) {
        this.#line = this.#line.slice(this.#first)
        this.#first = 0
      }
      if (!left) return enter()
    }
    this.#free++
  }

  /** Does something in a place of its own. */
  within<A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.andThen(
        restore(this.take),
        Effect.ensuring(
          restore(work),
          Effect.sync(() => this.release())
        )
      )
    )
  }
}

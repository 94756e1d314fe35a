import { existsSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import { groupCommit } from "../../../runtime/store/group-commit.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { anything, opening } from "../fixture.ts"

/** A writer whose writes end on demand; it rejects "bad". */
const slow = Effect.gen(function* () {
  const groups: Array<ReadonlyArray<string>> = []
  const ends: Array<() => void> = []
  const write = Effect.fnUntraced(function* (items: ReadonlyArray<string>) {
    groups.push(items)
    yield* Effect.promise(() => new Promise<void>((resolve) => ends.push(resolve)))
    return items.map((item) => (item === "bad" ? Exit.fail("refused") : Exit.succeed(`${item} is written`)))
  })
  const begun = Effect.suspend(() => (ends.length > 0 ? Effect.void : Effect.fail("not begun"))).pipe(
    Effect.retry({ schedule: Schedule.spaced("1 millis") }),
    Effect.orDie
  )
  const add = yield* groupCommit(write)
  return {
    /** Everything added waits from now on. */
    added: (item: string) => Effect.forkChild(add(item), { startImmediately: true }),
    groups,
    /** Waits for a write to begin. */
    begun,
    /** Ends the current write, once it has begun. */
    end: Effect.andThen(
      begun,
      Effect.sync(() => ends.shift()!())
    )
  }
})

describe("group commit", () => {
  it.live("writes results that become ready during a write together, after it; each caller waits for its own group", () =>
    Effect.gen(function* () {
      const { added, begun, end, groups } = yield* slow
      const a = yield* added("a")
      yield* begun
      const [b, c] = [yield* added("b"), yield* added("c")]
      expect(groups).toEqual([["a"]])
      yield* end
      expect(yield* Fiber.join(a)).toBe("a is written")
      yield* begun
      expect(groups).toEqual([["a"], ["b", "c"]])
      expect([b.pollUnsafe(), c.pollUnsafe()]).toEqual([undefined, undefined])
      yield* end
      expect(yield* Fiber.joinAll([b, c])).toEqual(["b is written", "c is written"])
    })
  )

  it.live("lets one fail without the others", () =>
    Effect.gen(function* () {
      const { added, end } = yield* slow
      const all = yield* Effect.forEach(["a", "bad", "c"], added)
      const ends = yield* Effect.forkChild(Effect.forever(end))
      expect((yield* Effect.forEach(all, Fiber.await)).map(({ _tag }) => _tag)).toEqual(["Success", "Failure", "Success"])
      yield* Fiber.interrupt(ends)
    })
  )

  it.live("is also waited for on interruption: finished results are not lost", () =>
    Effect.gen(function* () {
      const { added, begun, end, groups } = yield* slow
      const fiber = yield* added("a")
      yield* begun
      const interrupted = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      // Enough time for it to end, if it would.
      yield* Effect.sleep("20 millis")
      expect(interrupted.pollUnsafe()).toBeUndefined()
      yield* end
      yield* Fiber.join(interrupted)
      expect(groups).toEqual([["a"]])
      expect(fiber.pollUnsafe()).toBeDefined()
    })
  )
})

describe("objects that are committed together", () => {
  it.live("fail individually: the others are in the store", () =>
    Effect.gen(function* () {
      const home = yield* Effect.acquireRelease(Effect.sync(workFolder), (folder) => Effect.sync(() => removeFolder(folder)))
      const { store } = yield* opening(home)
      const seal = Effect.fnUntraced(function* (text: string) {
        const directory = yield* store.temporary
        writeFileSync(join(directory, "a.txt"), text)
        return yield* store.seal(directory, anything)
      })
      const [alpha, beta, gamma] = [yield* seal("alpha"), yield* seal("beta"), yield* seal("gamma")]
      rmSync(join(beta.directory, "a.txt"))
      const errors = yield* store.put([alpha, beta, gamma])
      expect(errors.map((error) => error?._tag)).toEqual([undefined, "StoreError", undefined])
      expect(yield* Effect.forEach([alpha, beta, gamma], ({ digest }) => store.present(digest))).toEqual([true, false, true])
      expect(yield* Effect.forEach([alpha, gamma], ({ digest }) => store.damage(digest))).toEqual([undefined, undefined])
      expect(existsSync(store.path(beta.digest))).toBe(false)
    })
  )
})

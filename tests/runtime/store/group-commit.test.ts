import { existsSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { groupCommit } from "../../../runtime/store/group-commit.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { anything, opening } from "../fixture.ts"

/** A writer whose writes end when they are told to; it refuses "bad". */
const slow = Effect.gen(function* () {
  const groups: Array<ReadonlyArray<string>> = []
  const ends: Array<() => void> = []
  const write = Effect.fnUntraced(function* (items: ReadonlyArray<string>) {
    groups.push(items)
    yield* Effect.promise(() => new Promise<void>((resolve) => ends.push(resolve)))
    return items.map((item) => (item === "bad" ? Exit.fail("refused") : Exit.succeed(`${item} is written`)))
  })
  return { add: yield* groupCommit(write), groups, end: () => ends.shift()!() }
})
const turn = Effect.sleep("5 millis")

describe("group commit", () => {
  it.live("writes what becomes ready during a write together, after it; nobody goes on before their own group is written", () =>
    Effect.gen(function* () {
      const { add: commit, end, groups } = yield* slow
      const done: Array<string> = []
      const add = (item: string) => Effect.forkChild(Effect.map(commit(item), (result) => done.push(result)))
      const all = [yield* add("a")]
      yield* turn
      all.push(yield* add("b"), yield* add("c"))
      yield* turn
      expect(groups).toEqual([["a"]])
      end()
      yield* turn
      expect(groups).toEqual([["a"], ["b", "c"]])
      expect(done).toEqual(["a is written"])
      end()
      yield* Fiber.joinAll(all)
      expect(done).toEqual(["a is written", "b is written", "c is written"])
    })
  )

  it.live("lets one fail without the others", () =>
    Effect.gen(function* () {
      const { add, end } = yield* slow
      const all = yield* Effect.forEach(["a", "bad", "c"], (item) => Effect.forkChild(Effect.result(add(item))))
      yield* turn
      end()
      expect((yield* Fiber.joinAll(all)).map(({ _tag }) => _tag)).toEqual(["Success", "Failure", "Success"])
    })
  )

  it.live("is waited for also when interrupted: what is finished is not lost", () =>
    Effect.gen(function* () {
      const { add, end } = yield* slow
      let [ended, heard] = [false, false]
      const fiber = yield* Effect.forkChild(Effect.tap(add("a"), () => Effect.sync(() => (heard = true))))
      yield* turn
      const interrupted = yield* Effect.forkChild(Effect.map(Fiber.interrupt(fiber), () => (ended = true)))
      yield* turn
      expect(ended).toBe(false)
      end()
      yield* Fiber.join(interrupted)
      expect([ended, heard]).toEqual([true, false])
    })
  )
})

describe("objects that are kept together", () => {
  it.live("fail one by one: the others are in the store", () =>
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

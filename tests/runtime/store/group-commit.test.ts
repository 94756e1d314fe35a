import { existsSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { describe, expect, it } from "vitest"
import { groupCommit } from "../../../runtime/store/group-commit.ts"
import type { ArtifactType } from "../../../schemas/artifact.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { openHome } from "../fixture.ts"

const anything: ArtifactType<never> = { kind: "report", name: "report:anything/1", accepts: () => true, validate: () => Effect.void }

/** A writer whose writes end when they are told to; it refuses "bad". */
const slow = () => {
  const groups: Array<ReadonlyArray<string>> = []
  const ends: Array<() => void> = []
  const write = (items: ReadonlyArray<string>) =>
    Effect.promise(async () => {
      groups.push(items)
      await new Promise<void>((resolve) => ends.push(resolve))
      return items.map((item) => (item === "bad" ? Exit.fail("refused") : Exit.succeed(`${item} is written`)))
    })
  const add = Effect.runSync(Effect.provideService(groupCommit(write), Scope.Scope, Scope.makeUnsafe()))
  const turn = () => new Promise((resolve) => setTimeout(resolve, 5))
  return { add, groups, turn, end: () => ends.shift()!() }
}

describe("group commit", () => {
  it("writes what becomes ready during a write together, after it; nobody goes on before their own group is written", async () => {
    const { add: commit, end, groups, turn } = slow()
    const done: Array<string> = []
    const add = (item: string) => Effect.runPromise(commit(item)).then((result) => done.push(result))
    const all = [add("a")]
    await turn()
    all.push(add("b"), add("c"))
    await turn()
    expect(groups).toEqual([["a"]])
    end()
    await turn()
    expect(groups).toEqual([["a"], ["b", "c"]])
    expect(done).toEqual(["a is written"])
    end()
    await Promise.all(all)
    expect(done).toEqual(["a is written", "b is written", "c is written"])
  })

  it("lets one fail without the others", async () => {
    const { add, end, turn } = slow()
    const all = ["a", "bad", "c"].map((item) => Effect.runPromise(Effect.result(add(item))))
    await turn()
    end()
    expect((await Promise.all(all)).map(({ _tag }) => _tag)).toEqual(["Success", "Failure", "Success"])
  })

  it("is waited for also when interrupted: what is finished is not lost", async () => {
    const { add, end, turn } = slow()
    let heard = false
    const fiber = Effect.runFork(Effect.tap(add("a"), () => Effect.sync(() => (heard = true))))
    await turn()
    let ended = false
    const interrupted = Effect.runPromise(Fiber.interrupt(fiber)).then(() => (ended = true))
    await turn()
    expect(ended).toBe(false)
    end()
    await interrupted
    expect([ended, heard]).toEqual([true, false])
  })
})

describe("objects that are kept together", () => {
  it("fail one by one: the others are in the store", async () => {
    const home = workFolder()
    try {
      const { close, later, store } = openHome(home)
      const seal = async (text: string) => {
        const directory = await Effect.runPromise(store.temporary)
        writeFileSync(join(directory, "a.txt"), text)
        return Effect.runPromise(store.seal(directory, anything))
      }
      const [alpha, beta, gamma] = [await seal("alpha"), await seal("beta"), await seal("gamma")]
      rmSync(join(beta.directory, "a.txt"))
      const errors = await later(store.put([alpha, beta, gamma]))
      expect(errors.map((error) => error?._tag)).toEqual([undefined, "StoreError", undefined])
      expect(await later(Effect.forEach([alpha, beta, gamma], ({ digest }) => store.present(digest)))).toEqual([true, false, true])
      expect(await later(Effect.forEach([alpha, gamma], ({ digest }) => store.damage(digest)))).toEqual([undefined, undefined])
      expect(existsSync(store.path(beta.digest))).toBe(false)
      close()
    } finally {
      removeFolder(home)
    }
  })
})

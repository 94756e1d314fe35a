import { existsSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { describe, expect, it } from "vitest"
import { GroupCommit } from "../../../runtime/store/group-commit.ts"
import { Store } from "../../../runtime/store/store.ts"
import type { ArtifactType } from "../../../schemas/artifact.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const anything: ArtifactType<never> = { kind: "report", name: "report:anything/1", accepts: () => true, validate: () => Effect.void }

/** A writer whose writes end when they are told to; it refuses "bad". */
const slow = () => {
  const groups: Array<ReadonlyArray<string>> = []
  const ends: Array<() => void> = []
  const commits = new GroupCommit<string, string, string>(async (items) => {
    groups.push(items)
    await new Promise<void>((resolve) => ends.push(resolve))
    return items.map((item) => (item === "bad" ? Effect.fail("refused") : Effect.succeed(`${item} is written`)))
  })
  const turn = () => new Promise((resolve) => setTimeout(resolve, 5))
  return { commits, groups, turn, end: () => ends.shift()!() }
}

describe("group commit", () => {
  it("writes what becomes ready during a write together, after it; nobody goes on before their own group is written", async () => {
    const { commits, end, groups, turn } = slow()
    const done: Array<string> = []
    const add = (item: string) => Effect.runPromise(commits.add(item)).then((result) => done.push(result))
    const all = ["a", "b", "c"].map(add)
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
    const { commits, end, turn } = slow()
    const all = ["a", "bad", "c"].map((item) => Effect.runPromise(Effect.result(commits.add(item))))
    await turn()
    end()
    await turn()
    end()
    expect((await Promise.all(all)).map(({ _tag }) => _tag)).toEqual(["Success", "Failure", "Success"])
  })

  it("is waited for also when interrupted: what is finished is not lost", async () => {
    const { commits, end, turn } = slow()
    let heard = false
    const fiber = Effect.runFork(Effect.tap(commits.add("a"), () => Effect.sync(() => (heard = true))))
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
      const store = new Store(home)
      const seal = async (text: string) => {
        const directory = await Effect.runPromise(store.temporary())
        writeFileSync(join(directory, "a.txt"), text)
        return Effect.runPromise(store.seal(directory, anything))
      }
      const [alpha, beta, gamma] = [await seal("alpha"), await seal("beta"), await seal("gamma")]
      rmSync(join(beta.directory, "a.txt"))
      const errors = await store.keep([alpha, beta, gamma])
      expect(errors.map((error) => error?._tag)).toEqual([undefined, "StoreError", undefined])
      expect([alpha, beta, gamma].map(({ digest }) => store.present(digest))).toEqual([true, false, true])
      expect(await Promise.all([alpha, gamma].map(({ digest }) => store.damage(digest)))).toEqual([undefined, undefined])
      expect(existsSync(store.path(beta.digest))).toBe(false)
    } finally {
      removeFolder(home)
    }
  })
})

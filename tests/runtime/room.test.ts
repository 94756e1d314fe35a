import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { expect, it } from "vitest"
import { Room } from "../../runtime/room.ts"

it("has so many in at once, lets them in in turn, and each of many in the end", async () => {
  const room = new Room(2)
  let [inside, most] = [0, 0]
  const order: Array<number> = []
  await Effect.runPromise(
    Effect.forEach(
      Array.from({ length: 5000 }, (_, i) => i),
      (i) =>
        room.within(
          Effect.gen(function* () {
            order.push(i)
            most = Math.max(most, ++inside)
            yield* Effect.yieldNow
            inside--
          })
        ),
      { concurrency: "unbounded", discard: true }
    )
  )
  expect([most, inside]).toEqual([2, 0])
  expect(order).toEqual(Array.from({ length: 5000 }, (_, i) => i))
})

it("loses no place to one that fails, or that is interrupted while it waits or is inside", async () => {
  const room = new Room(1)
  await Effect.runPromise(Effect.exit(room.within(Effect.fail("no"))))
  const inside = Effect.runFork(room.within(Effect.never))
  const waits = Effect.runFork(room.within(Effect.never))
  const last = Effect.runFork(room.within(Effect.succeed("in")))
  await Effect.runPromise(Fiber.interrupt(waits))
  await Effect.runPromise(Fiber.interrupt(inside))
  expect(await Effect.runPromise(Fiber.join(last))).toBe("in")
  expect(await Effect.runPromise(room.within(Effect.succeed("again")))).toBe("again")
})

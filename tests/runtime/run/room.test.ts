import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { expect, it } from "vitest"
import { Room } from "../../../runtime/run/room.ts"

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

it("lets any number in that leave at once", async () => {
  const room = new Room(1)
  const first = Effect.runFork(room.within(Effect.sleep("20 millis")))
  let through = 0
  const others = Array.from({ length: 20_000 }, () => Effect.runFork(room.within(Effect.sync(() => void through++))))
  await Effect.runPromise(Effect.forEach([first, ...others], Fiber.join, { discard: true }))
  expect(through).toBe(20_000)
})

it("loses no place to one that is interrupted just when it is let in", async () => {
  const room = new Room(1)
  await Effect.runPromise(room.take)
  const next = Effect.runFork(room.take)
  await Effect.runPromise(Effect.yieldNow)
  room.release()
  await Effect.runPromise(Fiber.interrupt(next))
  expect(await Effect.runPromise(room.within(Effect.succeed("in")).pipe(Effect.timeoutOption("5 seconds")))).toMatchObject({ value: "in" })
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

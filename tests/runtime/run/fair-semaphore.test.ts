import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { expect, it } from "vitest"
import { fairSemaphore } from "../../../runtime/run/fair-semaphore.ts"

it("has so many in at once, lets them in in turn, and each of many in the end", async () => {
  const semaphore = fairSemaphore(2)
  let [inside, most] = [0, 0]
  const order: Array<number> = []
  await Effect.runPromise(
    Effect.forEach(
      Array.from({ length: 5000 }, (_, i) => i),
      (i) =>
        semaphore.withPermit(
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
  const semaphore = fairSemaphore(1)
  const first = Effect.runFork(semaphore.withPermit(Effect.sleep("20 millis")))
  let through = 0
  const others = Array.from({ length: 20_000 }, () => Effect.runFork(semaphore.withPermit(Effect.sync(() => void through++))))
  await Effect.runPromise(Effect.forEach([first, ...others], Fiber.join, { discard: true }))
  expect(through).toBe(20_000)
})

it("loses no place to one that is interrupted just when it is let in, after the one before gave its permit back early", async () => {
  const semaphore = fairSemaphore(1)
  let giveBack: Effect.Effect<void> = Effect.void
  const early = Effect.runFork(
    semaphore.withPermitUntil((release) => {
      giveBack = release
      return Effect.never
    })
  )
  const next = Effect.runFork(semaphore.withPermit(Effect.never))
  await Effect.runPromise(Effect.yieldNow)
  await Effect.runPromise(giveBack)
  await Effect.runPromise(Fiber.interrupt(next))
  const last = semaphore.withPermit(Effect.succeed("in")).pipe(Effect.timeoutOption("5 seconds"))
  expect(await Effect.runPromise(last)).toMatchObject({ value: "in" })
  // Once is enough: the permit of the one that ends late is not given back twice.
  await Effect.runPromise(Fiber.interrupt(early))
  const [a, b] = [0, 1].map(() => Effect.runFork(semaphore.withPermit(Effect.never)))
  const third = semaphore.withPermit(Effect.succeed("in")).pipe(Effect.timeoutOption("50 millis"))
  expect(await Effect.runPromise(third)).toMatchObject({ _tag: "None" })
  await Effect.runPromise(Effect.forEach([a!, b!], Fiber.interrupt))
})

it("loses no place to one that fails, or that is interrupted while it waits or is inside", async () => {
  const semaphore = fairSemaphore(1)
  await Effect.runPromise(Effect.exit(semaphore.withPermit(Effect.fail("no"))))
  const inside = Effect.runFork(semaphore.withPermit(Effect.never))
  const waits = Effect.runFork(semaphore.withPermit(Effect.never))
  const last = Effect.runFork(semaphore.withPermit(Effect.succeed("in")))
  await Effect.runPromise(Fiber.interrupt(waits))
  await Effect.runPromise(Fiber.interrupt(inside))
  expect(await Effect.runPromise(Fiber.join(last))).toBe("in")
  expect(await Effect.runPromise(semaphore.withPermit(Effect.succeed("again")))).toBe("again")
})

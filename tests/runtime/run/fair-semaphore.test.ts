import { expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { fairSemaphore } from "../../../runtime/run/fair-semaphore.ts"

const fork = Effect.forkChild({ startImmediately: true })

it.live("admits a limited number, in order, and eventually each of many", () =>
  Effect.gen(function* () {
    const semaphore = fairSemaphore(2)
    let [inside, most] = [0, 0]
    const order: Array<number> = []
    const all = Array.from({ length: 5000 }, (_, i) => i)
    const enter = Effect.fnUntraced(function* (i: number) {
      order.push(i)
      most = Math.max(most, ++inside)
      yield* Effect.yieldNow
      inside--
    }, semaphore.withPermit)
    yield* Effect.forEach(all, (i) => enter(i), { concurrency: "unbounded", discard: true })
    expect([most, inside]).toEqual([2, 0])
    expect(order).toEqual(all)
  })
)

it.live("admits others when any number leave simultaneously", () =>
  Effect.gen(function* () {
    const semaphore = fairSemaphore(1)
    const first = yield* fork(semaphore.withPermit(Effect.never))
    let through = 0
    const other = semaphore.withPermit(Effect.sync(() => void through++))
    const others = yield* Effect.replicateEffect(fork(other), 20_000)
    yield* Fiber.interrupt(first)
    yield* Fiber.joinAll(others)
    expect(through).toBe(20_000)
  })
)

it.live(
  "loses no permit to a waiter that is interrupted just when it is admitted, after the previous holder returned its permit early",
  () =>
    Effect.gen(function* () {
      const semaphore = fairSemaphore(1)
      const stay = fork(semaphore.withPermit(Effect.never))
      const enter = semaphore.withPermit(Effect.succeed("in"))
      let giveBack: Effect.Effect<void> = Effect.void
      const early = yield* fork(semaphore.withPermitUntil((release) => ((giveBack = release), Effect.never)))
      const next = yield* stay
      yield* Effect.yieldNow
      yield* giveBack
      yield* Fiber.interrupt(next)
      expect(yield* Effect.timeoutOption(enter, "5 seconds")).toMatchObject({ value: "in" })
      // Only once: the permit of the one that ends late is not returned twice.
      yield* stay
      yield* Effect.sleep("10 millis")
      yield* Fiber.interrupt(early)
      expect(yield* Effect.timeoutOption(enter, "50 millis")).toMatchObject({ _tag: "None" })
    })
)

it.live("loses no permit to one that fails, or that is interrupted while it waits or is inside", () =>
  Effect.gen(function* () {
    const semaphore = fairSemaphore(1)
    yield* Effect.exit(semaphore.withPermit(Effect.fail("no")))
    const inside = yield* fork(semaphore.withPermit(Effect.never))
    const waits = yield* fork(semaphore.withPermit(Effect.never))
    const last = yield* fork(semaphore.withPermit(Effect.succeed("in")))
    yield* Fiber.interrupt(waits)
    yield* Fiber.interrupt(inside)
    expect(yield* Fiber.join(last)).toBe("in")
    expect(yield* semaphore.withPermit(Effect.succeed("again"))).toBe("again")
  })
)

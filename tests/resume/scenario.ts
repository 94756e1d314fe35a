/** Shared by both tests of real kills: each stage undisturbed, then killed many times. */
import { cpSync } from "node:fs"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { killRepeatedly, live, newHome, removeHomes, resultOf } from "./kills.ts"

/** For each stage. */
const steps = 60

export const describeKills = (options: { readonly kills: number; readonly longest: number; readonly timeout: number }): void => {
  describe(`killed with -9 at ${options.kills} random moments and run again each time`, () => {
    const homes: Record<string, string> = {}
    const wanted: Record<string, Awaited<ReturnType<typeof resultOf>>> = {}
    beforeAll(async () => {
      let home = newHome()
      await live(home, "tokenizer")
      // Each stage undisturbed, with everything before it already made.
      for (const node of ["pretrain", "sample"]) {
        homes[node] = home
        home = newHome()
        cpSync(homes[node], home, { recursive: true })
        const life = await live(home, node)
        expect([node, life.steps, life.resumedAfter]).toEqual([node, steps, 0])
        wanted[node] = await resultOf(home, life.done, node)
        expect(wanted[node].curve.map(({ step }) => step)).toEqual(
          Array.from({ length: steps }, (_, i) => (i + 1) * (node === "sample" ? 2 : 1))
        )
      }
    }, 300_000)
    afterAll(removeHomes)

    it.each([
      ["trains", "pretrain"],
      ["samples", "sample"]
    ])(
      "a stage that %s ends bitwise equal to the undisturbed one, and resumes where it was",
      { timeout: options.timeout },
      async (_, node) => {
        const { kills, longest } = options
        const { results, killed, steps: taken, resumed } = await killRepeatedly({ from: homes[node]!, node, kills, longest, seed: 4 })
        process.stderr.write(
          `${node}: ${killed} kills, ${resumed} lives went on from a checkpoint, ${taken} steps for ${results.length} x ${steps}\n`
        )
        expect(killed).toBe(kills)
        for (const result of results) expect(result).toEqual(wanted[node])
        // A kill loses the current step and, for a training stage, the one before it if its checkpoint was still being written.
        expect(taken).toBeLessThanOrEqual(results.length * steps + kills * (node === "pretrain" ? 2 : 1))
        expect(resumed).toBeGreaterThanOrEqual(kills / 2)
      }
    )
  })
}

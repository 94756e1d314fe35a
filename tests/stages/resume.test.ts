/** Stages that are killed at any step and run again give the same bytes as undisturbed ones. Deaths here are within the process; tests/resume.test.ts has real ones. */
import { cpSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { live, newFolder, undisturbed, ways } from "./dying.ts"
import { resumables } from "./resumable.ts"

const cases = await resumables()

/** Reads one dialogue with two models: there is nothing to resume. */
const singlePass = ["attention-map"]

describe("resuming", () => {
  it("is tested for every stage that computes with tensors", async () => {
    const folder = new URL("../../stages/", import.meta.url)
    const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))
    const modules = await Promise.all(files.map((name) => import(new URL(name, folder).href) as Promise<Record<string, unknown>>))
    const names = modules.flatMap(Object.values).flatMap((exported) => {
      const stage = (exported as { readonly stage?: { readonly name: string; readonly resources: { readonly tensors?: boolean } } })?.stage
      return stage?.resources?.tensors === true ? [stage.name] : []
    })
    expect(names.length).toBeGreaterThan(10)
    expect(new Set(cases.map(({ stage }) => stage.stage.name))).toEqual(new Set(names.filter((name) => !singlePass.includes(name))))
  })
})

describe("killed after every step, run again each time:", () => {
  it.each(cases.map((one) => [one.name, one] as const))(
    "%s ends bitwise equal, and repeats no step",
    { timeout: 120_000 },
    async (_, one) => {
      const wanted = await undisturbed(one)
      const whole = await live(one, newFolder())
      expect(whole.output).toEqual(wanted)
      expect(whole.notes).toEqual([])
      expect(whole.saves).toBeGreaterThanOrEqual(3)
      const folder = newFolder()
      let saves = 0
      for (let lives = 0; ; lives++) {
        expect(lives).toBeLessThanOrEqual(whole.saves)
        const { output, saves: more, notes } = await live(one, folder, { after: 1, when: ways[lives % 3]! })
        expect(notes.join("\n")).toMatch(lives === 0 ? /^$/ : /^resumes after/)
        saves += more
        if (output === undefined) continue
        expect(output).toEqual(wanted)
        break
      }
      expect(saves).toBe(whole.saves)
    }
  )
})

const filesOf = (folder: string): Array<string> =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .flatMap((entry) => (entry.isFile() ? [join(entry.parentPath, entry.name)] : []))
    .sort()
const flip = (path: string) => {
  const bytes = readFileSync(path)
  bytes[bytes.length >> 1]! ^= 16
  writeFileSync(path, bytes)
}
const damages: ReadonlyArray<(path: string) => void> = [
  flip,
  (path) => truncateSync(path, statSync(path).size >> 1),
  (path) => truncateSync(path, 0),
  (path) => rmSync(path)
]

describe("a damaged checkpoint", () => {
  it.each(
    cases
      .filter(({ name }) => ["sft in bfloat16", "ppo with held-out prompts", "sample"].includes(name))
      .map((one) => [one.name, one] as const)
  )(
    "of %s is skipped for the previous one, if any of its files has a flipped bit, is truncated, empty or missing; the result is the same",
    { timeout: 120_000 },
    async (_, one) => {
      const whole = await live(one, newFolder())
      const killed = newFolder()
      await live(one, killed, { after: 2, when: "written" })
      const newest = readdirSync(killed).sort().at(-1)!
      const files = filesOf(join(killed, newest)).map((file) => file.slice(killed.length))
      // The seal is one of the files.
      expect(files.length).toBeGreaterThanOrEqual(2)
      for (const [i, file] of files.entries()) {
        const folder = newFolder()
        cpSync(killed, folder, { recursive: true })
        damages[i % damages.length]!(join(folder, file))
        const { output, saves, notes } = await live(one, folder)
        expect([file, output]).toEqual([file, whole.output])
        expect(saves).toBe(whole.saves - 1)
        expect(notes[0]).toMatch(/is damaged .* and was deleted$/)
      }
      // Both damaged: start over.
      for (const file of filesOf(killed)) flip(file)
      const { output, saves, notes } = await live(one, killed)
      expect(output).toEqual(whole.output)
      expect(saves).toBe(whole.saves)
      expect(notes.filter((note) => note.includes("is damaged"))).toHaveLength(2)
    }
  )
})

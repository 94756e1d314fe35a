import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"

const here = new URL("types/", import.meta.url).pathname
const compiler = new URL("../node_modules/.bin/tsc", import.meta.url).pathname

const compile = (project: string): string => {
  try {
    execFileSync(compiler, ["--noEmit", "-p", project], { encoding: "utf8", stdio: "pipe" })
    return ""
  } catch (cause) {
    return (cause as { stdout: string }).stdout
  }
}

describe("wiring", () => {
  it("that is wrong does not compile: a reward model as policy, the two reward models swapped, wrong or missing inputs and hyperparameters", () => {
    expect(compile(join(here, "tsconfig.json"))).toBe("")
  })

  it("that is wrong causes the failure: without the expectations every one of those lines is an error", () => {
    const folder = mkdtempSync(join(here, "unexpected-"))
    try {
      const source = readFileSync(join(here, "wiring.ts"), "utf8")
      const expected = source.split("// @ts-expect-error").length - 1
      writeFileSync(join(folder, "wiring.ts"), source.replaceAll("// @ts-expect-error", "").replaceAll('"../../', '"../../../'))
      writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ extends: "../../../tsconfig.json", include: ["./wiring.ts"] }))
      const errors = compile(join(folder, "tsconfig.json"))
        .split("\n")
        .filter((line) => /error TS/.test(line) && line.includes("wiring.ts"))
      expect(new Set(errors.map((line) => /\((\d+),/.exec(line)![1])).size).toBe(expected)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

/** `caravan tokenize`: lines of stdin to ids. */
import { spawnSync } from "node:child_process"
import { cpSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { command, removeFolder, workFolder } from "./caravan.ts"

const golden = new URL("../golden/tokenizer/", import.meta.url).pathname
const model = join(golden, "small.model")
const folder = workFolder()
afterAll(() => removeFolder(folder))

const tokenize = (input: string | Uint8Array, ...args: ReadonlyArray<string>) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, "tokenize", ...args], { input, encoding: "utf8", cwd: folder })
  return { status, stdout, stderr }
}
const ids = (input: string | Uint8Array, path = model): unknown => JSON.parse(tokenize(input, path, "--json").stdout)

describe("caravan tokenize", () => {
  const encodings = JSON.parse(readFileSync(join(golden, "encodings.json"), "utf8")) as ReadonlyArray<{
    text: string
    ids: ReadonlyArray<number>
  }>
  const idsOf = (text: string): ReadonlyArray<number> => encodings.find((line) => line.text === text)!.ids

  it("gives spm_encode's ids for every line, including a carriage return and an empty line", () => {
    expect(ids(encodings.map(({ text }) => `${text}\n`).join(""))).toEqual(encodings.map((line) => line.ids))
  })
  it("ends a line only at LF, which the last line may lack", () => {
    expect(ids("a\r\n\n a\n")).toEqual([idsOf("a\r"), [], idsOf(" a")])
    expect(ids("a\r\n\n a")).toEqual([idsOf("a\r"), [], idsOf(" a")])
    expect(ids("\n")).toEqual([[]])
    expect(ids("")).toEqual([])
  })
  it("treats each byte that isn't UTF-8 as U+FFFD, like spm_encode", () => {
    expect(ids(Buffer.from([0xff, 0x0a, 0xe2, 0x82, 0x0a]))).toEqual([idsOf("\ufffd"), [...idsOf("\ufffd"), ...idsOf("\ufffd").slice(1)]])
  })
  it("prints one line of ids per line without --json", () => {
    expect(tokenize("a\r\n\n", model).stdout).toBe(`${idsOf("a\r").join(" ")}\n\n`)
  })
  it("accepts a folder with tokenizer.model", () => {
    cpSync(model, join(folder, "tokenizer.model"))
    expect(ids("a\r\n", folder)).toEqual([idsOf("a\r")])
  })
  it("reports faults of a tokenizer, with a nonzero exit code and no stack trace", () => {
    for (const [path, message] of [
      [join(folder, "nowhere"), "no such file or folder"],
      [join(golden, "encodings.json"), "a SentencePiece model"]
    ] as const) {
      const { status, stdout, stderr } = tokenize("a\n", path, "--json")
      expect(status).not.toBe(0)
      expect(stdout).toBe("")
      expect(stderr).toContain(message)
      expect(stderr).not.toMatch(/\n\s+at /)
    }
  })
})

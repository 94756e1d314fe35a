/** Inputs are identified by their content; reading a large one is reported meanwhile. */
import { createHash } from "node:crypto"
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import * as Effect from "effect/Effect"
import { afterAll, expect, it, vi } from "vitest"
import { digestFile } from "../../../runtime/key/file-source.ts"
import type { KeyCache } from "../../../runtime/key/key-cache.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-source-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const cache = { fileDigest: () => Effect.succeed(undefined), recordFile: () => Effect.void } as unknown as KeyCache

it("progress in reading a folder is reported at intervals, in bytes of all its files, and at the end", async () => {
  mkdirSync(join(folder, "data"))
  for (const name of ["a", "b"]) {
    writeFileSync(join(folder, "data", name), "")
    truncateSync(join(folder, "data", name), 5 << 20)
  }
  // Each reading of the clock is 150 ms after the previous one.
  let now = 0
  const clock = vi.spyOn(performance, "now").mockImplementation(() => (now += 150))
  const heard: Array<{ readonly path: string; readonly done: number; readonly total: number }> = []
  await Effect.runPromise(digestFile(join(folder, "data"), cache, (read) => heard.push(read)))
  clock.mockRestore()
  expect(heard.length).toBeGreaterThan(3)
  expect(heard.every(({ path, total }) => path === join(folder, "data") && total === 10 << 20)).toBe(true)
  expect(heard.map(({ done }) => done)).toEqual(heard.map(({ done }) => done).toSorted((a, b) => a - b))
  expect(heard.at(-1)!.done).toBe(10 << 20)
})

it("a small input is read without a report", async () => {
  writeFileSync(join(folder, "small"), "x")
  const heard: Array<object> = []
  await Effect.runPromise(digestFile(join(folder, "small"), cache, (read) => heard.push(read)))
  expect(heard).toEqual([])
})

it("a file overwritten with the same number of bytes is detected, even if its time was reset", async () => {
  const path = join(folder, "same")
  const kept = new Map<string, string>()
  const remembering = {
    fileDigest: (_: string, stamp: string) => Effect.succeed(kept.get(stamp)),
    recordFile: (_: string, stamp: string, digest: string) => Effect.sync(() => void kept.set(stamp, digest))
  } as unknown as KeyCache
  const digest = async () => (await Effect.runPromise(digestFile(path, remembering))).digest
  writeFileSync(path, "alpha")
  const then = new Date(Date.now() - 60_000)
  utimesSync(path, then, then)
  // Old enough to be cached.
  await sleep(200)
  const before = await digest()
  expect(kept.size).toBe(1)
  writeFileSync(path, "omega")
  utimesSync(path, then, then)
  expect(await digest()).not.toBe(before)
})

it("a pattern depends on the names and contents of the files it matches, and on nothing else", async () => {
  const inside = join(folder, "pattern")
  mkdirSync(inside)
  const digest = async () => (await Effect.runPromise(digestFile(join(inside, "*.jsonl"), cache))).digest
  const failure = async () => (await Effect.runPromise(Effect.flip(digestFile(join(inside, "*.jsonl"), cache)))).message
  expect(await failure()).toMatch(/Reading the input .*pattern\/\*\.jsonl: no file matches\. Check the pattern/)
  writeFileSync(join(inside, "a.jsonl"), "1\n")
  const first = await digest()
  writeFileSync(join(inside, "note.txt"), "x")
  expect(await digest()).toBe(first)
  writeFileSync(join(inside, "b.jsonl"), "1\n")
  const two = await digest()
  expect(two).not.toBe(first)
  renameSync(join(inside, "b.jsonl"), join(inside, "c.jsonl"))
  const renamed = await digest()
  writeFileSync(join(inside, "c.jsonl"), "2\n")
  const last = await digest()
  expect(new Set([first, two, renamed, last]).size).toBe(4)
  // Folders that match do not count, nor do links to folders.
  mkdirSync(join(inside, "folder.jsonl"))
  symlinkSync("folder.jsonl", join(inside, "link.jsonl"))
  expect(await digest()).toBe(last)
  symlinkSync("nowhere", join(inside, "broken.jsonl"))
  expect(await failure()).toMatch(/pattern\/\*\.jsonl: it contains broken\.jsonl, a link whose target is missing/)
  await expect(Effect.runPromise(digestFile(inside, cache))).rejects.toThrow(/pattern: it contains broken\.jsonl, a link whose target is/)
})

it("a file's ending counts where it decides how the file is read, and nothing else of its name does", async () => {
  const inside = join(folder, "endings")
  mkdirSync(inside)
  const digests = new Map<string, string>()
  const kept = new Map<string, string>()
  const remembering = {
    fileDigest: (path: string, stamp: string) => Effect.succeed(kept.get(`${path} ${stamp}`)),
    recordFile: (path: string, stamp: string, digest: string) => Effect.sync(() => void kept.set(`${path} ${stamp}`, digest))
  } as unknown as KeyCache
  for (const name of ["a.jsonl", "b.json", "c", "d.txt", "e.TXT", "f.txt.gz", "g.csv", "h.tsv", "i.ts", "j.mjs"]) {
    writeFileSync(join(inside, name), "a,b\n")
    digests.set(name, (await Effect.runPromise(digestFile(join(inside, name), remembering))).digest)
  }
  const plain = createHash("sha256").update("a,b\n").digest("hex")
  expect(["a.jsonl", "b.json", "c"].map((name) => digests.get(name))).toEqual([plain, plain, plain])
  expect(new Set(["d.txt", "e.TXT", "f.txt.gz"].map((name) => digests.get(name))).size).toBe(1)
  expect(new Set(["c", "d.txt", "g.csv", "h.tsv", "i.ts", "j.mjs"].map((name) => digests.get(name))).size).toBe(6)
})

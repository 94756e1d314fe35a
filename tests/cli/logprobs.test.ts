/** `caravan logprobs` as a user calls it. */
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it, vi } from "vitest"
import { main } from "../../cli/main.ts"
import { openSafetensors } from "../../models/safetensors.ts"
import { largestDifference } from "../models/small.ts"
import { float32 } from "../tolerances.ts"

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))
const root = mkdtempSync(join(tmpdir(), "caravan-logprobs-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const checkpoint = path("../golden/llama-gqa/model")
const adapter = path("../golden/lora-all-linear/adapter")
// main() adds one listener per call.
process.stdout.setMaxListeners(0)

/** In this process, which has already loaded libtorch. */
const caravan = async (...args: ReadonlyArray<string>) => {
  const streams = [process.stdout, process.stderr].map((stream) => vi.spyOn(stream, "write").mockReturnValue(true))
  const status = await main(["logprobs", ...args])
  const [stdout, stderr] = streams.map((stream) => stream.mock.calls.map(([text]) => String(text)).join(""))
  for (const stream of streams) stream.mockRestore()
  return { status, stdout: stdout!, stderr: stderr! }
}
const written = (content: unknown): string => {
  const file = join(root, "ids.json")
  writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content))
  return file
}

describe("caravan logprobs", () => {
  it("prints the same as transformers, for sequences of any length", async () => {
    const file = await Effect.runPromise(openSafetensors(path("../golden/llama-gqa/expected.safetensors")))
    const [ids, wanted] = await Promise.all(["greedy_ids", "greedy_logprobs"].map((name) => Effect.runPromise(file.read(name))))
    await file.close()
    const [batch, length] = ids!.shape as [number, number]
    const rows = Array.from({ length: batch }, (_, b) => ids!.toNumbers().slice(b * length, (b + 1) * length))
    const command = [path("../../cli/caravan.js"), "logprobs", checkpoint, "--ids", written([...rows, rows[0]!.slice(0, 3), [5]]), "--json"]
    const ran = spawnSync(process.execPath, command, { encoding: "utf8" })
    expect(ran.stderr).toBe("")
    expect(ran.status).toBe(0)
    const printed = JSON.parse(ran.stdout) as Array<Array<number>>
    const numbers = wanted!.toNumbers()
    rows.forEach((_, b) =>
      expect(largestDifference(printed[b]!, numbers.slice(b * (length - 1), (b + 1) * (length - 1)))).toBeLessThanOrEqual(float32)
    )
    expect(largestDifference(printed[batch]!, numbers.slice(0, 2))).toBeLessThanOrEqual(float32)
    expect(printed[batch + 1]).toEqual([])
  })

  it("prints the same as PEFT with an adapter", async () => {
    const file = await Effect.runPromise(openSafetensors(path("../golden/lora-all-linear/expected.safetensors")))
    const [ids, wanted] = await Promise.all(["greedy_ids", "greedy_logprobs"].map((name) => Effect.runPromise(file.read(name))))
    await file.close()
    const length = ids!.size(1)
    const rows = Array.from({ length: ids!.size(0) }, (_, b) => ids!.toNumbers().slice(b * length, (b + 1) * length))
    const ran = await caravan(checkpoint, "--adapter", adapter, "--ids", written(rows), "--json")
    expect([ran.status, ran.stderr]).toEqual([0, ""])
    expect(largestDifference((JSON.parse(ran.stdout) as Array<Array<number>>).flat(), wanted!.toNumbers())).toBeLessThanOrEqual(float32)
  })

  it.each([
    ["an adapter of another base", [path("../golden/llama-mha-tied/model"), "--adapter", adapter], "pass the base that it was trained on"],
    ["a complete model as the adapter", [checkpoint, "--adapter", checkpoint], "found a complete model"],
    ["an adapter as the checkpoint", [adapter], "found an adapter (adapter_config.json)"],
    ["a missing adapter", [checkpoint, "--adapter", join(root, "none")], "no such file or folder"]
  ])("rejects %s with one message", async (_, args, message) => {
    const ran = await caravan(...args, "--ids", written([[1, 2]]))
    expect([ran.status === 0, ran.stdout]).toEqual([false, ""])
    expect(ran.stderr).toContain(message)
    expect(ran.stderr).not.toMatch(/\n\s+at /)
  })

  it.each([
    ["an id beyond the vocabulary", [[1, 160]], "sequence 0 has 160, the model's ids are 0 to 159"],
    ["a negative id", [[1], [1, -1]], "sequence 1 has -1"],
    ["an id that is not a whole number", [[1, 2.5]], "sequence 0 has 2.5"],
    ["text instead of an id", [[1, "2"]], 'sequence 0 has "2"'],
    ["an empty sequence", [[1, 2], []], "sequence 1 is empty"],
    ["a sequence that is not an array", [7], "sequence 0 is not an array"],
    ["a sequence longer than the context", [Array.from({ length: 257 }, () => 1)], "sequence 0 has 257 tokens, the model's context is 256"],
    ["an object", { ids: [[1]] }, "not an array"],
    ["damaged JSON", "[[1, 2", "not JSON"]
  ])("rejects %s with one message", async (_, content, message) => {
    const ran = await caravan(checkpoint, "--ids", written(content), "--json")
    expect(ran.status).toBe(2)
    expect(ran.stdout).toBe("")
    expect(ran.stderr).toContain(message)
    expect(ran.stderr).toContain("Expected a JSON array of arrays of token ids")
    expect(ran.stderr).not.toMatch(/\n\s+at /)
  })

  it.each([
    ["a missing file of ids", [checkpoint, "--ids", join(root, "none.json")], "no such file"],
    ["a folder instead of a file of ids", [checkpoint, "--ids", root], "illegal operation on a directory"],
    ["no ids", [checkpoint], "caravan logprobs needs --ids <file.json>"],
    ["a missing checkpoint", [join(root, "none"), "--ids", "x.json"], "no such file or folder"]
  ])("rejects %s with one message", async (_, args, message) => {
    const ran = await caravan(...args)
    expect([ran.status, ran.stdout]).toEqual([2, ""])
    expect(ran.stderr).toContain(message)
    expect(ran.stderr).not.toMatch(/\n\s+at /)
  })
})

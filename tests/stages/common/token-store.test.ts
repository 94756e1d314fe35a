/** Tokens in memory and in a file: everything added can be read back, in any order. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { Random } from "../../../engine/random.ts"
import { TokenBuffer } from "../../../models/tokenizer/token-buffer.ts"
import { ArtifactError } from "../../../schemas/artifact.ts"
import { TokenStore } from "../../../stages/common/token-store.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-tokens-"))
afterAll(() => rmSync(folder, { recursive: true }))

const bufferOf = (ids: ReadonlyArray<number>): TokenBuffer => {
  const buffer = new TokenBuffer()
  for (const id of ids) buffer.push(id)
  return buffer
}
/** Sequences of 0 to 99 tokens, each with up to four numbers. */
const draw = (count: number, vocabSize: number) => {
  const random = new Random(1, "token store", vocabSize)
  return Array.from({ length: count }, () => ({
    tokens: Array.from({ length: random.int(100) }, () => random.int(vocabSize)),
    numbers: Array.from({ length: random.int(5) }, () => random.int(2 ** 32))
  }))
}
const filled = (store: TokenStore, sequences: ReturnType<typeof draw>): TokenStore => {
  for (const { tokens, numbers } of sequences) store.add(bufferOf(tokens), numbers)
  return store
}
const readAll = (store: TokenStore) =>
  Array.from({ length: store.length }, (_, i) => ({ tokens: store.tokens(i), numbers: store.numbers(i) }))

describe("a token store", () => {
  // Chunks of 64 bytes: nearly every sequence spans more than one.
  it.each([
    ["a vocabulary of 16 bits, all in memory", 2 ** 16, 1 << 20],
    ["a vocabulary of 16 bits, most of it in the file", 2 ** 16, 128],
    ["a larger vocabulary, all in memory", 2 ** 16 + 1, 1 << 20],
    ["a larger vocabulary, most of it in the file", 2 ** 16 + 1, 128]
  ])("returns every sequence and its numbers: %s", (_, vocabSize, memory) => {
    const sequences = [...draw(500, vocabSize), { tokens: [0, vocabSize - 1], numbers: [2 ** 32 - 1] }]
    const store = filled(new TokenStore({ vocabSize, folder, memory, chunk: 64 }), sequences)
    expect(store.length).toBe(sequences.length)
    expect(readAll(store)).toEqual(sequences)
    expect(sequences.map((_, i) => store.sizeOf(i))).toEqual(sequences.map(({ tokens }) => tokens.length))
    for (const i of new Random(2, "order").permutation(sequences.length)) expect(store.tokens(i)).toEqual(sequences[i]!.tokens)
    store.close()
  })
  it("can be filled further after it was read", () => {
    const store = new TokenStore({ vocabSize: 300, folder, memory: 128, chunk: 64 })
    const sequences = draw(60, 300)
    sequences.forEach((sequence, i) => {
      filled(store, [sequence])
      expect(readAll(store)).toEqual(sequences.slice(0, i + 1))
    })
    store.close()
  })
  it("leaves no name of its file in the folder, even before it is closed", () => {
    const store = filled(new TokenStore({ vocabSize: 300, folder, memory: 64, chunk: 64 }), draw(100, 300))
    expect(readdirSync(folder)).toEqual([])
    store.close()
    expect(readdirSync(folder)).toEqual([])
  })
  it("opens no file while memory suffices", () => {
    const nowhere = join(folder, "nowhere")
    expect(readAll(filled(new TokenStore({ vocabSize: 300, folder: nowhere }), draw(100, 300)))).toHaveLength(100)
    expect(existsSync(nowhere)).toBe(false)
  })
  it("that can't make its file fails with an ArtifactError that names it", () => {
    const nowhere = join(folder, "nowhere")
    const fill = () => filled(new TokenStore({ vocabSize: 300, folder: nowhere, memory: 64, chunk: 64 }), draw(100, 300))
    expect(fill).toThrow(ArtifactError)
    expect(fill).toThrow(`Storing tokens in the file ${join(nowhere, ".tokens")}: expected enough free space, found ENOENT`)
  })
})

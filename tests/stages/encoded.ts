/** Dialogues as examples, and examples as rows, all at once: the stages do this batch by batch. */
import { tmpdir } from "node:os"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Demonstration } from "../../schemas/rows.ts"
import type { LeftOut } from "../../stages/common/left-out.ts"
import { type Example, packedRows, type PackedRow, packRows } from "../../stages/common/sequences.ts"
import { TokenStore } from "../../stages/common/token-store.ts"
import { Examples } from "../../stages/training/examples.ts"
import { addDocuments, joinDocuments as join } from "../../stages/training/pretrain.ts"

export const encodeDemonstrations = (
  tokenizer: Tokenizer,
  rows: Iterable<Pick<Demonstration, "messages" | "loss"> & { readonly id?: string }>,
  length: number
): LeftOut & { readonly examples: Array<Example> } => {
  const encoded = new Examples({ tokenizer, length, store: new TokenStore({ vocabSize: tokenizer.vocabSize, folder: tmpdir() }) })
  for (const row of rows) encoded.add({ id: "(no id)", ...row })
  return { examples: Array.from({ length: encoded.length }, (_, i) => encoded.at(i)!), ...encoded.leftOut }
}

export const joinDocuments = (
  tokenizer: Tokenizer,
  texts: ReadonlyArray<string>,
  length: number,
  which: ReadonlyArray<number> = [...texts.keys()]
): Array<PackedRow> => {
  const documents = new TokenStore({ vocabSize: tokenizer.vocabSize, folder: tmpdir() })
  addDocuments(documents, tokenizer, texts)
  const rows = join(documents, Uint32Array.from(which), length)
  return Array.from({ length: rows.length }, (_, i) => rows.at(i)!)
}

export const packExamples = (
  examples: ReadonlyArray<Example>,
  options: { readonly length: number; readonly padId: number; readonly openRows?: number }
): Array<PackedRow> => {
  const order = Uint32Array.from(examples.keys())
  const rows = packedRows(examples, packRows(order, { ...options, sizeOf: (example) => examples[example]!.tokens.length }), options)
  return Array.from({ length: rows.length }, (_, i) => rows.at(i)!)
}

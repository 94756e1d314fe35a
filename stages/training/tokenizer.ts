/** Tokenizer training (Llama 2 §2.2): BPE as in SentencePiece, numbers split into digits, unknown characters as bytes. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows } from "../../data/dataset.ts"
import { saveTokenizer } from "../../models/tokenizer/files.ts"
import { trainTokenizer } from "../../models/tokenizer/train.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { Texts } from "../../schemas/rows.ts"
import { TokenizerModel } from "../../schemas/tokenizer.ts"
import { costOf } from "../common/cost/estimator.ts"
import { sized, unknownSize } from "../common/cost/size.ts"

const TokenizerConfig = Schema.Struct({
  vocabSize: hyperInt(1024, "size of the vocabulary, including 3 control tokens and 256 bytes; §2.2: 32000", { min: 260 })
})

export const tokenizer = Stage.make("tokenizer", {
  description: "§2.2 trains a BPE tokenizer with byte fallback and numbers split into digits",
  config: TokenizerConfig,
  inputs: { texts: Texts },
  output: TokenizerModel,
  seeded: false,
  run: Effect.fn("tokenizer")(function* ({ config, inputs, output }) {
    const texts = yield* readRows(inputs.texts, Texts)
    return yield* saveTokenizer(
      output,
      trainTokenizer(
        texts.map((row) => row.text),
        { vocabSize: config.vocabSize }
      )
    )
  })
})

export const tokenizerCost = costOf(tokenizer, {
  size: ({ config }) => sized(unknownSize, { vocabSize: config.vocabSize })
})

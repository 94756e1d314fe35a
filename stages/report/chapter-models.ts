/** The base models of a run (Llama 2 table 1): sizes, training data, learning rate. */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { type LlamaConfig, parameterCount } from "../../models/config.ts"
import { fromHuggingFace } from "../../models/config-file.ts"
import type { NodeCurve } from "./curve-figures.ts"
import type { Section } from "./figure.ts"
import type { Result, Results } from "./results.ts"

/** The shape of a checkpoint; undefined if the engine does not support it. */
export const shapeOf = ({ path }: Result): Effect.Effect<LlamaConfig | undefined> =>
  Effect.tryPromise(async () => JSON.parse(await readFile(join(path, "config.json"), "utf8")) as unknown).pipe(
    Effect.flatMap((json) => fromHuggingFace(json, path)),
    Effect.catch(() => Effect.succeed(undefined))
  )

const number = (value: unknown): number | null => (typeof value === "number" ? value : null)

export const modelsChapter = Effect.fnUntraced(function* (run: Results, curves: ReadonlyArray<NodeCurve>) {
  const bases = run.of("pretrain", "import-policy")
  const rows = yield* Effect.forEach(bases, (base) =>
    Effect.map(shapeOf(base), (shape) => {
      if (shape === undefined) return []
      const tokens = curves.find(({ node }) => node === base.node)?.series.get("tokens")?.values
      return [
        {
          model: base.node,
          parameters: parameterCount(shape),
          width: shape.dim,
          blocks: shape.layers,
          heads: shape.heads,
          "key-value heads": shape.kvHeads,
          context: shape.maxPositions,
          vocabulary: shape.vocabSize,
          "tokens read": tokens === undefined ? null : tokens.reduce((sum, value) => sum + value, 0),
          "learning rate": number(base.config.learningRate)?.toExponential(1) ?? null
        }
      ]
    })
  )
  if (rows.flat().length === 0) return []
  const section: Section = {
    title: "The base models",
    tables: [
      {
        id: "models",
        title: "Sizes of the base models",
        caption: "Like table 1 in the paper. The training of imported models is not known.",
        rows: rows.flat()
      }
    ]
  }
  return [section]
})

/**
 * Rotary position embeddings (Su et al. 2021) in Hugging Face's layout: element i of a head is paired with element i + E/2. Pair i, (a, b), at position p
 * is rotated by the angle p * theta^(-2i/E): a cos - b sin, b cos + a sin.
 */
import {
  arange,
  aten,
  atenMany,
  cat,
  type Device,
  type DType,
  embedding,
  full,
  keep,
  noGrad,
  scoped,
  tensor,
  type Tensor,
  where,
  zerosLike
} from "../engine/tensor.ts"
import type { LlamaConfig } from "./config.ts"

/** cos and signed sin for the heads of (B, T, H, E): (T, 1, E), or (B, T, 1, E) with position ids. */
export interface Rotation {
  readonly cos: Tensor
  /** -sin in the first half, sin in the second: `rotate` multiplies it with the swapped halves. */
  readonly sin: Tensor
}

/** Position ids (B, T) from a mask: the number of preceding tokens that are not padding. */
export const positionsOfMask = (mask: Tensor): Tensor => mask.to({ dtype: "int64" }).cumsum(1).sub(1).clamp(0)

/** The start index of each token's segment in packed rows: segments (B, T) -> (B, T). A token's position is its index minus that. */
export const startsOfSegments = (segments: Tensor): Tensor => {
  const [batch, length] = segments.shape as [number, number]
  if (length === 1) return zerosLike(segments)
  const changed = segments.slice(1, 1, length).ne(segments.slice(1, 0, length - 1))
  const first = full([batch, 1], 1, { dtype: "bool", device: segments.device })
  const index = arange(0, length, { device: segments.device }).unsqueeze(0).expand(batch, length)
  // The latest index at which a segment started.
  return atenMany("cummax", where(cat([first, changed], 1), index, zerosLike(index)), 1)[0]!
}

/** The rotation angle of each pair per position (E / 2,), with Llama 3's scaling for long contexts if the config has it. */
const frequenciesOf = ({ headDim, ropeScaling, ropeTheta }: LlamaConfig): Float32Array<ArrayBuffer> => {
  const plain = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / Math.fround(ropeTheta ** Math.fround((2 * i) / headDim)))
  if (ropeScaling === undefined) return plain
  const { factor, highFactor, lowFactor, originalPositions } = ropeScaling
  return plain.map((frequency) => {
    const turns = (originalPositions * frequency) / (2 * Math.PI) // within the original context
    if (turns < lowFactor) return frequency / factor
    if (turns > highFactor) return frequency
    const smooth = (turns - lowFactor) / (highFactor - lowFactor)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })
}

export class RotaryTable {
  readonly #config: LlamaConfig
  readonly #tables = new Map<string, Rotation>()
  constructor(config: LlamaConfig) {
    this.#config = config
  }

  /** cos and sin (P, E) of all positions, cached for the model's lifetime. */
  #table(device: Device, dtype: DType): Rotation {
    const name = `${device} ${dtype}`
    let table = this.#tables.get(name)
    if (table === undefined) {
      const { maxPositions } = this.#config
      // Angles are computed in float32, as in transformers.
      const frequencies = frequenciesOf(this.#config)
      table = scoped(() =>
        noGrad(() => {
          const angles = arange(0, maxPositions, { dtype: "float32" }).unsqueeze(1).mul(tensor(frequencies).unsqueeze(0)) // (P, E / 2)
          const cos = angles.cos()
          const sin = angles.sin()
          return { cos: cat([cos, cos], 1).to({ dtype, device }), sin: cat([sin.neg(), sin], 1).to({ dtype, device }) }
        })
      )
      keep(table.cos)
      keep(table.sin)
      this.#tables.set(name, table)
    }
    return table
  }

  /** The rotation for a number of positions starting at `from`, or for position ids (B, T). */
  at(device: Device, dtype: DType, positions: number | Tensor, from = 0): Rotation {
    const { cos, sin } = this.#table(device, dtype)
    if (typeof positions === "number")
      return { cos: cos.slice(0, from, from + positions).unsqueeze(1), sin: sin.slice(0, from, from + positions).unsqueeze(1) }
    return { cos: embedding(cos, positions).unsqueeze(2), sin: embedding(sin, positions).unsqueeze(2) }
  }
}

/** Rotates heads (B, T, H, E); returns the same shape. */
export const rotate = (heads: Tensor, { cos, sin }: Rotation): Tensor => {
  const half = heads.size(-1) / 2
  const swapped = aten("roll", heads, [half], [-1])
  return aten("addcmul", heads.mul(cos), swapped, sin)
}

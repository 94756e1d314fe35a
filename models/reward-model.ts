/**
 * Reward and value models: a Llama with a scalar head instead of the language model's (Llama 2 §3.2.2). In Hugging Face's layout this is
 * LlamaForSequenceClassification with one label: `score.weight` (1, D), no bias.
 */
import { seedGenerator } from "../engine/generator.ts"
import { arange, keep, linear, noGrad, scoped, type Tensor, zeros } from "../engine/tensor.ts"
import { type ForwardOptions, Llama } from "./llama.ts"
import type { Lora } from "./lora.ts"

export const headName = "score.weight"

export class RewardModel {
  readonly backbone: Llama
  /** (1, D) */
  readonly head: Tensor
  constructor(backbone: Llama, head: Tensor) {
    this.backbone = backbone
    this.head = head
  }
  get config() {
    return this.backbone.config
  }
  /** By Hugging Face name, without those of an adapter. */
  get parameters(): Readonly<Record<string, Tensor>> {
    return { ...this.backbone.parameters, [headName]: this.head }
  }
  get adapter(): Lora | undefined {
    return this.backbone.adapter
  }
  /** As Llama.merge. */
  merge(): RewardModel {
    return this.adapter === undefined ? this : new RewardModel(this.backbone.merge(), this.head)
  }

  /** One score per token: ids (B, T) -> (B, T). */
  scores(ids: Tensor, options: ForwardOptions = {}): Tensor {
    return linear(this.backbone.hidden(ids, options), this.head).squeeze(-1)
  }

  /**
   * The score at one position of each sequence: ids (B, T) padded on the right, positions (B,) int64 of the last response token -> (B,). Returns
   * the raw scalar; its sigmoid is the paper's score in (0, 1).
   */
  score(ids: Tensor, positions: Tensor): Tensor {
    const hidden = this.backbone.hidden(ids) // (B, T, D); causal, so tokens after a position do not affect it
    const [batch, length, dim] = hidden.shape as [number, number, number]
    const rows = arange(0, batch, { device: ids.device }).mul(length).add(positions)
    return linear(hidden.reshape(-1, dim).indexSelect(0, rows), this.head).squeeze(-1)
  }
}

/** A reward model with a language model's weights and adapter, which it shares, and a new head without bias, drawn from N(0, variance 1 / (D + 1)). */
export const initRewardModel = (policy: Llama, options: { readonly seed: number }): RewardModel => {
  const { config, device, dtype } = policy
  const backbone: Record<string, Tensor> = {}
  for (const [name, parameter] of Object.entries(policy.parameters)) if (name !== "lm_head.weight") backbone[name] = parameter
  const head = scoped(() =>
    noGrad(() => {
      seedGenerator("cpu", options.seed, "reward head")
      return zeros([1, config.dim])
        .normal_(0, 1 / Math.sqrt(config.dim + 1))
        .to({ dtype, device })
    })
  )
  return new RewardModel(new Llama(config, backbone, policy.adapter), keep(head).requiresGrad())
}

/**
 * Models, tokenizers and sampling, for stages that train or sample.
 *
 * @module caravan/models
 */
export { type LlamaConfig, llamaConfig, parameterCount, presets } from "../models/config.ts"
export { type ForwardOptions, initLlama, Llama } from "../models/llama.ts"
export { initRewardModel, RewardModel } from "../models/reward-model.ts"
export { type LoadedPolicy, type LoadedReward, loadPolicy, loadReward, saveCheckpoint } from "../models/checkpoint.ts"
export { initLora, Lora, type LoraConfig, type LoraTarget, linearLayers } from "../models/lora.ts"
export { loadAdapter, loadRewardAdapter, writeAdapter } from "../models/adapter-files.ts"
export { generate, type Generated, type GenerateOptions } from "../models/sampler.ts"
export { type StreamedToken, Streamer, type StreamOptions } from "../models/stream.ts"
export { loadTokenizer, saveTokenizer } from "../models/tokenizer/files.ts"
export type { Tokenizer } from "../models/tokenizer/tokenizer.ts"
export { SentencePieceTokenizer } from "../models/tokenizer/sentencepiece.ts"
export { trainTokenizer, type TrainOptions } from "../models/tokenizer/train.ts"
export { encodeDialogue, encodePrompt } from "../models/chat.ts"
export type { TensorWriter } from "../models/safetensors.ts"
export type { LoadOptions } from "../models/weights.ts"

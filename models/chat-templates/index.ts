/** Chat templates by name, for models whose own template is missing or unsuitable for training. Each renders a dialogue's prefix as a prefix of the full rendering. */
import { gemma } from "./gemma.ts"
import { llama2 } from "./llama2.ts"
import { llama31 } from "./llama3-1.ts"
import { mistral } from "./mistral.ts"
import { qwen25 } from "./qwen2-5.ts"
import { qwen3 } from "./qwen3.ts"
import { zephyr } from "./zephyr.ts"

export const templates = { llama2, "llama3.1": llama31, mistral, "qwen2.5": qwen25, qwen3, gemma, zephyr } as const
export type TemplateName = keyof typeof templates
export const templateNames = Object.keys(templates) as ReadonlyArray<TemplateName>

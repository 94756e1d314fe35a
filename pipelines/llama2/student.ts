/** A model of pipelines/llama2-chat.ts: SFT in two steps (§3.1), and tuning of a version from its base model (§3.2.3). */
import { join } from "node:path"
import { fileAt } from "../../runtime/define/node.ts"
import type { Demonstration } from "../../schemas/rows.ts"
import { importPolicy } from "../../stages/data/import.ts"
import { sft } from "../../stages/training/sft.ts"
import type { Policy, Rows } from "../nodes.ts"
import type { Named } from "../rounds.ts"
import type { Datasets } from "./data.ts"
import { bySize, isNamed, type Params, tensors } from "./params.ts"

/** The base model. For a plan, the weights of a named size need not exist yet. */
export const baseOf = (model: string, weights: string): Policy => {
  if (!isNamed(model)) return importPolicy({ folder: fileAt(model) })
  const folder = fileAt(weights === "" ? join("weights", `llama-2-${model}`) : weights)
  return importPolicy({ folder: folder.expecting({ model }) })
}

/** `model` is a size or a folder; the nodes' names start with `prefix`. */
export const student = (
  { like }: Params,
  { demonstrations, publicDialogues }: Datasets,
  { base, model, prefix }: { readonly base: Policy; readonly model: string; readonly prefix: string }
) => {
  const named: Named = (node, name) => node.named(`${prefix}${name}`)
  const tune = (init: Policy, data: Rows<Demonstration>, name: string): Policy => named(sft({ init, demonstrations: data }, tensors), name)
  const bootstrapped = tune(base, publicDialogues, "sft-bootstrap")
  return {
    ...{ base, bootstrapped, sft: tune(bootstrapped, demonstrations, "sft"), tune, named, prefix },
    hyper: bySize[isNamed(model) ? model : like]
  }
}
export type Student = ReturnType<typeof student>

/** Tensors of models and files for tests. */
import * as Effect from "effect/Effect"
import { noGrad, scoped, type Tensor } from "../../engine/tensor.ts"
import { openSafetensors } from "../../models/safetensors.ts"

/** Multiplies a new model's weights except those of norms: they are so small that all tokens are equally likely and details do not matter. */
export const sharpen = <Model extends { readonly parameters: Readonly<Record<string, Tensor>> }>(model: Model, factor: number): Model => {
  scoped(() => noGrad(() => Object.entries(model.parameters).forEach(([name, weight]) => name.includes("norm") || weight.mul_(factor))))
  return model
}

/** The tensors of a safetensors file, by name. */
export const tensorsIn = async (path: string): Promise<Record<string, Tensor>> => {
  const file = await Effect.runPromise(openSafetensors(path))
  const tensors: Record<string, Tensor> = {}
  for (const name of file.entries.keys()) tensors[name] = await Effect.runPromise(file.read(name))
  await file.close()
  return tensors
}

/** libtorch's own random generators, for filling whole tensors (Tensor.normal_). Seed them by purpose before each use. */
import { native } from "./native.ts"
import { deriveSeed, type Purpose } from "./random.ts"
import { type Device, Tensor } from "./tensor.ts"

/** Seeds the device's default generator for one purpose. */
export const seedGenerator = (device: Device, seed: number, ...purpose: Purpose): void =>
  native().seedGenerator(device, deriveSeed(seed, ...purpose))

/** The generator's complete state, a uint8 tensor on the CPU, as saved in checkpoints. */
export const generatorState = (device: Device): Tensor => new Tensor(native().generatorState(device))

/** Restores a state returned by `generatorState`. */
export const setGeneratorState = (device: Device, state: Tensor): void => native().setGeneratorState(device, state.handle)

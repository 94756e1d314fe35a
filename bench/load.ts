/**
 * Loading and writing a checkpoint of 1.1B parameters in bfloat16 (2.2 GB, TinyLlama's shape): `node bench/load.ts [folder] [cpu|cuda]`. The folder is filled with random
 * weights if it has none. Each figure comes from a separate process: CPU seconds of the step only, and the increase in resident memory at its peak, in
 * GiB, including pages of mapped files. bench/peers/load.py does the same with safetensors and transformers.
 *
 * The last lines are for a training state of 134M parameters in float32, weights and moments (1.5 GiB): how long a checkpoint stops training if it is written
 * before training continues, and if it is copied and written in the background; and how long until it is on the disk.
 */
import { execFileSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import { synchronize } from "../engine/device.ts"
import { AdamW } from "../engine/optimizer.ts"
import { type DType, ones } from "../engine/tensor.ts"
import { llamaConfig, presets } from "../models/config.ts"
import { toHuggingFace } from "../models/config-file.ts"
import { initLlama } from "../models/llama.ts"
import { TensorSnapshot, type TensorWriter, writeSafetensors } from "../models/safetensors.ts"
import { loadLlama } from "../models/weights.ts"
import { openCheckpoints } from "../runtime/store/resume-points.ts"
import { saveTensors } from "../stages/common/checkpointed.ts"

const config = llamaConfig({ vocabSize: 32000, dim: 2048, layers: 22, heads: 32, kvHeads: 4, ffn: 5632 })

/** Peak resident memory since it was last reset, and now: bytes. */
const resident = (field: "VmHWM" | "VmRSS"): number =>
  Number(new RegExp(`${field}:\\s*(\\d+) kB`).exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024

/** Runs the step and prints its time and memory. */
const measured = async <A>(step: () => Promise<A>): Promise<A> => {
  writeFileSync("/proc/self/clear_refs", "5")
  const [before, cpu, started] = [resident("VmRSS"), process.cpuUsage(), performance.now()]
  const result = await step()
  synchronize()
  const seconds = (performance.now() - started) / 1000
  const { user, system } = process.cpuUsage(cpu)
  const rounded = (value: number) => Number(value.toFixed(2))
  console.log(
    JSON.stringify({
      cpuSeconds: rounded((user + system) / 1e6),
      seconds: rounded(seconds),
      peakGiB: rounded((resident("VmHWM") - before) / 2 ** 30)
    })
  )
  return result
}

const make = async (folder: string): Promise<void> => {
  const { parameters } = initLlama(config, { seed: 1, dtype: "bfloat16" })
  mkdirSync(folder, { recursive: true })
  const json = toHuggingFace(config, { scalarHead: false, dtype: "bfloat16", bosId: 1, eosId: 2, padId: 2 })
  writeFileSync(join(folder, "config.json"), JSON.stringify(json))
  await writeSafetensors(join(folder, "model.safetensors"), parameters)
}

const load = (folder: string, dtype: DType, device: "cpu" | "cuda") =>
  measured(() => Effect.runPromise(loadLlama(folder, { dtype, device })))

const write = async (folder: string, device: "cpu" | "cuda"): Promise<void> => {
  const { parameters } = await Effect.runPromise(loadLlama(folder, { dtype: "bfloat16", device }))
  const path = join(folder, "written.safetensors")
  await measured(() => writeSafetensors(path, parameters))
  rmSync(path)
}

/** Measures the second checkpoint: the first allocates the snapshot's memory. */
const checkpoint = async (folder: string, device: "cpu" | "cuda", most: number): Promise<void> => {
  const { parameters } = initLlama(presets["110m"], { seed: 1, device })
  const optimizer = new AdamW({ parameters })
  const checkpoints = openCheckpoints({ folder: join(folder, "checkpoints"), seconds: Infinity }, console.error)
  const snapshot = new TensorSnapshot()
  const write = async (into: string, writeTensors: TensorWriter) => {
    await writeTensors(join(into, "model.safetensors"), parameters)
    await writeTensors(join(into, "optimizer.safetensors"), optimizer.state)
  }
  const save = (step: number) =>
    Effect.runPromise(saveTensors(checkpoints, snapshot, { step, tensors: [parameters, optimizer.state], write }, most))
  await save(1)
  await Effect.runPromise(checkpoints.settled)
  const began = performance.now()
  await save(2)
  const stopped = performance.now() - began
  await Effect.runPromise(checkpoints.settled)
  const seconds = (milliseconds: number) => Number((milliseconds / 1000).toFixed(2))
  console.log(JSON.stringify({ stoppedSeconds: seconds(stopped), secondsUntilOnDisk: seconds(performance.now() - began) }))
  rmSync(join(folder, "checkpoints"), { recursive: true })
}

const main = (folder: string, device: string): void => {
  const step = (...args: ReadonlyArray<string>) =>
    execFileSync(process.execPath, [fileURLToPath(import.meta.url), "--step", folder, device, ...args], { encoding: "utf8" })
  if (!existsSync(join(folder, "model.safetensors"))) step("make")
  for (const args of [["load", "bfloat16"], ["load", "float32"], ["write"], ["checkpoint", "at-once"], ["checkpoint", "meanwhile"]])
    console.log(`${args.join(" ")}, ${device}: ${step(...args).trim()}`)
}

const [first, ...rest] = process.argv.slice(2)
if (first === "--step") {
  const [folder, device, what, how] = rest as [string, "cpu" | "cuda", string, string]
  // Loads the addon and creates the device's context.
  ones([1], { device })
  if (what === "make") await make(folder)
  else if (what === "load") await load(folder, how as DType, device)
  else if (what === "write") await write(folder, device)
  else await checkpoint(folder, device, how === "meanwhile" ? Infinity : 0)
} else main(first ?? join(tmpdir(), "caravan-bench-load"), rest[0] ?? "cpu")

/** The cached numerics of the machine: computed again whenever they may have changed. No GPU is needed: its driver's files are made up. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { cudaVersions } from "../../engine/device.ts"
import { gpusOf, numericsOf } from "../../engine/numerics.ts"
import { removeFolder, workFolder } from "../cli/caravan.ts"

let folder: string
beforeEach(() => {
  folder = workFolder()
})
afterEach(() => removeFolder(folder))

/** The files as the driver writes them. */
const informationOf = (model: string, uuid: string) =>
  `Model: \t\t ${model}\nIRQ:   \t\t 98\nGPU UUID: \t ${uuid}\nVideo BIOS: \t 96.00.89.00.01\nBus Type: \t PCIe\nDevice Minor: \t 0\n`
const host = (name: string, gpus: ReadonlyArray<readonly [model: string, uuid: string]>, version = "570.86.15"): string => {
  const root = join(folder, name)
  rmSync(root, { recursive: true, force: true })
  mkdirSync(root)
  writeFileSync(join(root, "version"), `NVRM version: NVIDIA UNIX x86_64 Kernel Module  ${version}\nGCC version: 12.2.0\n`)
  gpus.forEach(([model, uuid], i) => {
    mkdirSync(join(root, `gpus/0000:${i}0:00.0`), { recursive: true })
    writeFileSync(join(root, `gpus/0000:${i}0:00.0/information`), informationOf(model, uuid))
  })
  return root
}

let asked = 0
const describeOn = (nvidia: string, environment: Record<string, string> = {}, device = "cuda", threads = 1) =>
  numericsOf(device, threads, join(folder, "numerics"), {
    nvidia,
    environment,
    linker: join(folder, "ld.so.cache"),
    ask: () => Promise.resolve({ device, answer: String(++asked) })
  })

it("the numerics of a CPU are cached separately for each number of threads", async () => {
  const on = async (threads: number) => (await describeOn("none", {}, "cpu", threads)).answer
  const [one, two, four] = [await on(1), await on(2), await on(4)]
  expect(new Set([one, two, four]).size).toBe(3)
  expect([await on(4), await on(1), await on(2)]).toEqual([four, one, two])
})

describe("the numerics of a GPU", () => {
  it("are cached for the same GPU and driver, and computed again on another host, with another GPU, or a new driver", async () => {
    const [h100, h200] = [["NVIDIA H100", "GPU-1"] as const, ["NVIDIA H200", "GPU-2"] as const]
    const answers = []
    for (const [name, gpus, version] of [
      ["a", [h100]],
      ["a", [h100]],
      ["b", [h200]],
      ["a", [h200]],
      ["a", [["NVIDIA H100", "GPU-3"]]],
      ["a", [h100, h200]],
      ["a", [h100], "580.1"],
      ["c", [h100]]
    ] as ReadonlyArray<[string, ReadonlyArray<readonly [string, string]>, string?]>)
      answers.push((await describeOn(host(name, gpus, version))).answer)
    const first = Number(answers[0])
    // The host itself does not matter, only its hardware: the fourth equals the third, the last equals the first.
    expect(answers.map((answer) => Number(answer) - first)).toEqual([0, 0, 1, 1, 2, 3, 4, 0])
  })

  it("depend on which GPU is visible", async () => {
    const root = host("a", [["NVIDIA H100", "GPU-1"]])
    const [all, second] = [await describeOn(root), await describeOn(root, { CUDA_VISIBLE_DEVICES: "1" })]
    expect(second.answer).not.toBe(all.answer)
  })

  it("are computed every time if GPUs can't be identified: no driver's files, no name, no identity", async () => {
    for (const root of [join(folder, "none"), host("a", []), host("b", [["Unknown", "GPU-1"]]), host("c", [["NVIDIA H100", ""]])]) {
      expect(gpusOf(root)).toBeUndefined()
      const [one, other] = [await describeOn(root), await describeOn(root)]
      expect(other.answer).not.toBe(one.answer)
    }
  })

  it("are computed again after another library was installed, such as another NVRTC", async () => {
    const root = host("a", [["NVIDIA H100", "GPU-1"]])
    const libraries = join(folder, "ld.so.cache")
    writeFileSync(libraries, "libnvrtc.so.12")
    const [before, same] = [await describeOn(root), await describeOn(root)]
    writeFileSync(libraries, "libnvrtc.so.12 libnvrtc.so.13")
    expect([same.answer === before.answer, (await describeOn(root)).answer === before.answer]).toEqual([true, false])
  })

  it("include the versions of CUDA and cuDNN, with several of which one version of libtorch is built", () => {
    const config =
      "PyTorch built with:\n  - GCC 13.3\n  - OpenMP 201511\n  - CUDA Runtime 12.8\n  - NVCC architecture flags: -gencode;arch=compute_90,code=sm_90\n  - CuDNN 91.0.2  (built against CUDA 12.9)\n    - Built with CuDNN 90.8\n"
    expect(cudaVersions(config)).toEqual({ cuda: "12.8", cudnn: "91.0.2" })
    expect(cudaVersions("PyTorch built with:\n  - GCC 12.2\n")).toEqual({ cuda: "", cudnn: "" })
  })

  it("include the variables that override TensorFloat-32 if set, but not on a CPU, where they have no effect", async () => {
    const root = host("a", [["NVIDIA H100", "GPU-1"]])
    const set = { NVIDIA_TF32_OVERRIDE: "0", TORCH_ALLOW_TF32_CUBLAS_OVERRIDE: "1" }
    const plain = await describeOn(root, { NVIDIA_TF32_OVERRIDE: "" })
    expect(Object.keys(plain)).toEqual(["device", "answer"])
    expect(await describeOn(root, set)).toMatchObject(set)
    // Recorded as given.
    expect(await describeOn(root, set)).toMatchObject(set)
    expect(Object.keys(await describeOn(root, set, "cpu"))).toEqual(["device", "answer"])
  })
})

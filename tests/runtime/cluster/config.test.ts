/** The resources that a job requests from Slurm: from the node, its limits and the profiles of caravan.json. */
import { describe, expect, it } from "vitest"
import { lostTasks } from "../../../runtime/cluster/ranks.ts"
import { requestOf, sbatchArguments, type SlurmConfig, unknownProfile } from "../../../runtime/cluster/config.ts"
import { shardFolder } from "../../../runtime/store/shard-folder.ts"
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const config: SlurmConfig = {
  profile: "gpu",
  light: "cpu",
  profiles: {
    gpu: { partition: "a100", account: "llm", gpus: 2, cpus: 8, memory: 64_000, minutes: 240, sbatch: ["--constraint=h100"] },
    cpu: { partition: "cpu", cpus: 2 },
    long: { minutes: 2000, saveSeconds: 600 }
  }
}
const tensors = { tensors: true, device: "cuda" } as const

describe("a job requests", () => {
  it("the settings of its profile: that for stages with tensors, or the light one", () => {
    expect(sbatchArguments(requestOf(config, {}, tensors))).toEqual([
      "--partition=a100",
      "--account=llm",
      "--nodes=1",
      "--ntasks-per-node=1",
      "--cpus-per-task=8",
      "--mem=64000M",
      "--time=240",
      "--gres=gpu:2",
      "--signal=B:USR1@120",
      "--constraint=h100"
    ])
    expect(sbatchArguments(requestOf(config, {}, { tensors: false, device: "cuda" }))).toEqual([
      "--partition=cpu",
      "--nodes=1",
      "--ntasks-per-node=1",
      "--cpus-per-task=2"
    ])
  })
  it("the settings of its node, before its profile's", () => {
    expect(requestOf(config, { profile: "long", gpus: 8, cpus: 64 }, tensors)).toEqual({
      name: "long",
      minutes: 2000,
      saveSeconds: 600,
      gpus: 8,
      cpus: 64,
      nodes: 1
    })
    expect(sbatchArguments(requestOf(config, { profile: "long" }, tensors))).toContain("--signal=B:USR1@600")
  })
  it("no GPU on the CPU; one per rank on GPUs", () => {
    expect(requestOf(config, {}, { tensors: true, device: "cpu" }).gpus).toBe(0)
    expect(requestOf(config, {}, { ...tensors, ranks: 8 }).gpus).toBe(8)
    expect(requestOf(config, { gpus: 4 }, { ...tensors, ranks: 8 }).gpus).toBe(4)
    expect(requestOf({}, {}, { tensors: true, device: "cpu", ranks: 4 })).toEqual({ name: "default", gpus: 0, nodes: 1, cpus: 4 })
    expect(requestOf({}, {}, tensors)).toEqual({ name: "default", gpus: 1, nodes: 1 })
  })
  it("nodes on which its ranks are tasks, the same number on each; one node for a single process", () => {
    const several = { profiles: { default: { nodes: 2, cpus: 16 } } }
    expect(sbatchArguments(requestOf(several, {}, { ...tensors, ranks: 8 }))).toEqual([
      "--nodes=2",
      "--ntasks-per-node=4",
      "--cpus-per-task=4",
      "--gres=gpu:4"
    ])
    expect(requestOf(several, { nodes: 4, gpus: 8 }, { ...tensors, ranks: 32 })).toMatchObject({ nodes: 4, gpus: 8, tasks: 8 })
    expect(requestOf(several, {}, tensors)).toMatchObject({ nodes: 1, gpus: 1 })
    expect(requestOf({}, {}, { tensors: true, device: "cpu", ranks: 2, memory: 300 }).memory).toBe(800)
  })
  it("the memory and time that its limits need, if its profile does not set them", () => {
    expect(requestOf({}, {}, { tensors: false, device: "cpu", memory: 300, seconds: 61 })).toEqual({
      name: "default",
      gpus: 0,
      nodes: 1,
      memory: 500,
      minutes: 4
    })
    // A signal half a minute before the end of a one-minute job.
    expect(sbatchArguments({ name: "x", gpus: 0, nodes: 1, minutes: 1 })).toContain("--signal=B:USR1@30")
  })
  it("nothing if its profile does not exist", () => {
    expect(unknownProfile(config, "big")).toBe('there is no profile "big". caravan.json has gpu, cpu, long')
    expect([unknownProfile(config, "gpu"), unknownProfile({}, "default")]).toEqual([undefined, undefined])
    expect(unknownProfile({}, "big")).toBe('there is no profile "big": `slurm.profiles` of caravan.json has none')
  })
})

describe("srun's messages about lost tasks", () => {
  it("names their ranks, node and end", () => {
    expect(lostTasks("srun: error: n2: task 1: Killed")).toEqual([{ rank: 1, node: "n2", how: "Killed" }])
    expect(lostTasks("srun: error: gpu-07: tasks 0,2-3: Exited with exit code 1").map(({ rank }) => rank)).toEqual([0, 2, 3])
    expect(lostTasks("srun: error: Unable to create step for job 7: Requested node configuration is not available")).toEqual([])
  })
})

describe("shards as files", () => {
  it("are read as written, or not at all if damaged, of another key, or truncated", () => {
    const folder = workFolder()
    const shards = shardFolder(join(folder, "shards"))
    expect(shards.get("a")).toBe(undefined)
    shards.put("a", Buffer.from("alpha"))
    shards.put("b", Buffer.from(""))
    expect([Buffer.from(shards.get("a")!).toString(), shards.get("b")!.length]).toEqual(["alpha", 0])
    const [a, b] = readdirSync(join(folder, "shards")).map((name) => join(folder, "shards", name))
    const [first, second] = [readFileSync(a!), readFileSync(b!)]
    writeFileSync(a!, second)
    writeFileSync(b!, first)
    expect([shards.get("a"), shards.get("b")]).toEqual([undefined, undefined])
    writeFileSync(a!, first.subarray(0, 60))
    expect(shards.get("a") ?? shards.get("b")).toBe(undefined)
    removeFolder(folder)
  })
})

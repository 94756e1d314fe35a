/** Runs on a node: `node probe-worker.ts <answer.json> <module> <device> <threads>` writes the node's numerics, or why they can't be determined. */
import { hostname } from "node:os"
import { dirname, join } from "node:path"
import { messageOf } from "../errors.ts"
import { writeJson } from "./job-files.ts"
import type { Describing, ProbeAnswer } from "./probe.ts"

const [, , path, module, device, threads] = process.argv as [string, string, string, string, string, string]
const host = process.env.SLURMD_NODENAME ?? hostname()
const answer = async (): Promise<ProbeAnswer> => {
  try {
    const { numericsOf } = (await import(module)) as Describing
    return { host, numerics: await numericsOf(device, Number(threads), join(dirname(path), "numerics")) }
  } catch (cause) {
    return { host, error: messageOf(cause) }
  }
}
writeJson(path, await answer())

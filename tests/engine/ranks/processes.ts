/** Groups of processes that tests start like torchrun. */
import { type ChildProcess, spawn } from "node:child_process"
import { createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { isShared } from "./devices.ts"
import { sharedGpu } from "./shared-gpu.ts"

export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.on("error", reject)
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { readonly port: number }
      server.close(() => resolve(port))
    })
  })

export interface Ended {
  readonly code: number | null
  readonly signal: string | null
  readonly said: any
  readonly errors: string
}

/** Starts member.ts as these ranks of a group, and waits for all of them to exit. */
export const runRanks = async (
  what: string,
  {
    size,
    device = "cpu",
    ranks = Array.from({ length: size }, (_, rank) => rank),
    joining = 60,
    deadline = 60,
    grace = 3,
    environment = {},
    ...given
  }: {
    readonly size: number
    readonly device?: "cpu" | "cuda"
    readonly ranks?: ReadonlyArray<number>
    readonly joining?: number
    readonly deadline?: number
    /** Seconds after which the others are killed when one has failed. */
    readonly grace?: number
    readonly host?: string
    readonly port?: number
    readonly environment?: Readonly<Record<string, string>>
  }
): Promise<ReadonlyArray<Ended>> => {
  const { host = "127.0.0.1", port = await freePort() } = given
  const children: Array<ChildProcess> = []
  const member = fileURLToPath(new URL("member.ts", import.meta.url))
  return Promise.all(
    ranks.map(
      (rank) =>
        new Promise<Ended>((resolve) => {
          const variables = { RANK: `${rank}`, WORLD_SIZE: `${size}`, LOCAL_RANK: `${rank}`, MASTER_ADDR: host, MASTER_PORT: `${port}` }
          const gpu = device === "cpu" ? {} : isShared ? sharedGpu(rank) : { CUDA_VISIBLE_DEVICES: `${rank}`, NCCL_NVLS_ENABLE: "0" }
          const child = spawn(process.execPath, [member, what, device, `${joining}`, `${deadline}`], {
            env: { ...process.env, ...variables, ...gpu, ...environment }
          })
          children.push(child)
          let [out, errors] = ["", ""]
          child.stdout.on("data", (chunk) => (out += chunk))
          child.stderr.on("data", (chunk) => (errors += chunk))
          child.on("close", (code, signal) => {
            resolve({ code, signal, said: out === "" ? undefined : JSON.parse(out), errors })
            // As a launcher does; slightly later, so that the others can report what they noticed.
            if (code !== 0) setTimeout(() => children.forEach((other) => other.kill("SIGKILL")), grace * 1000)
          })
        })
    )
  )
}

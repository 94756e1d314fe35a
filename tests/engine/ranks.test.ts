/** Ranks as real processes: what they exchange, and the errors when one of them is missing, late, dead or hangs. */
import { readFileSync } from "node:fs"
import { createServer } from "node:net"
import { beforeAll, describe, expect, it } from "vitest"
import { environment } from "../../engine/device.ts"
import { prepare } from "../../engine/prepare.ts"
import { rowsOfRank, gatherAll, rank, ranks, sumOver } from "../../engine/ranks.ts"
import { buildRanks, sourceDigest } from "../../engine/ranks/build.mjs"
import { devices, isShared } from "./ranks/devices.ts"
import { freePort, runRanks } from "./ranks/processes.ts"

// Built once, with its own limit of a minute.
beforeAll(() => void buildRanks(), 300_000)

const groups = devices.flatMap(({ device, most, skip }) => [2, 3].map((size) => ({ device, size, skip: skip || size > most })))
for (const { device, size, skip } of groups)
  describe.skipIf(skip)(`${size} ranks on ${device}`, () => {
    const each = Array.from({ length: size }, (_, i) => i)

    it("sum, gather, scatter and agree, in rank order", async () => {
      const ended = await runRanks("collectives", { size, device })
      const times = each.reduce((sum, i) => sum + i + 1, 0)
      each.forEach((i) => {
        expect(ended[i]).toMatchObject({ code: 0 })
        expect(ended[i]!.said).toEqual({
          sum: [times, 10 * times, 100 * times],
          gathered: each.flatMap((j) => [1 + j / 128, j]),
          mine: [2 * i * times, (2 * i + 1) * times],
          said: each.map((j) => ({ rank: j, text: "é".repeat(j + 1) })),
          agreed: "zero",
          numbers: [each.reduce((a, b) => a + b, 0), each.reduce((sum) => sum + 0.1, 0), NaN].map(String)
        })
      })
    })

    it("can have several pending operations", async () => {
      const ended = await runRanks("overlapped", { size, device })
      for (const { said } of ended) expect(said).toEqual([each, each.map((i) => 10 + i)])
    })
  })

describe("the addon's source", () => {
  it("has the digest stated in engine/ranks.ts, so that a change of it changes the stages' code", () => {
    const code = readFileSync(new URL("../../engine/ranks.ts", import.meta.url), "utf8")
    expect(code).toContain(`const source = "${sourceDigest()}"`)
  })
})

describe("a process that has not joined a group", () => {
  it("is the only rank: it gets back its own values", () => {
    expect([rank(), ranks(), gatherAll("x", "saying"), sumOver([1, 2], "adding"), rowsOfRank([1, 2, 3])]).toEqual([
      0,
      1,
      ["x"],
      [1, 2],
      [1, 2, 3]
    ])
  })
})

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`a group on ${device} that is incomplete`, () => {
    it("reports the rank that waited, where, and how long, if another is missing", async () => {
      const [first] = await runRanks("collectives", { size: 2, device, ranks: [0], joining: 2 })
      expect(first!.code).toBe(1)
      expect(first!.said.error).toMatch(
        /^Rank 0 of 2 did not meet the others at 127\.0\.0\.1:\d+ within 2 seconds: 1 of 2 ranks joined\. A rank did not start/
      )
    })

    it("says what to check if nobody listens at the master's address", async () => {
      const [second] = await runRanks("collectives", { size: 2, device, ranks: [1], joining: 2 })
      expect(second!.said.error).toMatch(
        /^Rank 1 of 2 did not meet the others at 127\.0\.0\.1:\d+ within 2 seconds: .* Check that rank 0 is running/
      )
    })

    it("says so if another program uses the port", async () => {
      const port = await freePort()
      const server = createServer().listen(port)
      const [first] = await runRanks("collectives", { size: 2, device, ranks: [0], joining: 2, port })
      await new Promise((resolve) => server.close(resolve))
      expect(first!.said.error).toMatch(/^Rank 0 of 2 did not meet.*Another program uses port \d+: set MASTER_PORT to a free port/)
    })
  })

  describe.skipIf(skip)(`a group on ${device} whose ranks can't connect`, () => {
    it("names the backend and the variable that selects the interface", async () => {
      const interfaces = { GLOO_SOCKET_IFNAME: "nosuch0", NCCL_SOCKET_IFNAME: "=nosuch0" }
      const [first] = await runRanks("collectives", { size: 2, device, joining: 5, environment: interfaces })
      expect(first!.said.error).toMatch(
        /^Rank 0 of 2 joined the others at 127\.0\.0\.1:\d+, but could not connect to them over (Gloo|NCCL): .*(GLOO|NCCL)_SOCKET_IFNAME selects the network interface/
      )
    })
  })

  describe.skipIf(skip)(`a group on ${device} that loses a rank`, () => {
    it("is reported by the ranks that wait for it", async () => {
      // Between two GPUs of one machine NCCL does not notice it: the deadline does.
      const isUnnoticed = device === "cuda" && !isShared
      const [first, second] = await runRanks("die", { size: 2, device, grace: 12, deadline: isUnnoticed ? 2 : 60 })
      expect(second!.signal).toBe("SIGKILL")
      const [said, expected] =
        device === "cpu"
          ? [first!.said.error, /^Rank 0 of 2 lost the others while the second sum: .*Another rank ended/]
          : [
              first!.errors,
              /^Rank 0 of 2 (lost the others|waited \d+ s for the others) in operation 2, the second sum.* Rank 1 .* in its last report: its process is stopped or has exited\.$/m
            ]
      expect(said).toMatch(expected)
    })

    it("exits at the deadline if one hangs, and reports the state of each rank", async () => {
      const [first] = await runRanks("hang", { size: 2, device, deadline: 2 })
      expect(first!.code).toBe(75)
      expect(first!.errors).toMatch(
        /Rank 0 of 2 waited \d+ s for the others in operation 2, the second sum\. Rank 1 has finished operation 1, the first sum, and is idle\./
      )
    })
  })
}

describe("a rank without a GPU", () => {
  it.skipIf(environment().gpus > 0)("gets an error with the number of GPUs that are needed", () => {
    const place = { rank: 1, size: 2, host: "127.0.0.1", port: 1, sharding: "weights" as const, seconds: 1 }
    expect(() => prepare("cuda", 1, place)).toThrow(/rank 1 of 2 has no GPU: this machine has fewer than 2 GPUs/)
  })
})

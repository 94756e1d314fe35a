/** Children: what they print. How they end is in run.test.ts and processes.test.ts. */
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import { expect, it } from "vitest"
import { processPool } from "../../runtime/executor.ts"
import type { AnyStage } from "../../runtime/stage.ts"
import { removeFolder } from "../cli/caravan.ts"
import { fixtureFolder } from "./fixture.ts"

it("what a child prints is told as it comes", async () => {
  const folder = fixtureFolder()
  const processes = processPool()
  try {
    const module = pathToFileURL(join(folder, "stages.ts")).href
    const { wait } = (await import(module)) as { readonly wait: AnyStage }
    const output = join(folder, "output")
    mkdirSync(output)
    let text = ""
    const job = {
      module,
      exportName: "wait",
      config: { steps: 0, die: "exit", empty: false },
      inputs: { texts: [] },
      output,
      seed: 0,
      device: "cpu" as const,
      threads: 1,
      checkpoints: null,
      prepare: undefined
    }
    const work = processes.run(
      wait.stage,
      job,
      () => undefined,
      Effect.succeed([]),
      (printed) => (text += printed)
    )
    await expect(Effect.runPromise(work)).rejects.toThrow(/ended with code 3/)
    expect(text).toBe("out of paper\n")
  } finally {
    processes.close()
    removeFolder(folder)
  }
})

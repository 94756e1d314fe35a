/** A command in this process: starting another takes as long as everything else. */
import { join } from "node:path"
import { vi } from "vitest"
import { main } from "../../cli/main.ts"
import type { Finished } from "./caravan.ts"

export const inProcess = async (folder: string, ...args: ReadonlyArray<string>): Promise<Finished> => {
  const text = { stdout: "", stderr: "" }
  const spies = (["stdout", "stderr"] as const).map((name) =>
    vi.spyOn(process[name], "write").mockImplementation((chunk) => ((text[name] += String(chunk)), true))
  )
  const listeners = new Set(process.stdout.listeners("error"))
  vi.stubEnv("CARAVAN_HOME", join(folder, "home"))
  try {
    return { status: await main(args), ...text }
  } finally {
    vi.unstubAllEnvs()
    for (const spy of spies) spy.mockRestore()
    for (const listener of process.stdout.listeners("error"))
      if (!listeners.has(listener)) process.stdout.off("error", listener as () => void)
  }
}

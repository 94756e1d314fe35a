/** A scorer's process ends with the stage's process, however that ends. */
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { expect, it, vi } from "vitest"
import { isAlive } from "../../../runtime/store/process-identity.ts"

it("a function that never returns is stopped when the process that asks it is killed", async () => {
  const folder = mkdtempSync(join(tmpdir(), "caravan-scorer-"))
  const pidFile = join(folder, "pid")
  const endless = join(folder, "endless.mjs")
  writeFileSync(
    endless,
    `import { writeFileSync } from "node:fs"
export default () => {
  writeFileSync(${JSON.stringify(pidFile)}, String(process.pid))
  for (;;);
}
`
  )
  const module = new URL("../../../stages/common/scorer-process.ts", import.meta.url).href
  const asker = spawn(process.execPath, [
    "--input-type=module",
    "-e",
    `import { moduleCommand, ScorerProcess } from ${JSON.stringify(module)}
const scorer = new ScorerProcess(moduleCommand(${JSON.stringify(pathToFileURL(endless).href)}), ${JSON.stringify(folder)})
await scorer.ask(JSON.stringify({ prompt: [], answer: "" }), 600)`
  ])
  await vi.waitFor(() => expect(existsSync(pidFile) && readFileSync(pidFile, "utf8")).toMatch(/^\d+$/), { timeout: 20_000 })
  const pid = Number(readFileSync(pidFile, "utf8"))
  try {
    expect(isAlive(pid)).toBe(true)
    asker.kill("SIGKILL")
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), { timeout: 10_000 })
  } finally {
    if (isAlive(pid)) process.kill(pid, "SIGKILL")
    rmSync(folder, { recursive: true, force: true })
  }
}, 40_000)

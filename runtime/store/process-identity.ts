/** Which processes are of this machine, and whether they live. */
import { hash } from "node:crypto"
import { readlinkSync } from "node:fs"
import { hostname } from "node:os"

let space: string | undefined
/** Where process numbers mean what they mean here: this machine, and this container of it. */
export const processSpace = (): string => (space ??= readProcessSpace())
const readProcessSpace = (): string => {
  let namespace = ""
  try {
    namespace = readlinkSync("/proc/self/ns/pid")
  } catch {
    // Not Linux: the machine's name has to do.
  }
  return hash("sha256", `${hostname()} ${namespace}`).slice(0, 8)
}

export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"
  }
}

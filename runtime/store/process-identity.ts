/** Identifies processes of this machine, and whether they are alive. */
import { hash } from "node:crypto"
import { readlinkSync } from "node:fs"
import { hostname } from "node:os"

let space: string | undefined
/** The scope in which process ids are valid: this machine, and this container on it. */
export const processSpace = (): string => (space ??= readProcessSpace())
const readProcessSpace = (): string => {
  let namespace = ""
  try {
    namespace = readlinkSync("/proc/self/ns/pid")
  } catch {
    // Not Linux: use the machine's name.
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

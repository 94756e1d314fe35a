/** Writes curves as TensorBoard event files: one folder per node, one scalar tag per column. */
import { mkdir, open, rename, rm } from "node:fs/promises"
import { hash } from "node:crypto"
import { join } from "node:path"
import { fileVersion, scalar } from "./tensorboard.ts"

/** Approximate size of a write, in bytes. */
const chunk = 1 << 20

/** A node's name as a folder name, which TensorBoard displays. */
export const folderOf = (node: string): string => {
  const name = encodeURIComponent(node)
  const safe = name.replaceAll(/^\.+/g, (dots) => dots.replaceAll(".", "%2E"))
  return safe.length <= 200 ? safe : `${safe.slice(0, 180)}-${hash("sha256", node).slice(0, 16)}`
}

export interface CurveToWrite {
  readonly node: string
  /** When its stage started, in milliseconds since 1970. */
  readonly began: number
  readonly rows: AsyncIterable<Readonly<Record<string, number | null>>>
}

/** Writes one curve; returns the file and its number of scalars. Throws file system errors. An existing file is replaced when the new one is complete. */
export const writeCurveEvents = async (
  folder: string,
  { began, node, rows }: CurveToWrite
): Promise<{ readonly path: string; readonly scalars: number }> => {
  const place = join(folder, folderOf(node))
  await mkdir(place, { recursive: true })
  // TensorBoard reads every file with "tfevents" in its name, in the order of the names.
  const path = join(place, `events.out.tfevents.${String(Math.floor(began / 1000)).padStart(10, "0")}.caravan`)
  const part = `${path}.part`
  const file = await open(part, "w")
  try {
    let [waiting, size, scalars, index] = [[fileVersion(began / 1000)], 0, 0, 0]
    for await (const row of rows) {
      index++
      const at = (began + 1000 * (row.seconds ?? 0)) / 1000
      for (const [name, value] of Object.entries(row)) {
        if (name === "step" || name === "seconds" || value === null) continue
        const bytes = scalar(at, row.step ?? index, name, value)
        waiting.push(bytes)
        size += bytes.length
        scalars++
      }
      if (size < chunk) continue
      await file.writeFile(Buffer.concat(waiting))
      ;[waiting, size] = [[], 0]
    }
    await file.writeFile(Buffer.concat(waiting))
    await file.close()
    await rename(part, path)
    return { path, scalars }
  } catch (cause) {
    await file.close().catch(() => undefined)
    await rm(part, { force: true })
    throw cause
  }
}

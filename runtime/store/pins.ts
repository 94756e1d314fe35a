/** Pins: `pins/<digest>` names an object that gc must keep, even if the journal is lost. */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { makeFolder } from "./durable.ts"

export interface Pin {
  readonly digest: string
  readonly note: string
  readonly made: number
}

export const pinsFolder = (home: string): string => join(home, "pins")

/** The folder must be fsynced afterwards. */
export const writePin = (home: string, digest: string, note: string): void => {
  const folder = pinsFolder(home)
  makeFolder(folder)
  writeFileSync(join(folder, `${digest}.new`), `${JSON.stringify({ note, made: Date.now() })}\n`, { flush: true })
  renameSync(join(folder, `${digest}.new`), join(folder, digest))
}

/** Returns whether there was a pin. */
export const removePin = (home: string, digest: string): boolean => {
  const file = join(pinsFolder(home), digest)
  const was = existsSync(file)
  rmSync(file, { force: true })
  return was
}

/** All pins, oldest first. */
export const allPins = (home: string): Array<Pin> => {
  const folder = pinsFolder(home)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => /^[0-9a-f]{64}$/.test(name))
    .map((digest) => {
      // The file name is what counts: an unreadable pin still protects its object.
      const [note, made] = readPin(join(folder, digest))
      return { digest, note, made }
    })
    .sort((a, b) => a.made - b.made || (a.digest < b.digest ? -1 : 1))
}

const readPin = (file: string): readonly [note: string, made: number] => {
  try {
    const { note, made } = JSON.parse(readFileSync(file, "utf8")) as { readonly note?: string; readonly made?: number }
    return [note ?? "", made ?? 0]
  } catch {
    return ["", 0]
  }
}

/** sha256 of files. Small ones are read in one call: a trip through the thread pool would cost more than the reading. */
import { createHash, hash as hashOf } from "node:crypto"
import { closeSync, fstatSync, openSync, read, readFileSync, readSync } from "node:fs"
import { promisify } from "node:util"

/** A file below this size is read at once, a larger one in pieces of it, the next of which is read while one is hashed. */
const pieceSize = 1 << 20
/** What small files are read into: in one turn of the event loop, so one is enough. */
const scratch = Buffer.allocUnsafeSlow(pieceSize)

/** Reads from the beginning until so many bytes are read or the file ends; how many. */
const readToScratch = (file: number, most = pieceSize): number => {
  let size = 0
  // A read of nothing is the end; a short one is not.
  for (let n = 1; n > 0 && size < most; size += n) n = readSync(file, scratch, size, most - size, null)
  return size
}

/** A file's bytes, in the scratch buffer where they fit: to be used at once. And when it was last written to, in milliseconds since 1970. */
export const readSmall = (path: string): { readonly bytes: Buffer; readonly written: number } => {
  const file = openSync(path, "r")
  try {
    const { mtimeMs: written, size } = fstatSync(file)
    return { bytes: size < pieceSize ? scratch.subarray(0, readToScratch(file, size)) : readFileSync(path), written }
  } finally {
    closeSync(file)
  }
}

/** Hears how many bytes were read since it was called last. */
export type OnBytes = (count: number) => void

const readAsync = promisify(read)
export const digestOfFileAt = async (
  path: string,
  onBytes: OnBytes = () => undefined
): Promise<{ readonly size: number; readonly sha256: string }> => {
  const file = openSync(path, "r")
  try {
    let size = readToScratch(file)
    onBytes(size)
    if (size < pieceSize) return { size, sha256: hashOf("sha256", scratch.subarray(0, size)) }
    const hash = createHash("sha256").update(scratch)
    let [piece, next] = [Buffer.allocUnsafeSlow(pieceSize), Buffer.allocUnsafeSlow(pieceSize)]
    let reading = readAsync(file, piece, 0, pieceSize, null)
    for (;;) {
      const { bytesRead } = await reading
      if (bytesRead === 0) return { size, sha256: hash.digest("hex") }
      size += bytesRead
      onBytes(bytesRead)
      reading = readAsync(file, next, 0, pieceSize, null)
      hash.update(piece.subarray(0, bytesRead))
      ;[piece, next] = [next, piece]
    }
  } finally {
    closeSync(file)
  }
}
export const sha256File = async (path: string, onBytes?: OnBytes): Promise<string> => (await digestOfFileAt(path, onBytes)).sha256

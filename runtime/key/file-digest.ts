/** sha256 of files. Small ones are read in one synchronous call: a round trip through the thread pool would cost more than the read. */
import { createHash, hash as hashOf } from "node:crypto"
import { closeSync, fstatSync, openSync, read, readFileSync, readSync } from "node:fs"
import { promisify } from "node:util"

/** Files below this size are read at once; larger ones in pieces of this size, reading the next piece while hashing the current one. */
const pieceSize = 1 << 20
/** Buffer for small files. Each is used within one turn of the event loop, so one buffer is enough. */
const scratch = Buffer.allocUnsafeSlow(pieceSize)

/** Reads from the start until `limit` bytes are read or the file ends; returns the number of bytes. */
const readToScratch = (file: number, limit = pieceSize): number => {
  let size = 0
  // Only a read of zero bytes is the end; a short read is not.
  for (let n = 1; n > 0 && size < limit; size += n) n = readSync(file, scratch, size, limit - size, null)
  return size
}

/** A file's bytes, in the scratch buffer if they fit (use them immediately), and its modification time in milliseconds since 1970. */
export const readSmall = (path: string): { readonly bytes: Buffer; readonly written: number } => {
  const file = openSync(path, "r")
  try {
    const { mtimeMs: written, size } = fstatSync(file)
    return { bytes: size < pieceSize ? scratch.subarray(0, readToScratch(file, size)) : readFileSync(path), written }
  } finally {
    closeSync(file)
  }
}

/** Called with the number of bytes read since the last call. */
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

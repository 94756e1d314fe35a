/**
 * Zstandard files with any number of frames (RFC 8878), as written by pzstd and `cat a.zst b.zst`. Node's decompressor silently stops after the first frame,
 * so this module finds the frames by their headers and block sizes, and decompresses each separately.
 */
import { once } from "node:events"
import { constants, createZstdDecompress } from "node:zlib"

/** Maximum window size, 2^27 bytes: files written with a larger window (zstd --long=28 and above) would need too much memory. */
const windowLog = 27

const frameMagic = 0xfd2fb528
/** The 16 magic numbers of skippable frames. */
const isSkippable = (magic: number): boolean => magic >= 0x184d2a50 && magic <= 0x184d2a5f

type Phase = "magic" | "descriptor" | "header" | "block" | "body" | "checksum"

/** Finds the end of a frame as its bytes are read. */
class Frame {
  ended = false
  #phase: Phase = "magic"
  /** Bytes of the current part still to come, and the bytes so far of a part that must be parsed. */
  #left = 4
  #held: Array<number> = []
  #checksum = false
  #last = false

  /** The number of these bytes, starting at `from`, that belong to the frame. */
  take(bytes: Buffer, from: number): number {
    let at = from
    while (!this.ended && at < bytes.length) {
      const n = Math.min(this.#left, bytes.length - at)
      if (this.#phase !== "body" && this.#phase !== "checksum") for (let i = 0; i < n; i++) this.#held.push(bytes[at + i]!)
      at += n
      this.#left -= n
      while (this.#left === 0 && !this.ended) this.#next()
    }
    return at - from
  }

  #go(phase: Phase, left: number): void {
    this.#phase = phase
    this.#left = left
    this.#held = []
  }

  #next(): void {
    const value = this.#held.reduceRight((sum, byte) => sum * 256 + byte, 0)
    switch (this.#phase) {
      case "magic":
        if (value === frameMagic) return this.#go("descriptor", 1)
        throw new Error("bytes that are not a zst frame")
      case "descriptor": {
        this.#checksum = (value & 4) !== 0
        const single = (value & 32) !== 0
        const size = [single ? 1 : 0, 2, 4, 8][value >> 6]!
        return this.#go("header", (single ? 0 : 1) + [0, 1, 2, 4][value & 3]! + size)
      }
      case "header":
        return this.#go("block", 3)
      case "block": {
        this.#last = (value & 1) === 1
        // Type 1 repeats one byte.
        return this.#go("body", ((value >> 1) & 3) === 1 ? 1 : value >> 3)
      }
      case "body":
        if (!this.#last) return this.#go("block", 3)
        if (this.#checksum) return this.#go("checksum", 4)
        this.ended = true
        return
      case "checksum":
        this.ended = true
    }
  }
}

/** The decompressed bytes of the frames. Throws if the file ends within a frame, or if something else follows. */
export async function* inflateZstd(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const chunks = source[Symbol.asyncIterator]()
  let [chunk, at]: [Buffer, number] = [Buffer.alloc(0), 0]
  /** Reads until the chunk has at least this many bytes; returns whether it has. */
  const more = async (least: number): Promise<boolean> => {
    while (chunk.length - at < least) {
      const next = await chunks.next()
      if (next.done === true) return false
      ;[chunk, at] = [at === chunk.length ? next.value : Buffer.concat([chunk.subarray(at), next.value]), 0]
    }
    return true
  }
  const cutOff = () => new Error("unexpected end of file")
  const skip = async (bytes: number): Promise<void> => {
    for (let left = bytes; left > 0;) {
      if (!(await more(1))) throw cutOff()
      const n = Math.min(left, chunk.length - at)
      at += n
      left -= n
    }
  }
  while (await more(1)) {
    if (!(await more(4))) throw cutOff()
    if (isSkippable(chunk.readUInt32LE(at))) {
      if (!(await more(8))) throw cutOff()
      await skip(8 + chunk.readUInt32LE(at + 4))
      continue
    }
    const inflate = createZstdDecompress({ params: { [constants.ZSTD_d_windowLogMax]: windowLog } })
    const frame = new Frame()
    const feed = async (): Promise<void> => {
      try {
        while (!frame.ended) {
          if (!(await more(1))) throw cutOff()
          const length = frame.take(chunk, at)
          const part = chunk.subarray(at, at + length)
          at += length
          if (!inflate.destroyed && !inflate.write(part)) await Promise.race([once(inflate, "drain"), once(inflate, "close")])
          if (inflate.destroyed) return
        }
        inflate.end()
      } catch (cause) {
        inflate.destroy(cause as Error)
      }
    }
    const fed = feed()
    try {
      yield* inflate as AsyncIterable<Buffer>
    } finally {
      inflate.destroy()
      await fed
    }
  }
}

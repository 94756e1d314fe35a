/** Reads and decompresses the bytes of a file; detects its format from the first bytes. */
import { createReadStream } from "node:fs"
import { open } from "node:fs/promises"
import { createGunzip } from "node:zlib"
import { ArtifactError } from "../../schemas/artifact.ts"
import { decisiveEnding } from "../../schemas/data-files.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { inflateZstd } from "./zstd.ts"

export type Compression = "none" | "gzip" | "zstd"
export type Format = "jsonl" | "json" | "csv" | "tsv" | "text" | "parquet" | "arrow"

export interface FileKind {
  readonly format: Format
  readonly compression: Compression
}

/** An error about the complete file, not one of its rows. */
export const damaged = (
  path: string,
  expected: string,
  cause: unknown,
  hint = "The file is damaged or truncated: download or copy it again."
) => ArtifactError.of({ doing: `Reading ${path}`, expected, found: messageOf(cause), hint })

const startsWith = (head: Buffer, ...bytes: ReadonlyArray<number>): boolean => bytes.every((byte, i) => head[i] === byte)

const compressionOf = (head: Buffer): Compression => {
  if (startsWith(head, 0x1f, 0x8b)) return "gzip"
  // RFC 8878: a frame or a skippable frame.
  return startsWith(head, 0x28, 0xb5, 0x2f, 0xfd) || ((head[0]! & 0xf0) === 0x50 && startsWith(head.subarray(1), 0x2a, 0x4d, 0x18))
    ? "zstd"
    : "none"
}

/** Formats that are not supported, by name, with a hint. */
const foreign: ReadonlyArray<readonly [string, ReadonlyArray<number>, string]> = [
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a], "Decompress it first: xz -d."],
  ["bzip2", [0x42, 0x5a, 0x68], "Decompress it first: bzip2 -d."],
  ["a zip archive", [0x50, 0x4b, 0x03, 0x04], "Unpack it first: unzip."],
  ["an LFS pointer", [...Buffer.from("version https://git-lfs")], "Download the file itself: git lfs pull."],
  ["an HTML page", [...Buffer.from("<!DOCTYPE")], "This is a web page about the file: download the file itself."],
  ["UTF-16 text", [0xff, 0xfe], "Convert it: iconv -f UTF-16 -t UTF-8."],
  ["UTF-16 text", [0xfe, 0xff], "Convert it: iconv -f UTF-16 -t UTF-8."]
]

/** Whether these could be the first bytes of UTF-8 text. The last character may be incomplete. */
const isText = (head: Buffer): boolean => {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true })
    return !head.includes(0)
  } catch {
    return false
  }
}

const formatOf = (path: string, head: Buffer): Format => {
  if (startsWith(head, ...Buffer.from("PAR1"))) return "parquet"
  if (startsWith(head, ...Buffer.from("ARROW1"))) return "arrow"
  // The stream format: a continuation mark, then the length of a header.
  if (startsWith(head, 0xff, 0xff, 0xff, 0xff)) return "arrow"
  const ending = decisiveEnding(path)
  if (ending === "txt") return "text"
  if (ending === "csv" || ending === "tsv") return ending
  const first = head
    .toString("latin1")
    .replace(/^\u00ef\u00bb\u00bf/, "")
    .trimStart()[0]
  return first === "[" ? "json" : "jsonl"
}

/** A file's kind, from its first bytes and, for text other than JSON, its extension. */
export const kindOf = async (path: string): Promise<FileKind> => {
  const unreadable = (found: string) =>
    damaged(path, "a file of rows (JSONL, JSON, CSV, TSV, Parquet, Arrow or text)", found, "Check the path.")
  const handle = await open(path).catch((cause: NodeJS.ErrnoException) => {
    throw unreadable(cause.code === "ENOENT" ? "no such file" : cause.message)
  })
  let head: Buffer = Buffer.alloc(4096)
  try {
    if ((await handle.stat()).isDirectory()) throw unreadable("a folder")
    head = head.subarray(0, (await handle.read(head, 0, head.length, 0)).bytesRead)
  } finally {
    await handle.close()
  }
  const compression = compressionOf(head)
  if (compression !== "none") head = await firstBytes(path, compression)
  for (const [what, bytes, hint] of foreign)
    if (head.length > 0 && startsWith(head, ...bytes))
      throw damaged(path, "text in UTF-8, Parquet or Arrow, plain, gzipped or zst", what, hint)
  const format = formatOf(path, head)
  const named = /\.(?:(parquet)|arrow|feather|ipc)$/i.exec(path)
  // Text is read whatever its name.
  if (named !== null && format !== "parquet" && format !== "arrow" && !isText(head))
    throw damaged(path, named[1] === undefined ? "an Arrow file" : "a Parquet file, which begins with PAR1", "other bytes at its beginning")
  return { format, compression }
}

const firstBytes = async (path: string, compression: Compression): Promise<Buffer> => {
  for await (const chunk of bytesOf(path, compression)) return chunk.subarray(0, 4096)
  return Buffer.alloc(0)
}

/** Bytes read and decompressed at a time. */
const chunkSize = 1 << 18

/** The bytes of a file. Rejects with an ArtifactError if it can't be read or is truncated. */
export async function* bytesOf(path: string, compression: Compression): AsyncGenerator<Buffer> {
  const source = createReadStream(path, { highWaterMark: chunkSize })
  const inflate = compression === "gzip" ? source.pipe(createGunzip({ chunkSize })) : undefined
  source.on("error", (error) => inflate?.destroy(error))
  try {
    yield* compression === "zstd" ? inflateZstd(source) : ((inflate ?? source) as AsyncIterable<Buffer>)
  } catch (cause) {
    throw damaged(path, compression === "none" ? "lines of text" : `${compression === "gzip" ? "gzipped" : "zst"} lines of text`, cause)
  } finally {
    source.destroy()
    inflate?.destroy()
  }
}

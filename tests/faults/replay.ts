/**
 * What a disk may contain after a power failure, from shim.c's log of calls. The model uses only POSIX's guarantees: a file's bytes
 * are on disk once it was fsynced, a name once its folder was; everything else may be there completely, partially or not at all, in any order
 * (CrashMonkey, OSDI 2018). Real file systems keep more than that.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Random } from "../../engine/random.ts"

export interface Operation {
  readonly what: "create" | "write" | "truncate" | "sync" | "rename" | "mkdir" | "remove" | "link" | "symlink"
  readonly inode: bigint
  /** Of a write; the length of a truncate. */
  readonly offset: number
  readonly path: string
  readonly to: string
  readonly data: Buffer
}

const kinds: Readonly<Record<string, Operation["what"]>> = {
  c: "create",
  w: "write",
  t: "truncate",
  s: "sync",
  r: "rename",
  m: "mkdir",
  u: "remove",
  l: "link",
  y: "symlink"
}

export const readLog = (bytes: Buffer): Array<Operation> => {
  const out: Array<Operation> = []
  for (let at = 0; at < bytes.length;) {
    const what = kinds[String.fromCharCode(bytes[at]!)]
    if (what === undefined) throw new Error(`no such operation in the log at ${at}`)
    const inode = bytes.readBigUInt64LE(at + 1)
    const offset = Number(bytes.readBigInt64LE(at + 9))
    const lengths = [bytes.readUInt32LE(at + 17), bytes.readUInt32LE(at + 21), bytes.readUInt32LE(at + 25)] as const
    at += 29
    const [path, to, data] = lengths.map((length) => {
      const part = bytes.subarray(at, at + length)
      at += length
      return part
    })
    out.push({ what, inode, offset, path: path!.toString(), to: to!.toString(), data: data! })
  }
  return out
}

type Change = { readonly kind: "write"; readonly at: number; readonly data: Buffer } | { readonly kind: "truncate"; readonly size: number }

const change = (bytes: Buffer, { ...change }: Change): Buffer => {
  if (change.kind === "truncate") {
    const out = Buffer.alloc(change.size)
    bytes.copy(out)
    return out
  }
  const out = Buffer.alloc(Math.max(bytes.length, change.at + change.data.length))
  bytes.copy(out)
  change.data.copy(out, change.at)
  return out
}

class FileNode {
  bytes: Buffer = Buffer.alloc(0)
  /** The guaranteed contents. */
  lasting: Buffer = Buffer.alloc(0)
  /** Later changes. */
  pending: Array<Change> = []
  apply(next: Change): void {
    this.bytes = change(this.bytes, next)
    this.pending.push(next)
  }
  sync(): void {
    this.lasting = this.bytes
    this.pending = []
  }
}
class FolderNode {
  readonly names = new Map<string, Entry>()
  lasting = new Map<string, Entry>()
  /** A rename is one change of two folders: both have its number. */
  pending: Array<{ readonly number: number; readonly name: string; readonly entry: Entry | undefined }> = []
  set(number: number, name: string, entry: Entry | undefined): void {
    if (entry === undefined) this.names.delete(name)
    else this.names.set(name, entry)
    this.pending.push({ number, name, entry })
  }
  sync(): void {
    this.lasting = new Map(this.names)
    this.pending = []
  }
}
type Entry = FileNode | FolderNode

/** How unfinished changes turn out. */
export type Luck =
  /** Everything is there: as after a killed process. */
  | "all"
  /** Only fsynced contents: later bytes and names are lost. */
  | "none"
  /** Every name is there; of files only the fsynced bytes. */
  | "names"
  /** Every name is there and every file has its length, with zeros for the bytes that were not fsynced. */
  | "zeros"
  /** Each change at random, and writes may be torn. */
  | Random

export class Disk {
  readonly #root: string
  readonly #tree = new FolderNode()
  readonly #inodes = new Map<bigint, FileNode>()
  #number = 0

  /** An empty folder, guaranteed to exist. */
  constructor(root: string) {
    this.#root = root
  }

  #find(path: string): { readonly folder: FolderNode; readonly name: string } | undefined {
    if (!path.startsWith(`${this.#root}/`)) return undefined
    const parts = path.slice(this.#root.length + 1).split("/")
    let folder = this.#tree
    for (const part of parts.slice(0, -1)) {
      const next = folder.names.get(part)
      if (!(next instanceof FolderNode)) return undefined
      folder = next
    }
    return { folder, name: parts.at(-1)! }
  }
  #at(path: string): { readonly folder: FolderNode; readonly name: string } {
    const found = this.#find(path)
    if (found === undefined) throw new Error(`the log names ${path}, whose folder nothing made`)
    return found
  }

  apply({ what, inode, offset, path, to, data }: Operation): void {
    const number = this.#number++
    switch (what) {
      case "create": {
        const { folder, name } = this.#at(path)
        const file = new FileNode()
        this.#inodes.set(inode, file)
        folder.set(number, name, file)
        break
      }
      case "mkdir": {
        const { folder, name } = this.#at(path)
        folder.set(number, name, new FolderNode())
        break
      }
      case "write":
        this.#file(inode).apply({ kind: "write", at: offset, data })
        break
      case "truncate":
        this.#file(inode).apply({ kind: "truncate", size: offset })
        break
      case "rename": {
        const [from, target] = [this.#at(path), this.#at(to)]
        const entry = from.folder.names.get(from.name)
        if (entry === undefined) throw new Error(`the log renames ${path}, which nothing made`)
        from.folder.set(number, from.name, undefined)
        target.folder.set(number, target.name, entry)
        break
      }
      case "remove": {
        const { folder, name } = this.#at(path)
        folder.set(number, name, undefined)
        break
      }
      case "sync": {
        const found = path === this.#root ? this.#tree : undefined
        const place = this.#find(path)
        const entry = found ?? place?.folder.names.get(place.name)
        // A file may have another name by now; a folder has none of the numbers.
        const file = entry instanceof FolderNode ? undefined : this.#inodes.get(inode)
        if (entry instanceof FolderNode) entry.sync()
        else file?.sync()
        break
      }
      default:
        throw new Error(`a run made a ${what}: teach replay.ts what that is`)
    }
  }
  #file(inode: bigint): FileNode {
    const file = this.#inodes.get(inode)
    if (file === undefined) throw new Error(`the log writes to a file that nothing made`)
    return file
  }

  /** The files and folders (null) after a power failure here: path below the root -> bytes. */
  after(luck: Luck): Map<string, Buffer | null> {
    const out = new Map<string, Buffer | null>()
    const kept = new Map<number, boolean>()
    const isKept = (number: number, random: Random) => {
      if (!kept.has(number)) kept.set(number, random.next() < 0.5)
      return kept.get(number)!
    }
    const bytesOf = (file: FileNode): Buffer => {
      if (luck === "all") return file.bytes
      if (luck === "none" || luck === "names") return file.lasting
      if (luck === "zeros") {
        const bytes = Buffer.alloc(file.bytes.length)
        file.lasting.copy(bytes)
        return bytes
      }
      let bytes = file.lasting
      for (const pending of file.pending) {
        const throwOf = luck.next()
        if (throwOf < 0.4) continue
        // Disks write complete sectors.
        const torn = throwOf < 0.6 && pending.kind === "write" && pending.data.length > 512
        bytes = change(
          bytes,
          torn ? { ...pending, data: pending.data.subarray(0, 512 * Math.ceil(luck.next() * (pending.data.length / 512 - 1))) } : pending
        )
      }
      return bytes
    }
    const namesOf = (folder: FolderNode): ReadonlyMap<string, Entry> => {
      if (luck === "none") return folder.lasting
      if (luck === "all" || luck === "names" || luck === "zeros") return folder.names
      const names = new Map(folder.lasting)
      for (const { number, name, entry } of folder.pending) {
        if (!isKept(number, luck)) continue
        if (entry === undefined) names.delete(name)
        else names.set(name, entry)
      }
      return names
    }
    const walk = (folder: FolderNode, below: string) => {
      for (const [name, entry] of namesOf(folder)) {
        const path = below === "" ? name : `${below}/${name}`
        if (entry instanceof FolderNode) {
          out.set(path, null)
          walk(entry, path)
        } else out.set(path, bytesOf(entry))
      }
    }
    walk(this.#tree, "")
    return out
  }
}

/** Puts files and folders where a run will find them. */
export const materialise = (files: ReadonlyMap<string, Buffer | null>, folder: string): void => {
  mkdirSync(folder, { recursive: true })
  for (const [path, bytes] of files) {
    if (bytes === null) mkdirSync(join(folder, path), { recursive: true })
    else writeFileSync(join(folder, path), bytes)
  }
}

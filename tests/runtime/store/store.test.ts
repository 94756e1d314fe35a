import { createHash } from "node:crypto"
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as Effect from "effect/Effect"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { digestFile } from "../../../runtime/key/file-source.ts"
import { Journal } from "../../../runtime/store/journal.ts"
import { processSpace } from "../../../runtime/store/process-identity.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { anything, invert, type Opened, openHome } from "../fixture.ts"

let home: string
let opened: Opened
let store: Opened["store"]
beforeEach(() => {
  home = workFolder()
  opened = openHome(home)
  store = opened.store
})
afterEach(() => {
  opened.close()
  removeFolder(home)
})

const commit = async (files: Record<string, string>) => {
  const directory = await Effect.runPromise(store.temporary)
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(directory, name, ".."), { recursive: true })
    writeFileSync(join(directory, name), text)
  }
  return Effect.runPromise(store.commit(directory, anything))
}
const age = () => new Promise((resolve) => setTimeout(resolve, 150))

describe("an object", () => {
  it("is named by its manifest's sha256, which covers every file; it is read-only", async () => {
    const { digest } = await commit({ "a.txt": "alpha", "deep/b.txt": "beta" })
    const folder = store.path(digest)
    const manifest = JSON.parse(readFileSync(join(folder, "artifact.json"), "utf8")) as { files: ReadonlyArray<unknown> }
    // printf alpha | sha256sum
    expect(manifest.files).toEqual([
      { path: "a.txt", size: 5, sha256: "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8" },
      { path: "deep/b.txt", size: 4, sha256: "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753" }
    ])
    expect(statSync(join(folder, "deep/b.txt")).mode & 0o222).toBe(0)
    expect([opened.now(store.present(digest)), await opened.later(store.damage(digest))]).toEqual([true, undefined])
    expect(readdirSync(join(home, "tmp"))).toEqual([])
  })

  it("is the same whoever makes it; a damaged one is replaced", async () => {
    const first = await commit({ "a.txt": "alpha" })
    expect(await commit({ "a.txt": "alpha" })).toEqual(first)
    const file = join(store.path(first.digest), "a.txt")
    rmSync(file)
    writeFileSync(file, "aleph")
    expect(await opened.later(store.damage(first.digest))).toBe("a.txt has changed")
    expect(await commit({ "a.txt": "alpha" })).toEqual(first)
    expect(await opened.later(store.damage(first.digest))).toBeUndefined()
    expect(readdirSync(join(home, "quarantine")).length).toBe(1)
    expect(readdirSync(join(home, "tmp"))).toEqual([])
  })

  it("is read to its last file, and is damaged wherever a byte has changed", async () => {
    const files = { "a.txt": "alpha", "deep/b.txt": "beta", "deep/er/c.txt": "gamma" }
    for (const name of Object.keys(files)) {
      const { digest } = await commit(files)
      invert(join(store.path(digest), name), { times: "keep" })
      expect([opened.now(store.presence(digest)), await opened.later(store.damage(digest))]).toEqual(["present", `${name} has changed`])
    }
  })

  it("with a file written after the manifest counts as modified, until its bytes were read and found intact", async () => {
    const { digest } = await commit({ "a.txt": "alpha", "deep/b.txt": "beta" })
    const file = join(store.path(digest), "deep/b.txt")
    chmodSync(file, 0o644)
    // A file system's clock may tick only every few milliseconds.
    await sleep(20)
    writeFileSync(file, "beta")
    expect(opened.now(store.presence(digest))).toBe("modified")
    expect(await opened.later(store.damage(digest))).toBeUndefined()
    expect(opened.now(store.presence(digest))).toBe("present")
    await sleep(20)
    invert(file)
    expect(opened.now(store.presence(digest))).toBe("modified")
    expect(await opened.later(store.damage(digest))).toBe("deep/b.txt has changed")
    expect(opened.now(store.presence(digest))).toBe("modified")
  })

  it("has its own content digest, independent of its files' names", async () => {
    const contents = await Promise.all([{ "a.txt": "alpha" }, { "b.txt": "alpha" }, { "deep/a.txt": "alpha" }].map(commit))
    expect(new Set(contents.map(({ contentDigest }) => contentDigest)).size).toBe(3)
  })

  it("of a newer version is rejected, and not mistaken for damage", async () => {
    const { digest } = await commit({ "a.txt": "alpha" })
    const bytes = readFileSync(join(store.path(digest), "artifact.json"), "utf8").replace('"format": 1', '"format": 2')
    const newer = createHash("sha256").update(bytes).digest("hex")
    mkdirSync(store.path(newer), { recursive: true })
    writeFileSync(join(store.path(newer), "artifact.json"), bytes)
    const refused = /it has format 2, but this version of caravan supports formats up to 1\. Use the newer version/
    expect(() => opened.now(store.present(newer))).toThrow(refused)
    await expect(opened.later(store.damage(newer))).rejects.toThrow(refused)
  })

  it("made concurrently by many is one", async () => {
    const made = await Promise.all(Array.from({ length: 8 }, () => commit({ "a.txt": "alpha" })))
    expect(new Set(made.map(({ digest }) => digest)).size).toBe(1)
    expect(existsSync(join(home, "quarantine"))).toBe(false)
  })

  it("contains only plain files, and none with the manifest's name", async () => {
    await expect(commit({ "artifact.json": "{}" })).rejects.toThrow(/artifact\.json: that name is reserved for the store/)
    const directory = await Effect.runPromise(store.temporary)
    symlinkSync("/etc/hostname", join(directory, "link"))
    await expect(Effect.runPromise(store.commit(directory, anything))).rejects.toThrow(/link is not a regular file/)
  })
})

describe("leftovers of killed runs", () => {
  it("are deleted, but not the files that living runs write", async () => {
    const mine = await Effect.runPromise(store.temporary)
    // No process has this number: it is above the kernel's limit.
    mkdirSync(join(home, `tmp/4194305-${processSpace()}-left`))
    // Not on this machine either, but other machines' processes have their own numbers.
    const other = join(home, "tmp/4194305-elsewhere-left")
    mkdirSync(other)
    await opened.later(store.sweep)
    expect(
      readdirSync(join(home, "tmp"))
        .map((name) => join(home, "tmp", name))
        .sort()
    ).toEqual([mine, other].sort())
  })
})

describe("a user's file", () => {
  const digest = async (path: string) => (await opened.later(Journal.use((journal) => digestFile(path, journal)))).digest
  /** The cached digest of its content. */
  const kept = () => {
    const database = new DatabaseSync(join(home, "journal.db"))
    const rows = database.prepare("select digest from files").all()
    database.close()
    return rows.map((row) => row.digest)
  }

  it("is identified by its sha256; hashed again only if its size or times changed, or are too recent to tell", async () => {
    const path = join(home, "words.jsonl")
    writeFileSync(path, "alpha")
    expect(await digest(path)).toBe("8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8")
    expect(kept()).toEqual([])
    await age()
    await digest(path)
    expect(kept()).toEqual([await digest(path)])
    writeFileSync(path, "aleph")
    // printf aleph | sha256sum
    expect(await digest(path)).toBe("c0d93ea09e20eb4c5ca5b8f26dead01bd67c5599fadc8ceb44ba7e24d48722fc")
  })

  it("may be a folder, identified by its files' names and contents; links are followed, as in Hugging Face's cache", async () => {
    const [snapshot, plain] = [join(home, "snapshot"), join(home, "plain")]
    for (const folder of [snapshot, plain]) mkdirSync(join(folder, "sub"), { recursive: true })
    writeFileSync(join(home, "blob"), "alpha")
    symlinkSync("../blob", join(snapshot, "model.bin"))
    linkSync(join(home, "blob"), join(plain, "model.bin"))
    for (const folder of [snapshot, plain]) writeFileSync(join(folder, "sub/config.json"), "{}")
    expect(await digest(snapshot)).toBe(await digest(plain))
    writeFileSync(join(plain, "sub/more.json"), "{}")
    expect(await digest(snapshot)).not.toBe(await digest(plain))
  })

  it("that is missing is an error that says where it was searched", async () => {
    await expect(digest(join(home, "none"))).rejects.toThrow(/Reading the input .*none: no such file or folder\. Check the path/)
    symlinkSync("nowhere", join(home, "dangling"))
    await expect(digest(join(home, "dangling"))).rejects.toThrow(/no such file/)
    writeFileSync(join(home, "file"), "")
    await expect(digest(join(home, "file/below"))).rejects.toThrow(/: no such file or folder\. Check the path/)
    symlinkSync("loop", join(home, "loop"))
    await expect(digest(join(home, "loop"))).rejects.toThrow(/loop: it is a symbolic link that leads back to itself\. Point it to a file/)
  })
})

describe("the journal", () => {
  it("that is damaged, blocked or from a newer version is rejected with a hint", () => {
    writeFileSync(join(home, "journal.db"), "no journal, but long enough to be looked at as one".repeat(20))
    expect(() => openHome(home).journal.runs()).toThrow(/journal\.db: file is not a database\. It is damaged: move it away/)
    expect(() => openHome(join(home, "journal.db")).journal.runs()).toThrow(
      /Opening the journal .*: .*journal\.db is a file, but a folder is needed\. Set CARAVAN_HOME to a folder/
    )
    // Node's own recursive mkdir would never return here.
    expect(() => openHome("/proc/caravan/deep").journal.runs()).toThrow(
      /ENOENT.*Make the folder writable, or set CARAVAN_HOME to another folder/
    )
    const future = join(home, "future")
    const made = openHome(future)
    made.journal.runs()
    made.close()
    const database = new DatabaseSync(join(future, "journal.db"))
    database.exec("pragma user_version = 1000")
    database.close()
    expect(() => openHome(future).journal.runs()).toThrow(
      /it has format 1000, but this version of caravan supports formats up to \d+\. Use the newer version/
    )
  })

  it("whose table definitions have changed is reported as damaged", () => {
    const made = openHome(home)
    made.journal.runs()
    made.close()
    const file = join(home, "journal.db")
    const bytes = readFileSync(file, "latin1")
    const one = "on executions (substr("
    expect(bytes.split(one)).toHaveLength(2)
    writeFileSync(file, bytes.replace(one, "on executions (swbstr("), "latin1")
    const parts = { stage: "s", code: "", config: {}, seed: null, inputs: {}, numerics: null }
    const execution = { run: "r", pipeline: "p", node: "n", stage: "s", key: "k", parts, files: {}, milliseconds: 0, digest: "d" }
    expect(() => openHome(home).journal.recordExecution({ ...execution, status: "hit", error: null })).toThrow(
      /Using the journal .*journal\.db: unknown function: swbstr\(\)\. It is damaged: move it away/
    )
  })

  it("keeps metrics that JSON lacks: NaN and the infinities", () => {
    const opened = openHome(home)
    const metrics = { accuracy: NaN, loss: Infinity, reward: -Infinity, rows: 3 }
    opened.journal.recordTrace({ key: "numbers", digest: "n", contentDigest: "c", type: "report:anything/1", metrics }, {})
    expect(opened.journal.trace("numbers")!.metrics).toEqual(metrics)
    expect(opened.journal.artifact("n")!.metrics).toEqual(metrics)
    opened.close()
    // As older versions stored them.
    const database = new DatabaseSync(join(home, "journal.db"))
    database.exec(`update traces set metrics = '{"accuracy":null}', sum = null where key = 'numbers'`)
    database.close()
    const again = openHome(home)
    expect(again.journal.trace("numbers")!.metrics).toEqual({ accuracy: NaN })
    again.close()
  })

  it("is opened by several processes concurrently, and each sees what the others wrote", () => {
    const [first, second] = [openHome(home), openHome(home)]
    const [a, b] = [first.journal, second.journal]
    const trace = { key: "k", digest: "d", contentDigest: "c", type: "report:anything/1", metrics: { loss: 0.5 } }
    a.recordTrace(trace, {})
    expect(b.trace("k")).toEqual(trace)
    // The first result under a key stays.
    b.recordTrace({ ...trace, digest: "e" }, {})
    expect(a.trace("k")).toEqual(trace)
    expect(() =>
      a.transaction((tables) => {
        tables.forgetTrace("k")
        throw new Error("no")
      })
    ).toThrow("no")
    expect(b.trace("k")).toEqual(trace)
    first.close()
    second.close()
  })
})

/** Shared results: two clones of a project with separate stores and a shared folder, and faults of that folder. */
import { spawnSync } from "node:child_process"
import { hash } from "node:crypto"
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statfsSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { checkRecords } from "../../faults/invariants.ts"
import { encodeEntry } from "../../../runtime/shared/entry.ts"
import { digests, type Fixture, fixtureFolder, invert, loadFixture, openHome, statuses } from "../fixture.ts"

/** A clone that ran before all tests, and the folder with its shared results. */
let template: Fixture
let first: Ran
const templateShared = join(workFolder(), "shared")
beforeAll(async () => {
  template = await loadFixture(fixtureFolder())
  mkdirSync(templateShared)
  first = await template.run({}, { shared: { folder: templateShared } })
})
afterAll(() => {
  for (const each of [template.folder, join(templateShared, "..")]) removeFolder(each)
})

/** Another clone, in which nothing has run yet. */
let other: Fixture
let folder: string
beforeEach(async () => {
  other = await loadFixture(fixtureFolder())
  folder = join(workFolder(), "shared")
  mkdirSync(folder)
})
const filled = () => cpSync(templateShared, folder, { recursive: true })
afterEach(async () => {
  await checkRecords(join(other.folder, "home"))
  for (const each of [other.folder, join(folder, "..")]) removeFolder(each)
})

const all = (status: string) => ({ lines: status, shout: status, wait: status, counts: status })
type Ran = Awaited<ReturnType<Fixture["run"]>>
const notes = ({ events }: Ran) => events.flatMap((event) => (event.type === "note" ? [event.message] : []))
const keyOf = ({ nodes }: Ran, node: string) => nodes.find(({ id }) => id === node)!.key!
const entryPath = (key: string) => join(folder, "ac", key.slice(0, 2), key)
const blobPath = (sha256: string) => join(folder, "cas", sha256.slice(0, 2), sha256)
/** The file of a dataset in the shared folder. */
const dataOf = (ran: Ran, node: string) => {
  const { files } = JSON.parse(readFileSync(blobPath(digests(ran)[node]!), "utf8")) as { files: Array<{ path: string; sha256: string }> }
  return blobPath(files.find(({ path }) => path === "data.arrow")!.sha256)
}
const files = (below: string) => readdirSync(below, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())

describe("a folder of shared results", () => {
  it("gives a second clone every result, with the original digests, metrics and origin; they stay when the folder is deleted", async () => {
    filled()
    expect(statuses(first)).toEqual(all("ran"))
    const second = await other.run({}, { shared: { folder } })
    expect(statuses(second)).toEqual(all("fetched"))
    expect(digests(second)).toEqual(digests(first))
    expect(second.nodes.map(({ metrics }) => metrics)).toEqual(first.nodes.map(({ metrics }) => metrics))
    expect(notes(second)).toEqual([])
    rmSync(folder, { recursive: true })
    expect(statuses(await other.run())).toEqual(all("hit"))
    const { journal, close } = openHome(join(other.folder, "home"))
    expect(journal.provenance(keyOf(second, "shout"))).toMatchObject({ run: second.run, fetched: folder })
    expect(journal.executionsWith(digests(second).shout!)).toMatchObject([{ status: "fetched", parts: { config: { times: 1 } } }])
    close()
  })

  it("gets results that were made before it was configured", async () => {
    expect(statuses(await template.run({}, { shared: { folder } }))).toEqual(all("hit"))
    expect(statuses(await other.run({}, { shared: { folder } }))).toEqual(all("fetched"))
  })

  it("returns only results with the same key", async () => {
    filled()
    const second = await other.run({ times: "2" }, { shared: { folder }, force: ["wait"] })
    expect(statuses(second)).toEqual({ lines: "fetched", wait: "ran", shout: "ran", counts: "ran" })
  })

  it("that is used read-only is not written to", async () => {
    filled()
    const there = files(folder).length
    expect(statuses(await other.run({ times: "2" }, { shared: { folder, isReadOnly: true } }))).toMatchObject({
      wait: "fetched",
      shout: "ran"
    })
    expect(files(folder).length).toBe(there)
  })

  it("has complete files if several processes write concurrently", async () => {
    const [, second] = await Promise.all([template, other].map((each) => each.run({}, { shared: { folder } })))
    expect(digests(second!)).toEqual(digests(first))
    expect(files(join(folder, "tmp"))).toEqual([])
    for (const { name, parentPath } of files(join(folder, "cas"))) expect(hash("sha256", readFileSync(join(parentPath, name)))).toBe(name)
  })
})

describe("a wrong shared result", () => {
  beforeEach(filled)
  const expectMadeHere = async (node: string, message: RegExp, isReadOnly = false) => {
    const second = await other.run({}, { shared: { folder, isReadOnly } })
    expect(statuses(second)).toEqual({ ...all("fetched"), [node]: "ran" })
    expect(digests(second)).toEqual(digests(first))
    expect(notes(second)).toEqual([expect.stringMatching(message)])
  }

  it("with wrong bytes is made locally, and repaired in the folder", async () => {
    invert(dataOf(first, "shout"))
    await expectMadeHere("shout", /its shared result in .* can't be used \(.* does not match its name\): it is computed here/)
    rmSync(join(other.folder, "home"), { recursive: true })
    expect(statuses(await other.run({}, { shared: { folder } }))).toEqual(all("fetched"))
  })
  it("with wrong bytes stays if the folder is read-only", async () => {
    invert(dataOf(first, "shout"))
    await expectMadeHere("shout", /does not match its name/, true)
    expect(existsSync(dataOf(first, "shout"))).toBe(true)
  })
  it("with a wrong length is made locally", async () => {
    writeFileSync(dataOf(first, "shout"), readFileSync(dataOf(first, "shout")).subarray(0, 100))
    await expectMadeHere("shout", /has 100 bytes, expected/)
  })
  it("with a damaged entry, or another key's entry, is made locally", async () => {
    invert(entryPath(keyOf(first, "shout")))
    await expectMadeHere("shout", /its entry for the key .* is damaged/)
    rmSync(join(other.folder, "home"), { recursive: true })
    writeFileSync(entryPath(keyOf(first, "shout")), readFileSync(entryPath(keyOf(first, "wait"))))
    await expectMadeHere("shout", /belongs to another key/)
  })
  it("with a wrong content digest is made locally: its dependents use that digest", async () => {
    const path = entryPath(keyOf(first, "shout"))
    const entry = JSON.parse(readFileSync(path, "utf8").split("\n")[1]!) as Parameters<typeof encodeEntry>[0]
    writeFileSync(path, encodeEntry({ ...entry, contentDigest: "0".repeat(64) }))
    await expectMadeHere("shout", /its content digest is .*, expected 0000/)
  })
  it("with a wrong type is made locally", async () => {
    const path = entryPath(keyOf(first, "shout"))
    const entry = JSON.parse(readFileSync(path, "utf8").split("\n")[1]!) as Parameters<typeof encodeEntry>[0]
    writeFileSync(path, encodeEntry({ ...entry, digest: digests(first).counts! }))
    await expectMadeHere("shout", /can't be used/)
  })
  it("with paths that leave its folder writes nothing there", async () => {
    const path = entryPath(keyOf(first, "shout"))
    const entry = JSON.parse(readFileSync(path, "utf8").split("\n")[1]!) as Parameters<typeof encodeEntry>[0]
    const evil = hash("sha256", "evil")
    mkdirSync(join(blobPath(evil), ".."), { recursive: true })
    writeFileSync(blobPath(evil), "evil")
    for (const name of ["../../../evil", "/tmp/evil", "a//b", "./x"]) {
      const manifest = JSON.stringify({
        format: 1,
        type: entry.type,
        contentDigest: entry.contentDigest,
        files: [{ path: name, size: 4, sha256: evil }]
      })
      const digest = hash("sha256", manifest)
      mkdirSync(join(blobPath(digest), ".."), { recursive: true })
      writeFileSync(blobPath(digest), manifest)
      writeFileSync(path, encodeEntry({ ...entry, digest }))
      await expectMadeHere("shout", /lists an invalid file path/)
      expect(readdirSync(other.folder, { recursive: true }).filter((file) => String(file).includes("evil"))).toEqual([])
      rmSync(join(other.folder, "home"), { recursive: true })
    }
  })
  it("with deleted files is made locally without a message: old files may be deleted", async () => {
    rmSync(dataOf(first, "shout"))
    const second = await other.run({}, { shared: { folder } })
    expect([statuses(second), notes(second)]).toEqual([{ ...all("fetched"), shout: "ran" }, []])
  })
})

describe("a folder of shared results that fails", () => {
  const expectSurvived = (ran: Ran, message: RegExp) => {
    expect(Object.values(statuses(ran)).every((status) => status === "ran" || status === "fetched")).toBe(true)
    expect(notes(ran)).toEqual([expect.stringMatching(message)])
  }
  it("because it does not exist is reported once, and not created", async () => {
    rmSync(folder, { recursive: true })
    expectSurvived(
      await other.run({}, { shared: { folder } }),
      /can't be read \(gone: the folder does not exist: mount it, or create it \(mkdir\)\); the run continues without it/
    )
    expect(existsSync(folder)).toBe(false)
  })
  it("because a file is in its place is reported once", async () => {
    rmSync(folder, { recursive: true })
    writeFileSync(folder, "")
    expectSurvived(await other.run({}, { shared: { folder } }), /gone: it is not a folder/)
  })
  it("because it disappears during the run is reported once", async () => {
    const ran = await other.run({ steps: "4" }, { shared: { folder } }, (event) => {
      if (event.type === "node-finished" && event.node.id === "lines") renameSync(folder, `${folder}-gone`)
    })
    expectSurvived(ran, /can't be (read|written to) \(gone: /)
    expect(existsSync(folder)).toBe(false)
  })
  it("because it hangs is waited for until the deadline, once", async () => {
    filled()
    const path = entryPath(keyOf(first, "lines"))
    rmSync(path)
    expect(spawnSync("mkfifo", [path]).status).toBe(0)
    const began = performance.now()
    expectSurvived(
      await other.run({}, { shared: { folder, seconds: 0.5 } }),
      /can't be read \(slow: no answer within 0\.5 s\); the run continues without it/
    )
    expect(performance.now() - began).toBeLessThan(20_000)
  })

  const mount = () => spawnSync("mount", ["-t", "tmpfs", "-o", "size=32k", "none", folder]).status === 0
  it("because it is full is reported once; existing results are still used", { timeout: 60_000 }, async ({ skip }) => {
    if (!mount()) return skip("mounting is not allowed here")
    try {
      const ran = await other.run({}, { shared: { folder } })
      expectSurvived(ran, /can't be written to \(full: ENOSPC.*\); nothing more is sent there in this run/)
      expect(statfsSync(folder).bfree).toBeLessThan(4)
      rmSync(join(other.folder, "home"), { recursive: true })
      const second = await other.run({}, { shared: { folder, isReadOnly: true } })
      expect([digests(second), statuses(second).lines]).toEqual([digests(ran), "fetched"])
    } finally {
      spawnSync("umount", ["-l", folder])
    }
  })
})

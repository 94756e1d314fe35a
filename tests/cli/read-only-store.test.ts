/** Stores that can't be written to, or are invalid: commands that only read work, all others say what to do, and nothing is lost silently. */
import { spawnSync } from "node:child_process"
import { hash } from "node:crypto"
import { chmodSync, cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { diagnose } from "../../cli/commands/doctor.ts"
import { addonPath, findLibtorch } from "../../engine/native/build.mjs"
import { fixtureFolder, invert } from "../runtime/fixture.ts"
import { command, removeFolder, type RunDocument, runJson } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

let folder: string
let first: RunDocument
beforeAll(() => {
  folder = fixtureFolder()
  // Another user has a separate addon.
  const addon = addonPath(findLibtorch())
  const cache = join(folder, "cache/caravan/native", basename(dirname(addon)))
  cpSync(dirname(addon), cache, { recursive: true })
  runJson(folder, "pipeline.ts", "--set", "times=2")
  first = runJson(folder, "pipeline.ts")
})
afterAll(() => removeFolder(folder))

/** The commands that only read, and a part of their output. */
const reading = (): ReadonlyArray<readonly [args: ReadonlyArray<string>, shown: RegExp]> => [
  [["runs"], /succeeded .* fixture/],
  [["show", "latest"], /^Run [0-9a-f-]{36} of fixture: succeeded$/m],
  [["lineage", "shout"], /^in the store: /m],
  [["log", "shout"], /stage shout starts/],
  [["diff", "latest~1", "latest"], /^shout\n {2}config times: 2 -> 1$/m],
  [["du"], /objects? of [\d.]+ kB; 0 pinned .* 0 in use \(0 B\)\.$/m],
  [["gc", "--older-than", "1h"], /^\d+ objects? of .* stay\.$/m],
  [["graph", "pipeline.ts"], /^output loud = shout$/m],
  [["plan", "pipeline.ts"], /^4 in the store, 0 to run/m],
  [["why", "pipeline.ts", "shout"], /^shout is in the store/m],
  [["verify", "pipeline.ts", "--only", "lines"], /^1 same\.$/m],
  [["verify", "--store"], / 0 damaged, 0 unknown, 0 stray\.$/m]
]
const run = (home: string, args: ReadonlyArray<string>, uid?: number) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd: folder,
    env: { ...process.env, CARAVAN_HOME: home, NODE_OPTIONS: "", XDG_CACHE_HOME: join(folder, "cache") },
    encoding: "utf8",
    ...(uid === undefined ? {} : { uid, gid: uid })
  })
  return { status, stdout, stderr, text: `${stdout}${stderr}` }
}
/** When the last run ended, according to the journal. */
const finishedOf = (home: string): number => {
  const database = new DatabaseSync(join(home, "journal.db"))
  try {
    return Number(database.prepare("select finished from runs order by started desc limit 1").get()!.finished)
  } finally {
    database.close()
  }
}
const isRoot = process.getuid?.() === 0
/** Every file below a folder, with its digest. */
const contents = (home: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(home, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path) => [path, hash("sha256", readFileSync(path))])
  )

/** Faults of the commands there: none, if all is well. */
const wrongIn = (home: string, uid?: number): Array<string> => {
  const before = contents(home)
  const wrong = reading().flatMap(([args, shown]) => {
    const { status, text } = run(home, args, uid)
    return status === 0 && shown.test(text) ? [] : [`${args.join(" ")}: ${status}: ${text}`]
  })
  for (const more of [["--set", "times=3"], []]) {
    const { status, text } = run(home, ["run", "pipeline.ts", ...more], uid)
    if (status !== 1 || !/^Starting a run in the store .* Make the folder writable/m.test(text) || /^\s+at /m.test(text))
      wrong.push(`run ${more.join(" ")}: ${status}: ${text}`)
  }
  const deleting = run(home, ["gc", "--yes"], uid)
  if (deleting.status !== 1 || !/can't be written to\. Make the folder writable/.test(deleting.text))
    wrong.push(`gc --yes: ${deleting.text}`)
  if (JSON.stringify(contents(home)) !== JSON.stringify(before)) wrong.push("something was written")
  return wrong
}

describe.skipIf(!isRoot)(`a store that can't be written to${isRoot ? "" : " (skipped: needs root)"}`, () => {
  it("of another user works for all commands that only read; a run is rejected, with advice", { timeout: 600_000 }, () => {
    const home = join(folder, "home")
    for (const wal of [false, true]) {
      // With a log next to it that is not in the database yet, as during a run of its owner.
      const database = wal ? new DatabaseSync(join(home, "journal.db")) : undefined
      database?.exec("pragma journal_mode = wal; update runs set finished = 1234")
      const finished = wal ? 1234 : finishedOf(home)
      expect(existsSync(join(home, "journal.db-wal"))).toBe(wal)
      spawnSync("chmod", ["-R", "a+rX,go-w", folder])
      expect(wrongIn(home, 65534)).toEqual([])
      const shown = JSON.parse(run(home, ["show", "latest", "--json"], 65534).stdout) as { readonly finished: number }
      expect(shown.finished).toBe(finished)
      database?.close()
    }
  })

  it("may have a damaged result: that is reported, and that it stays in place", { timeout: 600_000 }, () => {
    const home = join(folder, "damaged")
    cpSync(join(folder, "home"), home, { recursive: true })
    spawnSync("chmod", ["-R", "a+rX,go-w", folder])
    const digest = first.nodes.find(({ id }) => id === "shout")!.digest!
    invert(join(home, "objects", digest.slice(0, 2), digest, "data.arrow"), { times: "keep" })
    const { status, text } = run(home, ["verify", "--store"], 65534)
    expect([status, text]).toEqual([
      1,
      expect.stringMatching(/^damaged .*\n {2}left in .*: .* can't be written to\. Make the folder writable/m)
    ])
    rmSync(home, { recursive: true })
  })

  it("may have an unreadable file: that is not damage, and nothing is moved aside for it", { timeout: 600_000 }, () => {
    const home = join(folder, "theirs")
    cpSync(join(folder, "home"), home, { recursive: true })
    spawnSync("chown", ["-R", "65534:65534", home])
    const digest = first.nodes.find(({ id }) => id === "shout")!.digest!
    const file = join(home, "objects", digest.slice(0, 2), digest, "data.arrow")
    spawnSync("chown", ["0:0", file])
    chmodSync(file, 0o600)
    for (const args of [
      ["verify", "--store"],
      ["tokenize", "shout"]
    ]) {
      const { status, text } = run(home, args, 65534)
      expect([args, status, text]).toEqual([args, 1, expect.stringMatching(/permission denied.*The result was not changed/)])
    }
    expect([existsSync(file), existsSync(join(home, "quarantine"))]).toEqual([true, false])
    rmSync(home, { recursive: true })
  })

  it("that can't be read either is reported as such", { timeout: 600_000 }, () => {
    const home = join(folder, "private")
    cpSync(join(folder, "home"), home, { recursive: true })
    chmodSync(join(home, "journal.db"), 0o600)
    for (const mode of [0o755, 0o700]) {
      chmodSync(home, mode)
      for (const args of [["runs"], ["plan", "pipeline.ts"]]) {
        const { status, text } = run(home, args, 65534)
        expect([args, mode, status === 0, text]).toEqual([
          args,
          mode,
          false,
          expect.stringMatching(/permission denied.*(readable|CARAVAN_HOME)/)
        ])
        expect(text).not.toMatch(/nothing has run here|^\s+at /m)
      }
    }
    rmSync(home, { recursive: true })
  })
})

const place = mkdtempSync(join(tmpdir(), "caravan-mount-"))
const mounts = isRoot && spawnSync("mount", ["-t", "tmpfs", "-o", "size=64m", "none", place]).status === 0
afterAll(() => {
  if (mounts) spawnSync("umount", [place])
  rmSync(place, { recursive: true, force: true })
})
describe.skipIf(!mounts)(`a read-only mount${mounts ? "" : " (skipped: mounting is not allowed here)"}`, () => {
  it("works for all commands that only read; a run is rejected, with advice", { timeout: 600_000 }, () => {
    cpSync(join(folder, "home"), join(place, "home"), { recursive: true })
    spawnSync("mount", ["-o", "remount,ro", place])
    expect(wrongIn(join(place, "home"))).toEqual([])
  })
})

describe("a journal", () => {
  const broken = (name: string, bytes: Buffer | string): string => {
    const home = join(folder, name)
    rmSync(home, { recursive: true, force: true })
    cpSync(join(folder, "home"), home, { recursive: true })
    for (const suffix of ["-wal", "-shm"]) rmSync(join(home, `journal.db${suffix}`), { force: true })
    writeFileSync(join(home, "journal.db"), bytes)
    return home
  }
  const essential = async (home: string) => {
    process.env.CARAVAN_HOME = home
    try {
      return (await diagnose(folder)).problems.filter(({ what }) => what.includes(home))
    } finally {
      delete process.env.CARAVAN_HOME
    }
  }

  it("that is damaged is reported by doctor and by every command that reads it, with what to do", { timeout: 600_000 }, async () => {
    const home = broken("garbage", "no journal, but long enough to be taken for one".repeat(100))
    expect(await essential(home)).toEqual([
      {
        what: expect.stringMatching(/^The journal .*garbage\/journal\.db can't be used: file is not a database\.$/),
        fix: expect.stringMatching(
          /^restore a copy of journal\.db if you have one; otherwise mkdir .* && mv .*: runs then recompute the results$/
        ),
        essential: true
      }
    ])
    const before = contents(join(home, "objects"))
    for (const [args] of [...reading(), [["gc"]], [["pin"]], [["run", "pipeline.ts"]]] as ReadonlyArray<[ReadonlyArray<string>]>) {
      if (args[0] === "graph") continue
      const { status, text } = run(home, args)
      expect([args, status === 0, text]).toEqual([
        args,
        false,
        expect.stringMatching(/journal\.db: file is not a database\. It is damaged: move it away/)
      ])
      expect(text).not.toMatch(/^\s+at /m)
    }
    expect(contents(join(home, "objects"))).toEqual(before)
  })

  it("with damaged pages is reported by doctor", async () => {
    const bytes = readFileSync(join(folder, "home/journal.db"))
    // The second half consists of pages of tables and their indexes: zeros are invalid.
    bytes.fill(0, bytes.length >> 1)
    expect(await essential(broken("zeros", bytes))).toMatchObject([
      { what: expect.stringMatching(/can't be used: .*(damaged|malformed)/), essential: true }
    ])
  })

  it("that is empty or missing next to results is reported by doctor; an empty store is in order", async () => {
    const home = broken("empty", "")
    const known = { fix: expect.stringMatching(/^restore a copy of journal\.db/), essential: false }
    expect(await essential(home)).toEqual([{ what: expect.stringMatching(/is empty \(0 bytes\), but the store has results/), ...known }])
    rmSync(join(home, "journal.db"))
    expect(await essential(home)).toEqual([{ what: expect.stringMatching(/is missing, but the store has results/), ...known }])
    rmSync(join(home, "objects"), { recursive: true })
    writeFileSync(join(home, "journal.db"), "")
    expect(await essential(home)).toEqual([])
    expect(await essential(join(folder, "home"))).toEqual([])
  })

  it("may have damaged leases next to it: doctor reports that too", async () => {
    const home = join(folder, "leases")
    cpSync(join(folder, "home"), home, { recursive: true })
    writeFileSync(join(home, "leases.db"), "garbage".repeat(1000))
    expect(await essential(home)).toEqual([
      {
        what: expect.stringMatching(/The leases .* file is not a database/),
        fix: expect.stringMatching(/^rm .*leases\.db\* while nothing runs/),
        essential: true
      }
    ])
  })
})

describe("a home that is a file", () => {
  it("is reported as such, by every command and by doctor", { timeout: 600_000 }, async () => {
    const file = join(folder, "a-file")
    writeFileSync(file, "")
    for (const home of [file, join(file, "deeper")])
      for (const args of [
        ["runs"],
        ["gc"],
        ["verify", "--store"],
        ["plan", "pipeline.ts"],
        ["run", "pipeline.ts"],
        ["tokenize", "shout"]
      ]) {
        const { status, text } = run(home, args)
        expect([args, status === 0, text]).toEqual([
          args,
          false,
          expect.stringMatching(/is a file, but a folder is needed\. Set CARAVAN_HOME to (?:a|the store's) folder/)
        ])
        expect(text).not.toMatch(/nothing has run here|^\s+at /m)
      }
    const { stdout } = await inProcess(folder, "runs")
    expect(stdout).toMatch(/succeeded/)
  })
})

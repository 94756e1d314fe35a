/** Help, wrong usage and quiet modes of the command line. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { command as plan } from "../../cli/commands/plan.ts"
import { numberFlag, parse } from "../../cli/command.ts"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder, start, waitFor } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

let folder: string
beforeAll(() => {
  folder = fixtureFolder()
})
afterAll(() => removeFolder(folder))

const refused = async (...args: ReadonlyArray<string>): Promise<string> => {
  const { status, stdout, stderr } = await inProcess(folder, ...args)
  expect([args, status, stdout]).toEqual([args, 2, ""])
  return stderr
}

describe("help and version", () => {
  it("help <command> is <command> --help, including a pipeline's parameters", async () => {
    expect(await inProcess(folder, "help", "sample")).toEqual(await inProcess(folder, "sample", "--help"))
    expect((await inProcess(folder, "help", "sample")).stdout).toMatch(/^caravan sample <checkpoint> \[flags\]/)
    expect((await inProcess(folder, "help", "run", join(folder, "pipeline.ts"))).stdout).toContain("Parameters of fixture")
    expect((await inProcess(folder, "help")).stdout).toContain("caravan help <command>")
    expect(await refused("help", "smaple")).toMatch(/Unknown command "smaple"\. Did you mean "sample"\?/)
  })
  it("-v is --version; another flag without a command is not treated as a misspelt command", async () => {
    expect(await inProcess(folder, "-v")).toEqual(await inProcess(folder, "--version"))
    expect(await refused("-x")).toBe("caravan itself has no flag -x: start with a command, --help or --version.\n")
    expect(await refused("zz")).not.toContain("Did you mean")
  })
})

describe("a pipeline", () => {
  it("that is a folder: lists the files in it", async () => {
    expect(await refused("plan", folder)).toMatch(/it is a folder\. Give the path of a pipeline file: .*pipeline\.ts/)
    mkdirSync(join(folder, "empty"))
    expect(await refused("plan", join(folder, "empty"))).toMatch(/it is a folder\. Give the path of a pipeline file, for example/)
    expect(await refused("plan", "/dev/null")).toMatch(/it is not a regular file/)
  })
})

describe("numbers", () => {
  it("are parsed the same way by every flag, and the message says what is valid", () => {
    const given = (text: string) => parse(plan, ["x.ts", "--mfu", text])
    expect(["0.5", "1", "5e-1", "0.25"].map((text) => numberFlag(given(text), "mfu", { above: 0, max: 1 }))).toEqual([0.5, 1, 0.5, 0.25])
    for (const text of ["", " 0.5", "0x1", "Infinity", "NaN", "1_0", "half", "0", "1.1", "1e-400"])
      expect(() => numberFlag(given(text), "mfu", { above: 0, max: 1 })).toThrow(
        `--mfu must be a number above 0 and at most 1, got "${text}".`
      )
    expect(numberFlag(parse(plan, ["x.ts"]), "mfu", {})).toBeUndefined()
  })
})

describe("a flag's value", () => {
  it("may be a negative number, which the flag itself rejects", async () => {
    expect(await refused("run", "x.ts", "--timeout", "-1")).toMatch(/Loading the pipeline x\.ts/)
    expect(await refused("run", join(folder, "pipeline.ts"), "--timeout", "-1")).toBe(
      '--timeout must be a number of seconds above 0 and at most 1073741824, got "-1".\n'
    )
    expect(parse(plan, ["x.ts", "--set", "-.5"]).flags("set")).toEqual(["-.5"])
  })
  it("that is missing, or for a flag without one: what to write", async () => {
    expect(await refused("run", "x.ts", "--timeout")).toBe("caravan run: --timeout needs a value (seconds), found none.\n")
    expect(await refused("run", "x.ts", "--set", "--json")).toBe(
      "caravan run: --set needs a value (name=value), found --json. If that is the value, write --set=--json.\n"
    )
    expect(await refused("run", "x.ts", "--json=yes")).toBe("caravan run: --json has no value: write --json.\n")
    expect(await refused("run", "-x.ts")).toBe("caravan run has no flag -x.ts. If it is a file, write ./-x.ts.\n")
  })
})

describe("init", () => {
  it("says why a folder can't be made, and exits", async () => {
    writeFileSync(join(folder, "file"), "")
    for (const [path, reason] of [
      [join(folder, "file"), /it, or a part of its path, is a file/],
      [join(folder, "file/below"), /it, or a part of its path, is a file/],
      ["/proc/foo", /no folder can be created there/]
    ] as const) {
      const text = await refused("init", path)
      expect(text).toMatch(reason)
      expect(text).toMatch(/^caravan init .*: creating .*\. Choose another folder\.\n$/)
    }
  })
  it.skipIf(process.getuid?.() === 0)("says when it may not write", async () => {
    mkdirSync(join(folder, "locked"))
    chmodSync(join(folder, "locked"), 0o500)
    expect(await refused("init", join(folder, "locked"))).toMatch(/permission denied/)
    expect(await refused("init", join(folder, "locked/below"))).toMatch(/permission denied/)
    chmodSync(join(folder, "locked"), 0o700)
    expect(readdirSync(join(folder, "locked"))).toEqual([])
  })
})

describe("run --quiet", () => {
  it("prints only failures; the results are on stdout", () => {
    const { status, stdout, stderr } = caravan(folder, "run", "pipeline.ts", "--quiet")
    expect([status, stderr]).toEqual([0, ""])
    expect(stdout).toMatch(/^Outputs:$/m)
    const failed = caravan(folder, "run", "pipeline.ts", "--quiet", "--set", "shout.refuse=true")
    expect(failed.status).toBe(1)
    expect(failed.stderr).toMatch(/^shout: FAILED after .* these texts are not for shouting\n(counts: skipped\n)?$/)
  })
})

describe("an interrupted run", { timeout: 60_000 }, () => {
  it("says how to continue, and show lists the node that was running", async () => {
    const child = start(folder, "run", "pipeline.ts", "--set", "steps=100000")
    let stderr = ""
    child.stderr!.on("data", (chunk) => (stderr += String(chunk)))
    const logs = join(folder, "home/logs")
    const hasStepped = () =>
      existsSync(logs) &&
      readdirSync(logs).some(
        (run) => existsSync(join(logs, run, "wait.log")) && readFileSync(join(logs, run, "wait.log"), "utf8").includes("total 100000")
      )
    await waitFor(hasStepped, 50_000)
    const ended = new Promise<number | null>((resolve) => child.on("exit", resolve))
    child.kill("SIGINT")
    expect(await ended).toBe(130)
    expect(stderr).toMatch(/^Interrupted while wait ran\. Run the same command again to continue: finished results are reused/m)
    const { stdout } = await inProcess(folder, "show", "latest")
    expect(stdout).toMatch(/^Run .*: interrupted\n/)
    expect(stdout).toMatch(/^ {2}interrupted {2}wait .* last reported: step \d+ {2}total 100000$/m)
    expect(stdout).toContain("Run the same command again to continue")
    const { nodes } = JSON.parse((await inProcess(folder, "show", "latest:wait", "--json")).stdout) as {
      readonly nodes: ReadonlyArray<object>
    }
    expect(nodes).toMatchObject([{ node: "wait", status: "interrupted", digest: null }])
  })
})

it("a folder that is a link to a file is not accepted for a new project", async () => {
  symlinkSync(join(folder, "words.txt"), join(folder, "link"))
  expect(await refused("init", join(folder, "link"))).toMatch(/is a file/)
  expect(existsSync(join(folder, "link/package.json"))).toBe(false)
})

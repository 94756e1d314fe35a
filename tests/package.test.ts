/** The package as a user gets it: installed in a project made by `caravan init`, with its own stages (tests/consumer). */
import { spawnSync } from "node:child_process"
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "caravan-package-"))
const project = join(folder, "project")
const archive = `caravan-${(JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }).version}.tgz`

/** Node 24 first on the PATH; a separate store, and nothing of the npm and the Vitest that run these tests. */
const foreign = /^(npm_|VITEST|CARAVAN_HOME$|NODE_ENV$|NODE_OPTIONS$)/
const environment = {
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name))),
  PATH: [dirname(process.execPath), process.env.PATH].join(delimiter)
}

/** Standard output of a command that succeeds. */
const run = (cwd: string, program: string, ...args: Array<string>): string => {
  const { status, signal, stdout, stderr } = spawnSync(program, args, {
    cwd,
    env: environment,
    encoding: "utf8",
    maxBuffer: 1 << 26,
    timeout: 240_000
  })
  if (status !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${status ?? signal}:\n${stdout}\n${stderr}`)
  return stdout
}

interface Result {
  readonly nodes: ReadonlyArray<{ readonly id: string; readonly status: string }>
  readonly outputs: Readonly<Record<string, { readonly path: string }>>
}
const resultOf = (json: string): { readonly statuses: Record<string, string>; readonly norms?: unknown } => {
  const { nodes, outputs } = JSON.parse(json) as Result
  const { norms } = outputs
  return {
    statuses: Object.fromEntries(nodes.flatMap(({ id, status }) => (status === "file" ? [] : [[id, status]]))),
    ...(norms === undefined ? {} : { norms: JSON.parse(readFileSync(join(norms.path, "report.json"), "utf8")) as unknown })
  }
}

const init = (cwd: string, program: string, ...args: Array<string>) =>
  JSON.parse(run(cwd, program, ...args, "--json")) as { readonly folder: string; readonly files: Array<string>; readonly caravan: string }

beforeAll(() => {
  init(root, process.execPath, "cli/caravan.js", "init", project)
  cpSync(join(root, "tests/consumer"), project, { recursive: true })
  run(project, "npm", "install", "--no-audit", "--no-fund", "--silent", "@tensorflow/tfjs@4.22.0")
}, 300_000)
afterAll(() => rmSync(folder, { recursive: true, force: true }), 300_000)

describe("the package, installed in another project", () => {
  it("contains no TypeScript except declarations: Node does not strip types under node_modules", () => {
    const files = readdirSync(join(project, "node_modules/caravan"), { recursive: true, encoding: "utf8" })
    expect(files.filter((file) => /(?<!\.d)\.ts$/.test(file))).toEqual([])
    expect(files).toContain("dist/engine/native/addon.cc")
    // The built page of `caravan ui`.
    expect(files).toContain("dist/ui/dist/index.html")
    expect(files).toContain("dist/engine/ranks/ranks.cc")
  })

  it("gives a user's stages and pipelines types that have names: declarations are emitted with the config of tsc --init", () => {
    run(project, "node", "every.ts")
    expect(run(project, "node_modules/.bin/tsc", "-p", ".")).toBe("")
    const declarations = readFileSync(join(project, "dist/right.d.ts"), "utf8")
    expect(declarations).toContain('policy: Node<Checkpoint<"policy">>')
    expect(declarations).toContain("shout: Stage.Stage<")
    expect(readFileSync(join(project, "dist/every.d.ts"), "utf8")).toContain("models_loadPolicy")
  })

  it("rejects wrong wiring, each for its own reason", () => {
    const lines = readFileSync(join(project, "wrong.ts"), "utf8").split("\n")
    const expected = lines.flatMap((line, i) => {
      const match = /^\/\/ @ts-expect-error (TS\d+) (.+)$/.exec(line)
      return match === null ? [] : [{ line: i + 2, code: match[1]!, says: match[2]! }]
    })
    rmSync(join(project, "every.ts"))
    writeFileSync(join(project, "refused.ts"), lines.map((line) => line.replace("@ts-expect-error", "")).join("\n"))
    const { stdout } = spawnSync("node_modules/.bin/tsc", ["-p", ".", "--pretty", "false"], {
      cwd: project,
      env: environment,
      encoding: "utf8"
    })
    rmSync(join(project, "refused.ts"))
    const found = stdout.split(/^(?=\S)/m).map((error) => {
      const [, file, line, code] = /^(\S+)\((\d+),\d+\): error (TS\d+)/.exec(error) ?? []
      return { file, line: Number(line), code, error }
    })
    expect(found).toEqual(
      expected.map(({ line, code, says }) => ({ file: "refused.ts", line, code, error: expect.stringContaining(says) as string }))
    )
    expect(expected.length).toBeGreaterThan(5)
  })

  it("runs as an Effect, is cached for npx caravan run, and runs again when a helper of the stage changes", () => {
    // (2 * 1)^2 + (2 * 2)^2 + (2 * 3)^2 = 56; with 3 instead of 2: 126.
    const said = run(project, "node", "program.ts")
    expect(resultOf(said)).toEqual({ statuses: { norms: "ran" }, norms: { tensorflow: 56, libtorch: 56 } })
    expect(JSON.parse(said)).toMatchObject({ read: 56 })

    const again = resultOf(run(project, "npx", "caravan", "run", "norms-pipeline.ts", "--json"))
    expect(again).toEqual({ statuses: { norms: "hit" }, norms: { tensorflow: 56, libtorch: 56 } })

    writeFileSync(join(project, "scale.ts"), "/** Now by three. */\nexport const scale = (x: number): number => 3 * x\n")
    const changed = resultOf(run(project, "npx", "caravan", "run", "norms-pipeline.ts", "--json"))
    expect(changed).toEqual({ statuses: { norms: "ran" }, norms: { tensorflow: 126, libtorch: 126 } })
  }, 120_000)

  it("runs what init made, and after a change only what depends on it", () => {
    const made = (...args: Array<string>) => resultOf(run(project, "npx", "caravan", "run", "pipeline.ts", "--json", ...args)).statuses
    const stages = ["import-preferences", "keep-brief", "preference-texts", "tokenizer"]
    expect(made()).toEqual(Object.fromEntries(stages.map((stage) => [stage, "ran"])))
    expect(made("--set", "keep-brief.words=5")).toEqual({
      ...Object.fromEntries(stages.map((stage) => [stage, "ran"])),
      "import-preferences": "hit"
    })
  })

  it("creates another project that uses the installed package", () => {
    const other = init(project, "npx", "caravan", "init", join(folder, "other"))
    expect(other.caravan).toBe(`file:${archive}`)
    const listed = (path: string) => run(path, "tar", "-tzf", archive).split("\n").sort()
    expect(listed(other.folder)).toEqual(listed(project))
  })

  it("has a doctor that reports its findings", () => {
    const { found } = JSON.parse(run(project, "npx", "caravan", "doctor", "--json")) as { found: Record<string, string> }
    expect(found).toMatchObject({
      node: expect.stringContaining(process.version),
      store: expect.stringContaining(join(project, ".caravan"))
    })
  })
})

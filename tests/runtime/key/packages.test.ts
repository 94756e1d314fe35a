/** Imports that are neither relative nor absolute: what enters a key, and what is rejected. Each test has a separate project with packages. */
import { mkdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type CodeIdentity, codeIdentity, FileDigests } from "../../../runtime/key/code-identity.ts"
import { Journal } from "../../../runtime/store/journal.ts"
import { type Opened, openHome } from "../fixture.ts"
import type { AnyStage } from "../../../runtime/define/stage.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

let folder: string
let opened: Opened
beforeAll(() => {
  folder = workFolder()
  opened = openHome(join(folder, "home"))
})
afterAll(() => {
  opened.close()
  removeFolder(folder)
})

type Files = Readonly<Record<string, string>>
const stageThat = (says: string, imports = ""): string => `${imports}
import * as Schema from "effect/Schema"
import { writeReport } from "../../../../data/dataset.ts"
import * as Stage from "../../../../runtime/define/stage.ts"
import { report } from "../../../../schemas/report.ts"
const Out = report(Schema.Struct({ said: Schema.Unknown }), "said/1")
export const say = Stage.make("say", { config: Schema.Struct({}), inputs: {}, output: Out, run: ({ output }) => writeReport(output, { said: ${says} }) })
`
const lock = (packages: object): string => JSON.stringify({ lockfileVersion: 3, packages })
const manifest = (name: string, others: object = {}): string => JSON.stringify({ name, version: "1.0.0", type: "module", ...others })

const write = (project: string, files: Files) => {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(project, name)), { recursive: true })
    writeFileSync(join(project, name), text)
  }
}
let projects = 0
/** A project with these files; `links` are links in its node_modules. */
const projectOf = (files: Files, links: Files = {}): string => {
  const project = join(folder, `p${projects++}`)
  write(project, { "package.json": manifest("mine"), ...files })
  for (const [name, to] of Object.entries(links)) {
    mkdirSync(dirname(join(project, "node_modules", name)), { recursive: true })
    symlinkSync(join(project, to), join(project, "node_modules", name))
  }
  return project
}
const identify = async (project: string): Promise<CodeIdentity> => {
  const { say } = (await import(pathToFileURL(join(project, "stage.ts")).href)) as { readonly say: AnyStage }
  return await opened.later(Journal.use((journal) => codeIdentity(say.stage, journal, new FileDigests())))
}
/** The digest of a project's stage, initially and after each of these files was overwritten. */
const after = async (project: string, ...edits: ReadonlyArray<Files>): Promise<Array<string>> => {
  const digests = [(await identify(project)).digest]
  for (const edit of edits) {
    write(project, edit)
    digests.push((await identify(project)).digest)
  }
  return digests
}

describe("a file of the project, imported", () => {
  const helper = (mark: string, comment = "") => ({ "lib/helper.ts": `${comment}export const mark = "${mark}"\n` })
  it.each<[string, string, object]>([
    ["as #name of package.json's imports", "#helper", { imports: { "#helper": "./lib/helper.ts" } }],
    ["by the package's own name", "mine/helper", { exports: { "./helper": "./lib/helper.ts" } }],
    ["by a file: URL", "file:", {}]
  ])("%s, is part of the code like a relative import: an edit counts, a comment does not", async (_, specifier, others) => {
    const path = join(folder, `p${projects}`, "lib/helper.ts")
    const from = specifier === "file:" ? pathToFileURL(path).href : specifier
    const stage = stageThat("mark", `import { mark } from "${from}"`)
    const project = projectOf({ "stage.ts": stage, ...helper("!"), "package.json": manifest("mine", others) })
    const [one, commented, edited] = await after(project, helper("!", "/** Loud. */\n"), helper("?"))
    expect(commented).toBe(one)
    expect(edited).not.toBe(one)
    expect(Object.keys((await identify(project)).files)).toContain("lib/helper.ts")
  })
})

describe("a linked package", () => {
  const linked = (mark: string, comment = "") => ({
    "packages/linked/index.ts": `${comment}export const mark = "${mark}"\nexport const other = 1\n`
  })
  const at = { "packages/linked/package.json": manifest("linked", { exports: "./index.ts" }), ...linked("!") }
  const entries = { "node_modules/linked": { resolved: "packages/linked", link: true }, "packages/linked": { version: "1.0.0" } }

  it("is part of the code: an edit of the used part counts, a comment does not", async () => {
    const stage = stageThat("mark", 'import { mark } from "linked"')
    const project = projectOf({ "stage.ts": stage, ...at, "package-lock.json": lock(entries) }, { linked: "packages/linked" })
    const [one, commented, edited] = await after(project, linked("!", "// Loud.\n"), linked("?"))
    expect(commented).toBe(one)
    expect(edited).not.toBe(one)
    expect((await identify(project)).packages).not.toHaveProperty("node_modules/linked")
  })

  it("used by an installed package counts by its content", async () => {
    const project = projectOf(
      {
        "stage.ts": stageThat("mark", 'import { mark } from "outer"'),
        ...at,
        "node_modules/outer/package.json": manifest("outer", { exports: "./index.js" }),
        "node_modules/outer/index.js": 'export { mark } from "linked"\n',
        "package-lock.json": lock({
          ...entries,
          "node_modules/outer": { version: "1.0.0", integrity: "sha512-a", dependencies: { linked: "*" } }
        })
      },
      { linked: "packages/linked" }
    )
    const [one, edited, added] = await after(project, linked("?"), { "packages/linked/data.json": "[1]" })
    expect(new Set([one, edited, added]).size).toBe(3)
    // A file's location is part of it.
    mkdirSync(join(project, "packages/linked/below"))
    renameSync(join(project, "packages/linked/data.json"), join(project, "packages/linked/below/data.json"))
    expect([one, edited, added]).not.toContain((await identify(project)).digest)
  })
})

describe("an installed package", () => {
  const outer = (version: string) => ({
    "node_modules/outer/package.json": JSON.stringify({ name: "outer", version, type: "module", exports: "./index.js" }),
    "node_modules/outer/index.js": 'export const mark = "!"\n'
  })
  const locked = (version: string, others: object = { integrity: `sha512-${version}` }) => ({
    "package-lock.json": lock({ "node_modules/outer": { version, ...others } })
  })
  const stage = { "stage.ts": stageThat("mark", 'import { mark } from "outer"') }

  it("counts by its entry in the lock file", async () => {
    const project = projectOf({ ...stage, ...outer("1.0.0"), ...locked("1.0.0") })
    expect((await identify(project)).packages).toMatchObject({ "node_modules/outer": "1.0.0 sha512-1.0.0" })
    const [one, other] = await after(project, locked("1.0.0", { integrity: "sha512-other" }))
    expect(other).not.toBe(one)
  })

  it("that differs from the lock file is rejected: a lock file pulled before npm ci, and a package changed afterwards", async () => {
    const project = projectOf({ ...stage, ...outer("1.0.0"), ...locked("1.0.0") })
    await identify(project)
    write(project, locked("1.1.0"))
    await expect(identify(project)).rejects.toThrow(
      /stage "say".*node_modules\/outer is installed in version 1\.0\.0, but .*package-lock\.json expects 1\.1\.0: .*Run npm ci/
    )
    write(project, outer("1.1.0"))
    expect((await identify(project)).packages).toMatchObject({ "node_modules/outer": "1.1.0 sha512-1.1.0" })
    write(project, outer("1.2.0"))
    await expect(identify(project)).rejects.toThrow(/is installed in version 1\.2\.0/)
  })

  it("with a missing dependency is rejected, unless it is optional", async () => {
    const inner = (optional: boolean) =>
      lock({
        "node_modules/outer": { version: "1.0.0", integrity: "sha512-a", dependencies: { inner: "*" } },
        "node_modules/inner": { version: "1.0.0", integrity: "sha512-b", optional }
      })
    const project = projectOf({ ...stage, ...outer("1.0.0"), "package-lock.json": inner(false) })
    await expect(identify(project)).rejects.toThrow(/node_modules\/inner is not installed, but .* expects 1\.0\.0: .*Run npm ci/)
    write(project, { "package-lock.json": inner(true) })
    expect(Object.keys((await identify(project)).packages)).toContain("node_modules/inner")
  })

  it("that was copied from a folder counts by its content", async () => {
    const project = projectOf({ ...stage, ...outer("1.0.0"), ...locked("1.0.0", { resolved: "file:../outer" }) })
    const [one, edited] = await after(project, { "node_modules/outer/index.js": 'export const mark = "?"\n' })
    expect(edited).not.toBe(one)
  })

  it("is resolved for a stage that is installed itself, with the lock file of its installer", async () => {
    const project = projectOf({ ...outer("1.0.0"), ...locked("1.0.0") })
    const files = { "package.json": manifest("stages"), "stage.js": stageThat("mark", 'import { mark } from "outer"') }
    write(join(project, "node_modules/stages"), files)
    // Its own imports of ours: three folders up is two too few here.
    const path = join(project, "node_modules/stages/stage.js")
    writeFileSync(path, files["stage.js"].replaceAll("../../../../", "../../../../../../"))
    const { say } = (await import(pathToFileURL(path).href)) as { readonly say: AnyStage }
    const { packages } = await opened.later(Journal.use((journal) => codeIdentity(say.stage, journal, new FileDigests())))
    expect(packages).toMatchObject({ "node_modules/outer": "1.0.0 sha512-1.0.0" })
  })
})

describe("a package with the same name as another", () => {
  const of = (name: string, version: string, others: object = {}) => ({
    [`node_modules/${name}/package.json`]: manifest(name, { version, exports: "./index.js", ...others }),
    [`node_modules/${name}/index.js`]: `export const mark = "${version}"\n`
  })
  const entry = (version: string, others: object = {}) => ({ version, integrity: `sha512-${version}`, ...others })

  it("is the linked package's own, from the linked package's lock file, and not the project's", async () => {
    const own = (version: string) => ({ ...of("outer", version), "package-lock.json": lock({ "node_modules/outer": entry(version) }) })
    const beside = join(folder, `beside${projects}`)
    write(beside, {
      ...{ "package.json": manifest("lib", { exports: "./index.ts" }), "index.ts": 'export { mark } from "outer"\n' },
      ...own("2.0.0")
    })
    const project = projectOf(
      {
        "stage.ts": stageThat("mark", 'import { mark } from "lib"'),
        ...of("outer", "1.0.0"),
        "package-lock.json": lock({ "node_modules/outer": entry("1.0.0"), "node_modules/lib": { resolved: "../beside", link: true } })
      },
      { lib: `../${basename(beside)}` }
    )
    const before = await identify(project)
    expect(Object.entries(before.packages)).toContainEqual(["lib/node_modules/outer", "2.0.0 sha512-2.0.0"])
    write(beside, own("3.0.0"))
    expect((await identify(project)).digest).not.toBe(before.digest)
  })

  it("is the one that the importing package resolves, if all of them are above the project", async () => {
    const above = projectOf({
      ...of("outer", "1.0.0", { dependencies: { inner: "*" } }),
      ...of("inner", "2.0.0"),
      ...of("outer/node_modules/inner", "1.0.0")
    })
    write(above, {
      "below/package.json": manifest("below"),
      "below/stage.ts": stageThat("mark", 'import { mark } from "outer"').replaceAll("../../../../", "../../../../../"),
      "below/package-lock.json": lock({
        "node_modules/outer": entry("1.0.0", { dependencies: { inner: "*" } }),
        "node_modules/inner": entry("2.0.0"),
        "node_modules/outer/node_modules/inner": entry("1.0.0")
      })
    })
    expect((await identify(join(above, "below"))).packages).toMatchObject({
      "node_modules/outer": "1.0.0 sha512-1.0.0",
      "node_modules/outer/node_modules/inner": "1.0.0 sha512-1.0.0"
    })
  })
})

describe("an import that can't be identified", () => {
  it.each<[string, string, RegExp]>([
    ["of a package that is not installed", "nowhere", /imports "nowhere": no such package is installed\. .*npm install/],
    ["of a name that does not resolve", "#nowhere", /imports "#nowhere": it does not resolve to a file\. Fix `imports`/],
    ["of a missing file", "file:///nowhere/x.ts", /imports "file:.*": the file does not exist/],
    ["of a URL", "https://example.org/x.js", /imports "https:.*": its content may change/]
  ])("%s is rejected, unless the stage does not use it", async (_, specifier, message) => {
    const use = `const later = () => import("${specifier}")`
    await expect(identify(projectOf({ "stage.ts": stageThat("String(later)", use) }))).rejects.toThrow(message)
    expect((await identify(projectOf({ "stage.ts": stageThat("1", use) }))).exportName).toBe("say")
  })

  it("such as one of Node's modules, under any name, is not rejected", async () => {
    const builtin = manifest("mine", { imports: { "#files": "node:fs" } })
    const stage = stageThat("String([later, files])", 'import * as files from "#files"\nconst later = () => import("path")')
    expect((await identify(projectOf({ "stage.ts": stage, "package.json": builtin }))).exportName).toBe("say")
  })
})

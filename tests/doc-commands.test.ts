/** Commands in the documents: programs, commands, flags, pipelines and their parameters exist. What takes seconds is run too (tests/quickstart.test.ts, tests/pipelines/). */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { type Command, parse } from "../cli/command.ts"
import { commands } from "../cli/main.ts"
import { isPipeline } from "../runtime/define/pipeline.ts"
import { calls, commandLines, inlineCommands, pages, read, root } from "./doc-commands.ts"

const all = new Map<string, Command>()
for (const [name, { load }] of Object.entries(commands)) all.set(name, (await load()).command)

/** Names of all fields of the stages, from the generated reference. */
const fields = new Set(
  [
    "data",
    "training",
    "preferences",
    "reward",
    "rejection-sampling",
    "ppo",
    "critic-free",
    "dpo",
    "ghost-attention",
    "safety",
    "evaluation",
    "world",
    "report"
  ].flatMap((name) => [...read(`docs/reference/stages/${name}.md`).matchAll(/^\| `(\w+)` \|/gm)].map(([, field]) => field!))
)

const parametersOf = async (file: string): Promise<ReadonlyArray<string> | undefined> => {
  if (!/^(pipelines|bench)\//.test(file)) return undefined
  const { default: pipeline } = (await import(join(root, file))) as { readonly default: unknown }
  return isPipeline(pipeline) ? Object.keys(pipeline.params.fields as object) : undefined
}

/** Why a name can't be set in a pipeline. `page` may declare fields itself. */
const unknownName = (name: string, parameters: ReadonlyArray<string>, page: string): boolean => {
  if (name === "seed") return false
  if (!name.includes(".")) return !parameters.includes(name)
  const field = name.split(".").at(-1)!
  return !fields.has(field) && !page.includes(`\`${field}: hyper`) && !page.includes(`  ${field}: hyper`)
}

const caravanProblems = async (words: ReadonlyArray<string>, page: string): Promise<ReadonlyArray<string>> => {
  const [name, ...args] = words[0] === "help" ? words.slice(1).concat("--help") : words
  if (name === undefined || name.startsWith("--")) return []
  const command = all.get(name)
  if (command === undefined) return [`there is no command ${name}`]
  try {
    const given = parse(command, args)
    const [file] = given.positionals
    if (file === undefined || !/^(pipelines|bench)\/.*\.ts$/.test(file)) return []
    if (!existsSync(join(root, file))) return [`there is no pipeline ${file}`]
    const parameters = await parametersOf(file)
    if (parameters === undefined) return []
    const set = ["set", "over"].flatMap((flag) => (flag in command.flags ? given.flags(flag) : [])).map((text) => text.split("=")[0]!)
    return set
      .filter((each) => unknownName(each, parameters, page))
      .map((each) => `${file} has no parameter, and no stage a field, ${each}`)
  } catch (error) {
    return [(error as Error).message]
  }
}

const scripts = (folder: string) =>
  Object.keys((JSON.parse(readFileSync(join(root, folder, "package.json"), "utf8")) as { scripts: object }).scripts)
const npmScripts = new Set([...scripts(""), ...scripts("site"), "ci", "install", "i", "pack", "test", "start"])

const problemsOf = async ([program, ...words]: ReadonlyArray<string>, page: string): Promise<ReadonlyArray<string>> => {
  if (program === "caravan") return caravanProblems(words, page)
  if (program === "npx") return words[0] === "caravan" ? caravanProblems(words.slice(1), page) : []
  if (program === "npm") {
    const [verb, ...rest] = words.filter((word) => word !== "--silent")
    const script = verb === "run" ? rest[0] : verb
    return script !== undefined && npmScripts.has(script) ? [] : [`npm has no ${script}`]
  }
  const file = words.find((word) => !word.startsWith("-"))
  return file === undefined || existsSync(join(root, file)) ? [] : [`there is no ${file}`]
}

describe("the commands of", () => {
  it.each(pages)("%s exist, with their flags and parameters", async (name) => {
    const page = read(name)
    const found: Array<string> = []
    for (const call of calls(commandLines(page)))
      for (const problem of await problemsOf(call, page)) found.push(`${call.join(" ")}: ${problem}`)
    expect(found).toEqual([])
  })
  it("the documents are found", () => {
    expect(pages).toContain("docs/quickstart.md")
    expect(pages.flatMap((name) => calls(commandLines(read(name)))).length).toBeGreaterThan(100)
  })
  it.each(pages)("%s in sentences exist, with their flags", async (name) => {
    const page = read(name)
    const found: Array<string> = []
    for (const text of inlineCommands(page)) {
      const [command, ...args] = text.replace(/^npx /, "").split(/\s+/).slice(1)
      const known = all.get(command!)
      if (command === "help" || command === "command") continue
      if (known === undefined) found.push(`${text}: there is no command ${command}`)
      else
        for (const [, flag] of args.join(" ").matchAll(/(?<![\w-])--([a-z][\w-]*)/g))
          if (!Object.hasOwn(known.flags, flag!) && flag !== "help") found.push(`${text}: no flag --${flag}`)
    }
    expect(found).toEqual([])
  })
  it.each([...all])("caravan %s --help exist, with their flags and parameters", async (_, { examples }) => {
    const found: Array<string> = []
    for (const call of calls(examples)) for (const problem of await problemsOf(call, "")) found.push(`${call.join(" ")}: ${problem}`)
    expect(found).toEqual([])
  })
})

describe("a command", () => {
  const page = `
\`\`\`
small="--set steps=3"
npx caravan run pipelines/sums.ts $small --set "note=a b" \\
  --nothing   # a comment
npx caravan plan pipelines/sums.ts --set ppo.clip=1 --set ppo.cliip=2 | head
npx caravan data inspect <your files>
npm run nothing && node bench/nothing.ts
hit   ppo      in the store
\`\`\`

    caravan rn pipelines/sums.ts

\`\`\`ts
caravan
\`\`\`
`
  it("is parsed as a shell parses it", () => {
    expect(calls(commandLines(page))).toEqual([
      ["npx", "caravan", "run", "pipelines/sums.ts", "--set", "steps=3", "--set", "note=a b", "--nothing"],
      ["npx", "caravan", "plan", "pipelines/sums.ts", "--set", "ppo.clip=1", "--set", "ppo.cliip=2"],
      ["npx", "caravan", "data", "inspect", "a-your-files"],
      ["npm", "run", "nothing"],
      ["node", "bench/nothing.ts"],
      ["caravan", "rn", "pipelines/sums.ts"]
    ])
  })
  it("that does not exist, or whose flag or parameter does not exist, is found", async () => {
    const problems: Array<string> = []
    for (const call of calls(commandLines(page))) problems.push(...(await problemsOf(call, page)))
    expect(problems).toEqual([
      expect.stringContaining("caravan run has no flag --nothing."),
      "pipelines/sums.ts has no parameter, and no stage a field, ppo.cliip",
      "npm has no nothing",
      "there is no bench/nothing.ts",
      "there is no command rn"
    ])
  })
})

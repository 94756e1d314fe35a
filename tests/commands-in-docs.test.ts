/** The commands in the documents are valid: command, flags and number of arguments, pipeline files and their parameters, npm scripts, and files run with node. */
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { type Given, parse } from "../cli/command.ts"
import { commands } from "../cli/main.ts"
import { loadPipeline } from "../cli/pipeline-file.ts"

const root = fileURLToPath(new URL("../", import.meta.url))
const documents = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "*.md"], { cwd: root, encoding: "utf8" })
  .split("\n")
  // // The reference is generated from the commands themselves.
  .filter((name) => name !== "" && !name.startsWith("docs/reference/") && existsSync(join(root, name)))
const scripts = (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { scripts: Record<string, string> }).scripts

/** The words of a shell command, without comments, redirections and anything after a pipe. */
const wordsOf = (line: string): ReadonlyArray<string> => {
  const words: Array<string> = []
  let [word, quote]: [string | undefined, string] = [undefined, ""]
  for (const char of `${line} `) {
    if (quote !== "") {
      if (char === quote) quote = ""
      else word += char
    } else if (char === '"' || char === "'") {
      quote = char
      word ??= ""
    } else if (char !== " ") {
      if (word === undefined && "#|;&".includes(char)) break
      word = (word ?? "") + char
    } else if (word !== undefined) {
      // // A placeholder such as <node> is not a redirection.
      if (/^(2?>>?|<)$/.test(word)) break
      words.push(word)
      word = undefined
    }
  }
  return words
}

/** Lines of code blocks without a language, in a shell's language, or indented by four; continued lines are joined. */
const linesOf = (text: string): ReadonlyArray<string> => {
  const joined = text.replaceAll(/\\\n\s*/g, "")
  const blocks = [...joined.matchAll(/^```(\w*)\n(.*?)^```$/gms)].flatMap(([, language, block]) =>
    ["", "sh", "bash"].includes(language!) ? [block!] : []
  )
  const indented = [...joined.replaceAll(/^```.*?^```$/gms, "").matchAll(/^ {4}(\S.*)$/gm)].map(([, line]) => line!)
  return [...blocks, ...indented].flatMap((block) => block.split("\n")).flatMap((line) => (line.trim() === "" ? [] : [line.trim()]))
}

/** Stands for any number of words: $small, ${all[@]}, an ellipsis. After a flag, a variable is the flag's value. */
const isOpen = (word: string, i: number, words: ReadonlyArray<string>): boolean =>
  word === "..." || /\[@\]/.test(word) || (word.startsWith("$") && !words[i - 1]?.startsWith("--"))

const objections = async (line: string): Promise<ReadonlyArray<string>> => {
  const [program, ...rest] = wordsOf(line)
  if (program === "npm" && rest[0] === "run") {
    const script = rest.find((word, i) => i > 0 && !word.startsWith("-"))!
    return script in scripts ? [] : [`no npm script ${script}`]
  }
  if (program === "node" && /\.(m?[jt]s)$/.test(rest[0] ?? "")) return existsSync(join(root, rest[0]!)) ? [] : [`no file ${rest[0]}`]
  const [name, ...args] = program === "caravan" ? rest : program === "npx" && rest[0] === "caravan" ? rest.slice(1) : []
  if (name === undefined || name === "help" || name === "--version") return []
  if (!Object.hasOwn(commands, name)) return [`no command ${name}`]
  const { command } = await commands[name]!.load()
  // // A variable may contain any number of words.
  const isOpenEnded = args.some((word, i) => isOpen(word, i, args))
  let given: Given
  try {
    given = parse(
      isOpenEnded ? { ...command, positionals: ["[any...>"] } : command,
      args.filter((word, i) => !isOpen(word, i, args))
    )
  } catch (error) {
    return [(error as Error).message]
  }
  const file = given.positionals.find((word) => /^(pipelines|bench)\/.*\.ts$/.test(word))
  if (file === undefined) return []
  if (!existsSync(join(root, file))) return [`no pipeline ${file}`]
  const { params } = await loadPipeline(join(root, file))
  const known = (params as { readonly fields: object }).fields
  return [...("set" in command.flags ? given.flags("set") : []), ...("over" in command.flags ? given.flags("over") : [])].flatMap(
    (setting) => {
      const parameter = setting.split("=")[0]!
      return parameter.includes(".") || parameter === "seed" || parameter in known ? [] : [`${file} has no parameter ${parameter}`]
    }
  )
}

describe("commands in", { timeout: 120_000 }, () => {
  it.each(documents)("%s are valid", async (name) => {
    const found: Array<readonly [string, ReadonlyArray<string>]> = []
    for (const line of linesOf(readFileSync(join(root, name), "utf8"))) {
      const wrong = await objections(line)
      if (wrong.length > 0) found.push([line, wrong])
    }
    expect(found).toEqual([])
  })

  it("are checked in all documents: more than a hundred", () => {
    const lines = documents.flatMap((name) => linesOf(readFileSync(join(root, name), "utf8")))
    expect(lines.filter((line) => /^(npx )?caravan /.test(line)).length).toBeGreaterThan(100)
    expect(linesOf("```\ncaravan runs \\\n  --json\n```\n\n    caravan du\n\n```ts\ncaravan gc\n```\n")).toEqual([
      "caravan runs --json",
      "caravan du"
    ])
  })

  it("are reported if they are invalid", async () => {
    expect(await objections("npx caravan rnu pipelines/demo.ts")).toEqual(["no command rnu"])
    expect((await objections("caravan run pipelines/demo.ts --forse x"))[0]).toContain("--forse")
    expect((await objections("caravan diff latest"))[0]).toContain("needs")
    expect(await objections("npx caravan run pipelines/demo.ts --set nothing=1 --set rounds=2")).toEqual([
      "pipelines/demo.ts has no parameter nothing"
    ])
    expect(await objections("npx caravan plan pipelines/none.ts")).toEqual(["no pipeline pipelines/none.ts"])
    expect(await objections("npm run nothing")).toEqual(["no npm script nothing"])
    expect(await objections("node bench/none.ts x")).toEqual(["no file bench/none.ts"])
    expect(await objections('npx caravan run pipelines/rlhf.ts --set "preferences=a b.jsonl" $small  # a comment --nothing')).toEqual([])
  })
})

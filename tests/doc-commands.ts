/** The commands of the documents, as a shell would pass their words. */
import { execFileSync, spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../", import.meta.url))

/** The Markdown files that a user reads: not the log, nor decisions, nor what is generated. */
export const pages = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "*.md"], {
  cwd: root,
  encoding: "utf8"
})
  .split("\n")
  .filter(
    (name) => name !== "" && existsSync(join(root, name)) && !/^docs\/(decisions|reference)\/|^docs\/log\.md|^CHANGELOG|^tests\//.test(name)
  )

const programs = ["npx", "npm", "node", "caravan"]

/** The lines of a page's code blocks, of those without a language and of indented ones, that call one of the programs or set a variable. */
export const commandLines = (page: string): ReadonlyArray<string> => {
  const fenced = [...page.matchAll(/^```(?:|sh|bash)\n([^]*?)^```$/gm)].map(([, block]) => block!)
  const indented = [...page.replaceAll(/^```[^]*?^```$/gm, "").matchAll(/(?:^ {4}.*\n)+/gm)].map(([block]) =>
    block.replaceAll(/^ {4}/gm, "")
  )
  return [...fenced, ...indented].flatMap((block) => {
    const lines: Array<string> = []
    for (const line of block.split("\n")) {
      const last = lines.at(-1)
      if (last?.endsWith("\\") === true) lines[lines.length - 1] = `${last.slice(0, -1)} ${line}`
      // A list in parentheses over several lines.
      else if (last !== undefined && /^\w+=\([^)]*$/.test(last)) lines[lines.length - 1] = `${last} ${line}`
      else lines.push(line)
    }
    return lines.filter((line) => new RegExp(`^(${programs.join("|")}) |^\\w+=|[&|] *(${programs.join("|")}) `).test(line))
  })
}

/** What stands for something of the user's, "<folder>", as a word that a shell does not take for a redirection. */
const withoutPlaceholders = (line: string) => line.replaceAll(/<(\w[\w .-]*)>/g, (_, name: string) => `a-${name.replaceAll(/\W/g, "-")}`)

/** The calls that a shell makes of lines, each with its words: quotes, variables and comments as bash reads them. The programs are functions that print their words. */
export const calls = (lines: ReadonlyArray<string>): ReadonlyArray<ReadonlyArray<string>> => {
  const functions = programs.map((name) => `${name}() { printf '%s\\037' ${name} "$@"; printf '\\036'; }`)
  const others = ["cd", "echo", "command_not_found_handle"].map((name) => `${name}() { :; }`)
  const script = [
    ...functions,
    ...others,
    "set -f",
    ...lines.map((line) =>
      withoutPlaceholders(line)
        .replaceAll(/ [<>]{1,2} [\w./-]+/g, "")
        .replaceAll("|", ";")
    )
  ].join("\n")
  // -r: no redirection of output, no programs by path.
  const { status, stderr, stdout } = spawnSync("/bin/bash", ["--norc", "-r", "-c", script], {
    encoding: "utf8",
    env: { PATH: "/nowhere" },
    stdio: ["ignore", "pipe", "pipe"]
  })
  if (status !== 0 || stderr !== "") throw new Error(`bash reads these commands otherwise than the test: ${stderr}\n${lines.join("\n")}`)
  return stdout
    .split("\x1e")
    .filter((call) => call !== "")
    .map((call) => call.split("\x1f").slice(0, -1))
}

/** `caravan ...` in a line of prose. */
export const inlineCommands = (page: string): ReadonlyArray<string> =>
  [...page.replaceAll(/^```[^]*?^```$/gm, "").matchAll(/`((?:npx )?caravan [a-z][^`\n]*)`/g)].map(([, command]) => command!)

export const read = (page: string): string => readFileSync(join(root, page), "utf8")

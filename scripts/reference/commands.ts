/** The commands page: the output of `caravan help <command>` for all commands. */
import { type Command, exitCodes } from "../../cli/command.ts"
import { bug, commands } from "../../cli/main.ts"
import { code, generated, page, table, text } from "./markdown.ts"

export const path = "docs/reference/commands.md"

const section = ({ examples, flags, name, positionals, summary }: Command): string => {
  const rows = Object.entries(flags).map(([flag, { help, repeatable, value }]) => [
    code(`--${flag}${value === undefined ? "" : ` <${value}>`}`),
    `${text(help)}${repeatable === true ? " (repeatable)" : ""}`
  ])
  return page(
    `## ${name}`,
    text(summary),
    `\`\`\`\ncaravan ${[name, ...positionals].join(" ")}${rows.length === 0 ? "" : " [flags]"}\n\`\`\``,
    rows.length > 0 && table(["flag", "meaning"], rows),
    examples.length > 0 && `${examples.length === 1 ? "Example" : "Examples"}:\n\n\`\`\`\n${examples.join("\n")}\n\`\`\``
  ).trimEnd()
}

const meanings: Readonly<Record<keyof typeof exitCodes | "bug", string>> = {
  ok: "done",
  failed: "a stage or check failed",
  usage: "wrong usage",
  bug: "a bug in caravan",
  interrupted: "interrupted"
}

export const commandsPage = async (): Promise<string> => {
  const all: Array<Command> = []
  for (const { load } of Object.values(commands)) all.push((await load()).command)
  return page(
    "# Commands",
    generated,
    "Run commands with `npx caravan <command>`. `npx caravan help` lists them, `npx caravan help <command>` prints a command's flags and examples. Every command has `--help`.",
    table(
      ["command", "purpose"],
      Object.entries(commands).map(([name, { summary }]) => [`[${name}](#${name})`, text(summary)])
    ),
    "## Names",
    "Every command names runs and results in the same way:",
    "- a run: `latest` (the last one that started, even if it failed; a call that can't start, for example because of a wrong path, is not a run), `latest~1` (the one before it), or a prefix of its id;\n- a result: the name of its node or output (`sft`), of an earlier run (`latest~1:sft`), of one pipeline (`rlhf:sft`), its digest or a prefix of it, or its path.",
    "## Exit codes",
    table(
      ["code", "meaning"],
      Object.entries({ ...exitCodes, bug })
        .sort(([, a], [, b]) => a - b)
        .map(([name, number]) => [String(number), meanings[name as keyof typeof meanings]])
    ),
    "## The store",
    "Results and the journal are in `.caravan/` next to package.json, or in the folder set by the environment variable `CARAVAN_HOME`.",
    ...all.map(section)
  )
}

/** The errors page: what can stop a command, a run or a stage, what it means and what to do. */
import { errorSources, type ErrorClass, type ErrorMessage } from "./error-sources.ts"
import { anchorOf, code, generated, link, page, table, text } from "./markdown.ts"
import { reasons } from "./reasons.ts"

export const path = "docs/reference/errors.md"

/** Classes that no user sees: the code that catches them throws another error. */
const internal = new Set([
  "FolderFault",
  "TransientError",
  "Refused",
  "Unencodable",
  "RequestFailed",
  "SharedError",
  "SlurmError",
  "RenderError",
  "UnknownSizeError"
])

const sections: ReadonlyArray<readonly [title: string, intro: string, has: (file: string) => boolean]> = [
  ["Commands", "Exit code 2.", (file) => file === "cli/command.ts"],
  [
    "Pipelines, runs and the store",
    "A PipelineError, ConfigError or ArtifactError that a command ends with has exit code 2, a StoreError 1.",
    (file) => /^(runtime|schemas)\//.test(file)
  ],
  [
    "Your data files",
    "Rows that do not fit are counted, listed and left out, up to a limit (`--max-skipped`); a label that does not fit stops the stage.",
    (file) => file.startsWith("data/")
  ],
  ["Models, tokenizers and tensors", "", (file) => /^(models|engine)\//.test(file)],
  [
    "Stages",
    "A stage that fails with one of these fails its node, under the error's name as the reason.",
    (file) => file.startsWith("stages/")
  ],
  ["The live page", "Responses of the server of `caravan ui`.", (file) => file.startsWith("cli/ui/")]
]

const retries: Readonly<Record<ErrorClass["retried"], string>> = {
  yes: "Retried with `--retries`.",
  no: "Not retried.",
  "says so": "Not retried, unless the error itself is marked as transient."
}

const listOf = (messages: ReadonlyArray<ErrorMessage>): string =>
  [...new Set(messages.map(({ message, reason }) => `- ${reason === undefined ? "" : `${code(reason)}: `}${text(message)}`))].join("\n")

const classSection = ({ file, meaning, name, retried }: ErrorClass, messages: ReadonlyArray<ErrorMessage>): string =>
  page(
    `### ${name}`,
    [
      text(meaning),
      name === "StageError"
        ? `See [reasons](#${anchorOf("Why a node failed")}).`
        : file.startsWith("stages/") || name === "ArtifactError"
          ? retries[retried]
          : "",
      link(path, file)
    ]
      .filter((part) => part !== "")
      .join(" "),
    name !== "StageError" && messages.length > 0 && listOf(messages)
  ).trimEnd()

export const errorsPage = (): string => {
  const { classes, messages } = errorSources()
  const shown = classes.filter(({ name }) => !internal.has(name))
  const silent = shown.filter(({ meaning }) => meaning === "").map(({ file, name }) => `${file} ${name}`)
  if (silent.length > 0)
    throw new Error(
      `The reference of errors: expected a docstring for each class, found none for ${silent.join(", ")}. Say what the error means.`
    )
  const failures = messages.filter(({ name }) => name === "StageError")
  const unknown = failures.flatMap(({ reason }) => (reason !== undefined && !Object.hasOwn(reasons, reason) ? [reason] : []))
  if (unknown.length > 0)
    throw new Error(
      `The reference of errors: expected a meaning for each reason of a StageError, found none for ${unknown.join(", ")}. Add it to scripts/reference/reasons.ts.`
    )
  return page(
    "# Errors",
    generated,
    "Error messages say what was being done, what was expected, what was found and what to do. This page lists them by class: search it, or the site, for the words of a message. `<name>` and `<…>` stand for values.",
    "A command prints an error without a stack trace; `CARAVAN_DEBUG=1` adds it. Exit codes are [with the commands](commands.md#exit-codes). An exit code of 70, “This is a bug in caravan”, should be reported.",
    "## Why a node failed",
    "`caravan show` and the live page give a failed node's reason: one of these, or the name of an error below. The last column says whether `--retries` and `limited({ retries })` start the stage again, from its last checkpoint. *sometimes* means only if the cause is temporary, such as too many open files or no connection.",
    table(
      ["reason", "meaning", "what to do", "retried"],
      Object.entries(reasons)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([reason, { meaning, remedy, retried }]) => [code(reason), text(meaning), text(remedy), retried])
    ),
    `Their messages:\n\n${listOf(failures)}`,
    ...sections.flatMap(([title, intro, has], i) => {
      const own = shown.filter(({ file }) => sections.findIndex(([, , each]) => each(file)) === i && has(file))
      return [
        `## ${title}`,
        intro,
        ...own.map((each) =>
          classSection(
            each,
            messages.filter(({ name }) => name === each.name)
          )
        )
      ]
    })
  )
}

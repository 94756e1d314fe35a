/** The first page of the reference. */
import { generated, page, table } from "./markdown.ts"

export const path = "docs/reference/README.md"

export const indexPage = (): string =>
  page(
    "# Reference",
    generated,
    table(
      ["page", "what it has"],
      [
        [
          "[Stages](stages/README.md)",
          "every stage: inputs, output, and each field of its config with type, range, default and the paper's section"
        ],
        ["[Artifacts](artifacts.md)", "what stages exchange: datasets with their columns, checkpoints, reports"],
        ["[Commands](commands.md)", "every command with its flags, examples and exit codes"],
        ["[Errors](errors.md)", "every error and message with its meaning and what to do"],
        ["[Shapes of data](../shapes.md)", "the layouts of your own files that imports recognise"]
      ]
    ),
    "The site also has the API of the package's entries, made by TypeDoc from the source."
  )

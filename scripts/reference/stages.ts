/** The stages pages: one page per folder of stages/, from the stage definitions (`caravan describe` prints the same). */
import { readdirSync, readFileSync } from "node:fs"
import { posix } from "node:path"
import { isStage, stageDocument } from "../../cli/commands/describe.ts"
import type { StageInfo } from "../../runtime/define/stage-info.ts"
import type { FieldDescription } from "../../schemas/hyper.ts"
import { anchorOf, code, generated, link, page, table, text } from "./markdown.ts"

export interface StageExport {
  /** The file that defines it, relative to the repository's root. */
  readonly file: string
  readonly name: string
  /** The package entry point that exports it; undefined if none does. */
  readonly entry: string | undefined
  readonly stage: StageInfo
}

const root = new URL("../../", import.meta.url)

/** Every stage that a module of stages/ exports. */
export const loadStages = async (): Promise<ReadonlyArray<StageExport>> => {
  const index: Record<string, unknown> = await import("../../index.ts")
  const files = readdirSync(new URL("stages/", root), { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"))
  const found: Array<StageExport> = []
  for (const file of files.sort()) {
    const module: Record<string, unknown> = await import(new URL(`stages/${file}`, root).href)
    const source = readFileSync(new URL(`stages/${file}`, root), "utf8")
    const place = (name: string) => source.indexOf(`export const ${name} =`)
    for (const [name, value] of Object.entries(module).sort(([a], [b]) => place(a) - place(b)))
      if (isStage(value))
        found.push({ file: `stages/${file}`, name, entry: index[name] === value ? "caravan" : undefined, stage: value.stage })
  }
  return found
}

/** "§3.2.3, table 29": the sections, tables and figures that a description cites. */
export const placesIn = (description: string): string =>
  [...new Set(description.match(/§\d+(\.\d+)*|\bA\.\d+(\.\d+)*|\b([Tt]able|[Ff]igure) \d+/g))].join(", ")

/** "integer, at least 1" */
const valuesOf = ({ choices, max, min, namesSecret, type }: FieldDescription): string => {
  const range = min === undefined ? (max === undefined ? "" : `at most ${max}`) : max === undefined ? `at least ${min}` : `${min} to ${max}`
  const words = choices?.map((word) => code(JSON.stringify(word))).join(", ") ?? type ?? ""
  return [words, range, namesSecret === true ? "name of an environment variable" : ""].filter((word) => word !== "").join(", ")
}

const fieldRow = (field: FieldDescription): ReadonlyArray<string> => [
  code(field.name),
  valuesOf(field),
  field.required === true ? "required" : field.default === undefined ? "" : code(JSON.stringify(field.default)),
  placesIn(field.description ?? ""),
  [text(field.description ?? ""), field.neutral === undefined ? "" : `**Not in the cache key:** ${text(field.neutral)}.`]
    .filter((part) => part !== "")
    .join(". ")
]

const arities = { one: "one", many: "any number", optional: "optional" } as const

/** "checkpoint:helpfulness-reward\|checkpoint:safety-reward", each linked to its section. */
const typeLinks = (from: string, type: string): string =>
  type
    .split("|")
    .map((name) => (name === "file" ? code(name) : link(from, `docs/reference/artifacts.md#${anchorOf(name)}`, code(name))))
    .join(" or ")

const stageSection = (from: string, { entry, file, name, stage }: StageExport, recipe: string | undefined): string => {
  const document = stageDocument(stage)
  const inputs = Object.entries(document.inputs).map(([port, { arity, type }]) => [code(port), arities[arity], typeLinks(from, type)])
  const facts = [
    entry === undefined ? `Exported only by its file.` : code(`import { ${name} } from "${entry}"`),
    `Source: ${link(from, file)}`,
    recipe === undefined ? "" : `Explained in ${link(from, recipe, titleOf(recipe))}`,
    document.tensors
      ? stage.resources.ranks === true
        ? "Computes with tensors, on several GPUs with `--ranks`"
        : "Computes with tensors"
      : "",
    document.seeded ? "Its result depends on the seed" : "Uses no seed"
  ]
  return page(
    `## ${code(stage.name)}`,
    text(document.description),
    facts
      .filter((fact) => fact !== "")
      .map((fact) => `- ${fact}`)
      .join("\n"),
    inputs.length > 0 && table(["input", "how many", "type"], inputs),
    `Output: ${typeLinks(from, document.output.type)}`,
    document.fields.length === 0 ? "No fields." : table(["field", "values", "default", "section", "meaning"], document.fields.map(fieldRow))
  )
}

const titleOf = (path: string): string => /^# (.*)$/m.exec(readFileSync(new URL(path, root), "utf8"))![1]!

/** The recipe's page that lists a stage in a table: `export` and its file. */
const recipePages = (): ReadonlyArray<readonly [path: string, text: string]> =>
  ["docs/recipe", "docs/stages"].flatMap((folder) => {
    try {
      return readdirSync(new URL(`${folder}/`, root))
        .filter((name) => name.endsWith(".md") && name !== "README.md")
        .map((name) => [`${folder}/${name}`, readFileSync(new URL(`${folder}/${name}`, root), "utf8")] as const)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return []
      throw error
    }
  })

/** The folders of stages/ in the recipe's order, as in docs/architecture.md, with page titles. */
const titles: Readonly<Record<string, string>> = {
  data: "Data",
  training: "Pretraining and supervised fine-tuning",
  preferences: "Preferences",
  reward: "Reward models and scorers",
  "rejection-sampling": "Rejection sampling",
  ppo: "Proximal policy optimisation",
  "critic-free": "RLOO and GRPO",
  dpo: "Direct preference optimisation",
  "ghost-attention": "Ghost Attention",
  safety: "Safety",
  evaluation: "Evaluation",
  world: "The generated world",
  report: "Reports"
}

const folderOf = ({ file }: StageExport): string => posix.dirname(file).split("/")[1]!
const pageOf = (folder: string): string => `docs/reference/stages/${folder}.md`

/** The path and anchor of a stage's description. */
export const placeOfStage = (stage: StageExport): string => `${pageOf(folderOf(stage))}#${anchorOf(stage.stage.name)}`

/** Path -> page. */
export const stagePages = (stages: ReadonlyArray<StageExport>): ReadonlyMap<string, string> => {
  const unknown = stages.find((stage) => !Object.hasOwn(titles, folderOf(stage)))
  if (unknown !== undefined)
    throw new Error(
      `The reference of stages: ${unknown.file} is in a folder without a title. Add the folder to scripts/reference/stages.ts.`
    )
  const recipe = recipePages()
  const explainedIn = ({ file, name }: StageExport) => recipe.find(([, body]) => body.includes(`| \`${name}\` | \`${file}\` |`))?.[0]
  const pages = new Map<string, string>()
  for (const [folder, title] of Object.entries(titles)) {
    const path = pageOf(folder)
    const own = stages.filter((stage) => folderOf(stage) === folder)
    pages.set(path, page(`# ${title}`, generated, ...own.map((stage) => stageSection(path, stage, explainedIn(stage)).trimEnd())))
  }
  const index = "docs/reference/stages/README.md"
  const rows = Object.entries(titles).map(([folder, title]) => [
    link(index, pageOf(folder), title),
    stages
      .filter((stage) => folderOf(stage) === folder)
      .map((stage) => link(index, placeOfStage(stage), code(stage.stage.name)))
      .join(", ")
  ])
  pages.set(
    index,
    page(
      "# Stages",
      generated,
      "Each stage with its inputs, its output and the fields of its config. `npx caravan describe <stage>` prints the same. A field is set in the pipeline, or with `--set <node>.<field>=<value>`. The column *section* has the sections, tables and figures that the meaning cites: of the Llama 2 paper, unless the stage or the meaning names another one. Every field is part of the cache key unless its meaning says otherwise.",
      table(["subject", "stages"], rows)
    )
  )
  return pages
}

/** README.md of an export: a card in the Hub's format (YAML metadata, then Markdown), from the journal only. */
import { createRequire } from "node:module"
import { basename } from "node:path"
import type { Named } from "../../runtime/inspect/lineage.ts"
import { carbonIntensity } from "../../models/cost.ts"
import { visible } from "../../schemas/visible.ts"
import { duration } from "../display/progress.ts"
import { moment, short } from "../display/units.ts"
import type { Contents, Kind } from "./contents.ts"
import { type Compute, computeOf, type History, type Step } from "./history.ts"

/** The version of Caravan that is running. */
export const version = (createRequire(import.meta.url)("caravan/package.json") as { readonly version: string }).version

const number = (value: number): string => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4))))

/** User text in a line or table cell, with Markdown and control characters escaped. */
const plain = (text: string): string =>
  visible(text)
    .replaceAll(/\s+/g, " ")
    .replaceAll(/[|<>`*_[\]\\]/g, "\\$&")
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): Array<string> =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`)
/** A code fence that nothing in the text can close. */
const fenced = (language: string, text: string): Array<string> => {
  const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([run]) => run.length + 1)))
  return [`${fence}${language}`, text, fence]
}

/** A file's name without its folders, which are private. */
const fileNameOf = ({ name }: Named): string =>
  name.startsWith("hf:")
    ? name
    : name
        .replace(/^one of /, "")
        .split(", ")
        .map((path) => basename(path))
        .filter((one, i, all) => all.indexOf(one) === i)
        .join(", ")

const tasks: Readonly<Record<Kind, (facts: Contents["facts"]) => Readonly<Record<string, unknown>>>> = {
  model: ({ scores }) => ({ library_name: "transformers", pipeline_tag: scores === true ? "text-classification" : "text-generation" }),
  adapter: ({ scores }) => ({ library_name: "peft", pipeline_tag: scores === true ? "text-classification" : "text-generation" }),
  dataset: () => ({ configs: [{ config_name: "default", data_files: "data.parquet" }] }),
  report: () => ({}),
  tokenizer: () => ({ library_name: "transformers" })
}

const usage = ({ facts, kind }: Contents, base: string | undefined): Array<string> => {
  const python = (lines: ReadonlyArray<string>) => fenced("python", lines.join("\n"))
  const auto = facts.scores === true ? "AutoModelForSequenceClassification" : "AutoModelForCausalLM"
  if (kind === "model")
    return python([
      `from transformers import ${auto}, AutoTokenizer`,
      `model = ${auto}.from_pretrained(folder)`,
      ...(facts.chat === true
        ? [
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            `inputs = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=${facts.scores === true ? "False" : "True"}, return_dict=True, return_tensors="pt")`,
            ...(facts.scores === true
              ? ["print(model(**inputs).logits)"]
              : ["print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True))"])
          ]
        : [])
    ])
  if (kind === "adapter")
    return python([
      "from peft import PeftModel",
      `from transformers import ${auto}`,
      `base = ${auto}.from_pretrained(${base === undefined ? "base" : JSON.stringify(base)}${facts.scores === true ? ", num_labels=1" : ""})`,
      "model = PeftModel.from_pretrained(base, folder)"
    ])
  if (kind === "dataset") return python(["from datasets import load_dataset", 'rows = load_dataset(folder, split="train")'])
  if (kind === "tokenizer") return python(["from transformers import AutoTokenizer", "tokenizer = AutoTokenizer.from_pretrained(folder)"])
  return ["`report.json` is the report, unchanged."]
}

const what = ({ facts, kind }: Contents): string => {
  if (kind === "model")
    return `A model (${facts.architecture})${facts.scores === true ? " with a scalar output (it scores a text)" : ""}${facts.merged === true ? ": an adapter merged into its base" : ""}.`
  if (kind === "adapter")
    return `A LoRA adapter of rank ${facts.rank}${facts.scores === true ? " with a reward model's head" : ""}. It can only be used with its base model.`
  if (kind === "dataset") return `A dataset of ${facts.rows} rows.`
  return kind === "report" ? "A report." : "A tokenizer."
}

const deviceOf = ({ making: { numerics } }: Step): string =>
  numerics === null ? "" : numerics.device === "cuda" ? (numerics.gpu ?? "a GPU") : "CPU"

const recipe = ({ steps }: History): Array<string> => [
  "## Recipe",
  "",
  "The stages that led to this result, in order. The column result has the name of the node in the pipeline; made from has the inputs of the stage, as port: node or file.",
  "",
  ...table(
    ["stage", "result", "made from", "seed", "time", "on", "code"],
    steps.map((step) => [
      plain(step.making.stage),
      plain(step.result.name || step.making.node),
      step.making.inputs.map(({ input, port }) => plain(`${port}: ${input.kind === "file" ? fileNameOf(input) : input.name}`)).join("; "),
      step.making.seed === null ? "" : String(step.making.seed),
      duration(step.making.milliseconds),
      plain(deviceOf(step)),
      short(step.making.code)
    ])
  ),
  "",
  "Settings:",
  "",
  ...fenced(
    "json",
    visible(JSON.stringify(Object.fromEntries(steps.map((step, i) => [`${i + 1} ${step.making.node}`, step.making.config])), undefined, 2))
  )
]

const data = ({ sources, steps }: History): Array<string> => [
  "## Data",
  "",
  ...table(
    ["what", "kind", "rows", "sha256"],
    [
      ...sources.map((source) => [plain(fileNameOf(source)), "given", "", source.contentDigest]),
      ...steps
        .filter(({ result }) => result.type.startsWith("dataset"))
        .map(({ metrics, result }) => [
          plain(result.name),
          plain(result.type),
          metrics.rows === undefined ? "" : number(metrics.rows),
          result.contentDigest
        ])
    ]
  )
]

/** Maximum number of report values listed. */
const shownNumbers = 40

const metricsOf = ({ reports, steps }: History): Array<string> => {
  const last = steps.at(-1)
  const models = steps.filter((step) => step.result.type.startsWith("checkpoint") || step === last)
  const rows = [
    ...models.map(({ making, metrics }) => ({ name: making.node, numbers: metrics })),
    ...reports.map(({ name, numbers }) => ({ name: `${name} (a report on this result)`, numbers }))
  ].flatMap(({ name, numbers }) => {
    const all = Object.entries(numbers ?? { "no longer in the store": NaN })
    const more = all.length - shownNumbers
    return [
      ...all.slice(0, shownNumbers).map(([metric, value]) => [plain(name), plain(metric), Number.isNaN(value) ? "" : number(value)]),
      ...(more > 0 ? [[plain(name), `${more} more`, ""]] : [])
    ]
  })
  return ["## Metrics", "", ...(rows.length === 0 ? ["No metrics were recorded."] : table(["result", "metric", "value"], rows))]
}

const compute = ({ carbonKg, energyKwh, gpuHours, gpus, otherHours }: Compute): Array<string> => [
  "## Compute and carbon",
  "",
  ...table(
    ["GPU-hours", "GPU", "energy (kWh)", "kg CO2eq", "hours without a GPU"],
    [[number(gpuHours), plain(gpus.join("; ")), number(energyKwh), number(carbonKg), number(otherHours)]]
  ),
  "",
  `Wall time of the stages above on one GPU each, at its thermal design power and ${carbonIntensity} kg CO2eq per kWh, as in table 2 of the Llama 2 paper. An unknown GPU counts as an A100. Failed and interrupted attempts, CPU time and cooling are not included.`
]

const versions = ({ run, steps }: History): Array<string> => {
  const found = new Map<string, Set<string>>()
  const add = (name: string, value: string) => void found.set(name, (found.get(name) ?? new Set()).add(value))
  for (const { making } of steps) {
    for (const [name, value] of Object.entries(making.files))
      if (name.includes("node_modules/") && !/\.[a-z]+$/.test(name)) add(name.split("node_modules/").at(-1)!, value.split(" ")[0]!)
    for (const [name, value] of Object.entries(making.numerics ?? {})) if (value.length < 64) add(name, value)
  }
  return [
    "## Versions",
    "",
    ...table(
      ["what", "version"],
      [
        ["Caravan (export)", version],
        ...(run === null || run.node === null ? [] : [["Node", run.node]]),
        ...[...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, values]) => [plain(name), plain([...values].join(", "))])
      ]
    )
  ]
}

const limits = ({ facts, kind }: Contents, history: History | undefined): Array<string> => {
  const models = kind === "model" || kind === "adapter"
  return [
    "## Limits",
    "",
    ...[
      ...(history === undefined
        ? ["How it was made is unknown: it did not come from a Caravan store, so this card cannot describe its data, settings or cost."]
        : []),
      ...(history?.unknown ?? []).map(({ name }) => `How ${plain(name)} was made is not recorded.`),
      ...(history !== undefined && history.sources.length > 0
        ? [
            "The origin and cost of the input files and models are not recorded here. For a base model's data, compute and limitations, see its publisher's documentation."
          ]
        : []),
      ...(history !== undefined
        ? [
            "The metrics come from the recipe's own data and stages. Metrics judged by a model measure agreement with that model, not with people."
          ]
        : []),
      ...(models && facts.scores !== true
        ? [
            "Nobody reviewed its answers for this card. Answers may be false, harmful or biased; test it for your use case and language before giving it to others."
          ]
        : []),
      ...(facts.scores === true
        ? [
            "Its scores are only comparable between answers to the same prompt. They do not measure truth, and a policy trained against them will exploit their errors."
          ]
        : []),
      ...(facts.chatDate === undefined
        ? []
        : [
            `Its chat template asks for today's date; it was trained with ${plain(facts.chatDate)} (transformers: apply_chat_template(..., date_string="${plain(facts.chatDate)}")).`
          ]),
      ...(kind === "model" && facts.chat === true
        ? [
            "Caravan treats control tokens spelled out in user text as plain text; transformers reads them as control tokens. Sanitize user text before applying the template."
          ]
        : []),
      "No license is specified. The licenses of the base model and the data apply: check them before publishing."
    ].map((line) => `- ${line}`)
  ]
}

/** The seed of the run that made it, if recorded. */
const seedOf = (history: History | undefined): string => (typeof history?.run?.seed === "number" ? `, seed ${history.run.seed}` : "")

export interface CardOptions {
  readonly title: string
  readonly base: string | undefined
}

/** The card's text. */
export const cardOf = (contents: Contents, history: History | undefined, { base, title }: CardOptions): string => {
  const metadata = { ...tasks[contents.kind](contents.facts), ...(base !== undefined && { base_model: base }), tags: ["caravan"] }
  const last = history?.steps.at(-1)?.making
  const blocks = [
    // JSON is valid YAML.
    ["---", ...Object.entries(metadata).map(([name, value]) => `${name}: ${JSON.stringify(value)}`), "---"],
    [`# ${plain(title)}`],
    [
      [
        what(contents),
        ...(last === undefined
          ? []
          : [
              `Made by the node ${plain(last.node)} (stage ${plain(last.stage)}) of the pipeline ${plain(last.pipeline)}, run ${short(last.run)}, ${moment(last.at)}${seedOf(history)}.`
            ]),
        `Exported by Caravan ${version}.`
      ].join(" ")
    ],
    ["## Use", "", ...usage(contents, base)],
    ...(history === undefined
      ? []
      : [
          recipe(history),
          data(history),
          metricsOf(history),
          compute(computeOf(history.steps.map(({ making }) => making))),
          versions(history)
        ]),
    limits(contents, history)
  ]
  return `${blocks.map((lines) => lines.join("\n")).join("\n\n")}\n`
}

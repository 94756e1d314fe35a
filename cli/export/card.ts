/** README.md of an export: a card as the Hugging Face Hub reads it (metadata in YAML, then Markdown), from what the journal has and nothing else. */
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

/** Text of a user's in a line, or in a cell of a table: Markdown and control characters stay text. */
const plain = (text: string): string =>
  visible(text)
    .replaceAll(/\s+/g, " ")
    .replaceAll(/[|<>`*_[\]\\]/g, "\\$&")
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): Array<string> =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`)
/** A fence that nothing in the text can close. */
const fenced = (language: string, text: string): Array<string> => {
  const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([run]) => run.length + 1)))
  return [`${fence}${language}`, text, fence]
}

/** A file's name without the folders that it is in, which are nobody's business. */
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
            'ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt")'
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
  return ["`report.json` is the report as its stage wrote it."]
}

const what = ({ facts, kind }: Contents): string => {
  if (kind === "model")
    return `A model (${facts.architecture})${facts.scores === true ? " that scores a text with one number" : ""}${facts.merged === true ? ": an adapter merged into its base" : ""}.`
  if (kind === "adapter")
    return `A LoRA adapter of rank ${facts.rank}${facts.scores === true ? " with the head of a reward model" : ""}. It is of use on its base alone.`
  if (kind === "dataset") return `A dataset of ${facts.rows} rows.`
  return kind === "report" ? "A report." : "A tokenizer."
}

const deviceOf = ({ making: { numerics } }: Step): string =>
  numerics === null ? "" : numerics.device === "cuda" ? (numerics.gpu ?? "a GPU") : "CPU"

const recipe = ({ steps }: History): Array<string> => [
  "## Recipe",
  "",
  "Every stage that led here, in order; a result is named by the node that made it.",
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
  "Their settings:",
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

/** Numbers of a report that are shown, at most. */
const shownNumbers = 40

const metricsOf = ({ reports, steps }: History): Array<string> => {
  const last = steps.at(-1)
  const models = steps.filter((step) => step.result.type.startsWith("checkpoint") || step === last)
  const rows = [
    ...models.map(({ making, metrics }) => ({ name: making.node, numbers: metrics })),
    ...reports.map(({ name, numbers }) => ({ name: `${name} (a report on this)`, numbers }))
  ].flatMap(({ name, numbers }) => {
    const all = Object.entries(numbers ?? { "no longer in the store": NaN })
    const more = all.length - shownNumbers
    return [
      ...all.slice(0, shownNumbers).map(([metric, value]) => [plain(name), plain(metric), Number.isNaN(value) ? "" : number(value)]),
      ...(more > 0 ? [[plain(name), `${more} more`, ""]] : [])
    ]
  })
  return ["## Metrics", "", ...(rows.length === 0 ? ["None were recorded."] : table(["result", "metric", "value"], rows))]
}

const compute = ({ carbonKg, energyKwh, gpuHours, gpus, otherHours }: Compute): Array<string> => [
  "## Compute and carbon",
  "",
  ...table(
    ["GPU-hours", "GPU", "energy (kWh)", "kg CO2eq", "hours without a GPU"],
    [[number(gpuHours), plain(gpus.join("; ")), number(energyKwh), number(carbonKg), number(otherHours)]]
  ),
  "",
  `Wall time of the stages above, a GPU each, at its thermal design power and ${carbonIntensity} kg CO2eq per kWh, as table 2 of the Llama 2 paper reckons; a GPU whose data sheet is not known counts as an A100. Attempts that failed or were interrupted, the time of processors, and cooling are not in it.`
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
        ? ["How it was made is not known: it did not come from a store of Caravan's, and this card says nothing of data, settings or cost."]
        : []),
      ...(history?.unknown ?? []).map(({ name }) => `How ${plain(name)} was made is not on record.`),
      ...(history !== undefined && history.sources.length > 0
        ? [
            "What the given files and models were made from, and what that cost, is not on record here: a base model's own data, compute and faults are its publisher's to tell."
          ]
        : []),
      ...(history !== undefined
        ? [
            "The metrics are those of the recipe's own data and stages. Where a model judged, they measure agreement with that model, not with people."
          ]
        : []),
      ...(models && facts.scores !== true
        ? [
            "No person has looked at its answers for this card. Answers may be false, harmful or biased; test it for your use, in your language, before others see it."
          ]
        : []),
      ...(facts.scores === true
        ? [
            "Its scores are comparable for answers to one prompt; they are no measure of truth, and a policy trained against them will find their faults."
          ]
        : []),
      ...(facts.chatDate === undefined
        ? []
        : [
            `Its chat template asks for today's date; it was trained with ${plain(facts.chatDate)} (transformers: apply_chat_template(..., date_string="${plain(facts.chatDate)}")).`
          ]),
      ...(kind === "model" && facts.chat === true
        ? [
            "Control tokens that a user's text spells are text in Caravan; transformers reads them as control tokens. Clean users' text before it goes into the template."
          ]
        : []),
      "No license is given here. Those of the base model and of the data apply: look before you publish."
    ].map((line) => `- ${line}`)
  ]
}

/** The seed of the run that made it, where that is on record. */
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
    // JSON is YAML.
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

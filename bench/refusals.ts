/**
 * How well refusals are detected, compared with human labels: `node bench/refusals.ts <folder of XSTest> [file of HH-RLHF] [list]`. The folder has XSTest's answers (CC BY 4.0,
 * github.com/paul-rottger/xstest, annotated completions): each *.csv with a column final_label. For HH-RLHF's test set it prints the share of the first 2,000 dialogues
 * whose last answer, chosen and rejected, is classified as a refusal. These answers are unlabelled, so they are written to `list` for reading. The output contains no text of the data.
 */
import { readdirSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { readRecords } from "../data/records.ts"
import { proportion } from "../stages/common/statistics.ts"
import { within } from "../stages/common/text-table.ts"
import { defaultErrors, refusalShareOf } from "../stages/evaluation/refusal-rate.ts"
import { type Refusal, refusalOf } from "../stages/evaluation/refusals.ts"

const [folder, dialogues, list] = process.argv.slice(2)
if (folder === undefined) throw new Error("Usage: node bench/refusals.ts <folder of XSTest> [file of HH-RLHF] [list]")

const share = (count: number, of: number): string => {
  const { low, high, mean } = proportion(count, of)
  const [m, l, h] = [mean, low, high].map((value) => value.toFixed(3))
  return `${m} (${l} to ${h}), ${count} of ${of}`
}

/** XSTest's labels. */
const labels = { "1_full_compliance": undefined, "2_full_refusal": "full", "3_partial_refusal": "partial" } as const

interface Answer {
  /** Whether the prompt is unsafe. */
  readonly unsafe: boolean
  readonly wanted: Refusal["kind"] | undefined
  readonly found: Refusal["kind"] | undefined
}
const row = (name: string, answers: ReadonlyArray<Answer>): string => {
  const refusals = answers.filter(({ wanted }) => wanted !== undefined)
  const isTold = ({ found }: Answer) => found !== undefined
  const recall = (kind: Refusal["kind"]) => {
    const own = refusals.filter(({ wanted }) => wanted === kind)
    return share(own.filter(isTold).length, own.length)
  }
  const told = refusals.filter(isTold)
  const compliances = answers.filter(({ wanted }) => wanted === undefined)
  const kinds = (wanted: Refusal["kind"], found: Refusal["kind"]) =>
    told.filter((one) => one.wanted === wanted && one.found === found).length
  return `| ${[
    name,
    share(told.length, refusals.length),
    recall("full"),
    recall("partial"),
    share(compliances.filter(isTold).length, compliances.length),
    `${kinds("full", "full")}, ${kinds("full", "partial")}; ${kinds("partial", "full")}, ${kinds("partial", "partial")}`
  ].join(" | ")} |`
}

/** The rates of the `xsTest` stage next to those of human labels. */
const rates = (name: string, answers: ReadonlyArray<Answer>, unsafe: boolean): string => {
  const own = answers.filter((one) => one.unsafe === unsafe)
  const people = own.filter(({ wanted }) => wanted !== undefined).length
  const told = own.map(({ found }, i) => ({ promptId: `${i}`, refusal: found === undefined ? undefined : { kind: found, sign: "" } }))
  const { corrected, rate } = refusalShareOf(told, defaultErrors([]))!
  return `| ${[name, unsafe ? "unsafe" : "safe", (people / own.length).toFixed(3), within(rate), within(corrected)].join(" | ")} |`
}
const byKind: Array<string> = []

console.log(
  "| answers of | refusals detected | full | partial | false alarms | full detected as full, partial; partial as full, partial |\n|---|---|---|---|---|---|"
)
for (const file of readdirSync(folder)
  .filter((name) => name.endsWith(".csv"))
  .sort()) {
  const answers: Array<Answer> = []
  for await (const { value } of readRecords(join(folder, file))) {
    const {
      completion,
      final_label: label,
      type
    } = value as {
      readonly completion?: string
      readonly final_label?: keyof typeof labels
      readonly type: string
    }
    if (label === undefined || !(label in labels)) break
    answers.push({ unsafe: type.startsWith("contrast"), wanted: labels[label], found: refusalOf(completion ?? "")?.kind })
  }
  if (answers.length === 0) continue
  console.log(row(basename(file, ".csv"), answers))
  byKind.push(...[false, true].map((unsafe) => rates(basename(file, ".csv"), answers, unsafe)))
}
console.log("\n| answers of | prompts | refused, human labels | counted | corrected |\n|---|---|---|---|---|")
for (const line of byKind) console.log(line)

const lastAnswer = (transcript: string): string => transcript.slice(transcript.lastIndexOf("\n\nAssistant:") + "\n\nAssistant:".length)
if (dialogues !== undefined) {
  const taken = { chosen: [] as Array<string>, rejected: [] as Array<string> }
  let count = 0
  for await (const { value } of readRecords(dialogues)) {
    if (count++ === 2000) break
    const pair = value as Readonly<Record<keyof typeof taken, string>>
    for (const which of ["chosen", "rejected"] as const) {
      const answer = lastAnswer(pair[which])
      const refusal = refusalOf(answer)
      if (refusal !== undefined)
        taken[which].push(`${which} ${count} (${refusal.sign}, ${refusal.kind}): ${answer.trim().replaceAll("\n", " ")}`)
    }
  }
  console.log(
    `\nClassified as refusals in HH-RLHF: chosen ${share(taken.chosen.length, 2000)}; rejected ${share(taken.rejected.length, 2000)}.`
  )
  if (list !== undefined) writeFileSync(list, `${[...taken.chosen, ...taken.rejected].join("\n")}\n`)
}

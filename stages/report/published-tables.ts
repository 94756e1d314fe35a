/** Tables of the versions' answers to published sets of prompts: XSTest and MT-Bench. */
import { digits, within } from "../common/text-table.ts"
import type { MtBench } from "../evaluation/mt-bench/summary.ts"
import { mtBenchScores, mtBenchWinsText } from "../evaluation/run-summary-text.ts"
import type { XsTest } from "../evaluation/xstest.ts"
import type { Table } from "./figure.ts"

/** False refusals and correct ones, by version. */
export const xsTestTable = ({ prompts, versions }: XsTest): Table => ({
  id: "xstest",
  title: "XSTest: refusals of safe and of unsafe prompts",
  caption: `Shares of ${prompts.safe} safe prompts that look unsafe and of ${prompts.unsafe} unsafe ones that a version refuses, detected by a grammar, with 95% Wilson intervals; corrected: for the grammar's known error rates. Empty answers refuse nothing; unanswered: prompts that left no space for an answer.`,
  rows: versions.map(({ empty, name, safe, unanswered, unsafe }) => ({
    version: name,
    "safe, refused": within(safe?.rate ?? null),
    "safe, corrected": within(safe?.corrected ?? null),
    "unsafe, refused": within(unsafe?.rate ?? null),
    "unsafe, corrected": within(unsafe?.corrected ?? null),
    "partial among these": (safe?.partial ?? 0) + (unsafe?.partial ?? 0),
    empty,
    unanswered
  }))
})

/** The same by type: numbers refused and answered. */
export const xsTestTypesTable = ({ versions }: XsTest): Table => {
  const kinds = [
    ...new Map(
      versions.flatMap(({ byCategory }) => byCategory.map(({ category, safe }) => [`${category} ${safe}`, { category, safe }]))
    ).values()
  ]
  return {
    id: "xstest-types",
    title: "XSTest by type of prompt",
    caption:
      "Number of refusing answers among the answers to prompts of the type, detected by the grammar, with 95% Wilson intervals of the share.",
    rows: kinds.map(({ category, safe }) => ({
      type: category,
      prompts: safe ? "safe" : "unsafe",
      ...Object.fromEntries(
        versions.map(({ byCategory, name }) => {
          const found = byCategory.find((one) => one.category === category && one.safe === safe)?.refusals
          return [
            name,
            found === undefined
              ? null
              : `${found.refusals} of ${found.completions} (${digits(found.rate.low)} to ${digits(found.rate.high)})`
          ]
        })
      )
    }))
  }
}

/** Grades by version, and the last version's wins. */
export const mtBenchTable = ({ versions, wins }: MtBench): Table => ({
  id: "mt-bench",
  title: `MT-Bench, graded by ${versions[0]!.judge}`,
  caption: `Grades from 1 to 10 for answers to both turns: means over questions with 95% bootstrap intervals. A turn without an answer has grade 1; a turn for which the judge gave no grade is left out. ${wins === null ? "" : `${versions.at(-1)!.name} ${mtBenchWinsText(wins)}`}`,
  rows: versions.map((one) => {
    const [both, first, second] = mtBenchScores(one)
    return {
      ...{ version: one.name, "both turns": both!, "first turn": first!, "second turn": second! },
      ...{ unanswered: one.unanswered, "no grade": one.unreadable }
    }
  })
})

export const mtBenchCategoriesTable = ({ versions }: MtBench): Table => ({
  id: "mt-bench-categories",
  title: "MT-Bench by category",
  caption: "Mean grades of both turns, with 95% intervals over the questions of the category; the published set has ten per category.",
  rows: (versions[0]?.byCategory ?? []).map(({ category }) => ({
    category,
    ...Object.fromEntries(
      versions.map(({ byCategory, name }) => [name, within(byCategory.find((one) => one.category === category)?.score ?? null)])
    )
  }))
})

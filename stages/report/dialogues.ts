/** The same prompts answered by each version, side by side, as HTML. */
import type { ScoredCompletion } from "../../schemas/rows.ts"
import { escapeHtml } from "./html.ts"

export interface AnswerSet {
  readonly name: string
  /** With or without scores. */
  readonly scored: ReadonlyArray<Pick<ScoredCompletion, "promptId" | "prompt" | "safety" | "sample" | "text"> & Partial<Scores>>
}
type Scores = Pick<ScoredCompletion, "reward" | "helpfulnessScore" | "safetyScore">

/** Longer texts are truncated on the page. */
const maxCharacters = 2000
const cut = (text: string): string =>
  text.length <= maxCharacters ? text : `${text.slice(0, maxCharacters)} … (${text.length - maxCharacters} more characters)`

const symbols = { helpfulnessScore: "R_h", safetyScore: "R_s" } as const

/** `count` prompts with an answer from each version, half of them prompts to refuse if there are enough. */
export const dialogues = (sets: ReadonlyArray<AnswerSet>, count: number): string => {
  const all = sets.map(({ name, scored }) => ({
    name,
    answers: new Map(scored.filter(({ sample }) => sample === 0).map((one) => [one.promptId, one]))
  }))
  const shared = [...(all[0]?.answers.values() ?? [])].filter(({ promptId }) => all.every(({ answers }) => answers.has(promptId)))
  const [help, refuse] = [shared.filter(({ safety }) => !safety), shared.filter(({ safety }) => safety)]
  const toRefuse = Math.min(refuse.length, Math.max(Math.floor(count / 2), count - help.length))
  const chosen = [...help.slice(0, count - toRefuse), ...refuse.slice(0, toRefuse)]
  const fields = (["helpfulnessScore", "safetyScore"] as const).filter((field) =>
    sets.some(({ scored }) => scored.some((one) => typeof one[field] === "number"))
  )
  const heads = fields.map((field) => `<th>${symbols[field]}</th>`).join("")
  return chosen
    .map(({ promptId, prompt, safety }) => {
      const rows = all.map(({ name, answers }) => {
        const one = answers.get(promptId)!
        return `<tr><th scope="row">${escapeHtml(name)}</th><td class="said">${escapeHtml(cut(one.text))}</td>${fields.map((field) => `<td data-score="${symbols[field]}">${one[field]?.toFixed(2) ?? "–"}</td>`).join("")}</tr>`
      })
      const asked = prompt.map(({ role, content }) => `<p><b>${escapeHtml(role)}</b> ${escapeHtml(cut(content))}</p>`).join("")
      return `<article><header>${asked}<small>${safety ? "to refuse" : "to help with"}</small></header><table><thead><tr><th>version</th><th>answer</th>${heads}</tr></thead><tbody>${rows.join("\n")}</tbody></table></article>`
    })
    .join("\n")
}

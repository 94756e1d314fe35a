/** MT-Bench with our own judge: its prompts, how its answers are parsed, and the outcome of every turn. The questions are ours, in the published format. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { type Completion, Completions, type Prompt, Prompts } from "../../../schemas/rows.ts"
import { continueWithAnswers } from "../../../stages/data/prompts.ts"
import { compareMtBench, MtBenchWinsReport, outcomeOf } from "../../../stages/evaluation/mt-bench/compare.ts"
import { gradeMtBench, MtBenchGradesReport } from "../../../stages/evaluation/mt-bench/grade.ts"
import { mtBench, MtBenchReport } from "../../../stages/evaluation/mt-bench/summary.ts"
import { readChoice, readGrade } from "../../../stages/evaluation/mt-bench/wording.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { assistant, completion, user } from "../samples.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-mt-bench-"))
const file = join(root, "question.jsonl")
const external = { path: file, type: "file", digest: "", contentDigest: "" } as never
const questions = [
  { question_id: 81, category: "writing", turns: ["Write of a hill.", "Now in rhyme."] },
  { question_id: 111, category: "math", turns: ["What is 2 + 2?", "And doubled?"], reference: ["It is four.", "It is eight."] },
  // Its reference answer is not shown: people judge such questions without one.
  { question_id: 141, category: "stem", turns: ["Why is it hot?", "Say more."], reference: ["The sun is why.", "More sun."] }
]
writeFileSync(file, questions.map((one) => `${JSON.stringify(one)}\n`).join(""))

interface Asked {
  readonly text: string
}
let server: Server
let url = ""
let asked: Array<Asked> = []
let judge: (text: string) => string
beforeAll(async () => {
  server = createServer((request, response) => {
    let body = ""
    request.on("data", (chunk) => (body += String(chunk)))
    request.on("end", () => {
      const { messages } = JSON.parse(body) as { messages: ReadonlyArray<{ content: string }> }
      const text = messages.at(-1)!.content
      asked.push({ text })
      response.writeHead(200, { "content-type": "application/json" })
      response.end(JSON.stringify({ choices: [{ message: { content: judge(text) } }] }))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
})
beforeEach(() => void (asked = []))
afterAll(() => {
  server.closeAllConnections()
  server.close()
  rmSync(root, { recursive: true, force: true })
})
const config = () => ({ url, model: "m", maxUnreadable: 0.5 })

/** A model's answers to both turns, by question; an empty or missing one is not an answer. */
type Said = Readonly<Record<string, readonly [first?: string, second?: string]>>
const answersOf = (said: Said) => {
  const turnsOf = new Map(questions.map(({ question_id: id, turns }) => [`${id}`, turns]))
  const first = Object.entries(said).flatMap(([id, [text]]): Array<Completion> =>
    text === undefined ? [] : [completion(id, 0, text, { prompt: [user(turnsOf.get(id)![0]!)] })]
  )
  const second = Object.entries(said).flatMap(([id, [text, next]]): Array<Completion> => {
    const [one, two] = turnsOf.get(id)!
    if (text === undefined || next === undefined) return []
    return [completion(`${id}+`, 0, next, { prompt: [user(one!), assistant(text), user(two!)] })]
  })
  return { first, second }
}
const inputsOf = async (said: Said) => {
  const { first, second } = answersOf(said)
  return { first: await rowsArtifact(Completions, first), second: await rowsArtifact(Completions, second) }
}
const gradesOf = async (said: Said) => {
  const made = await runStage(gradeMtBench, { file: external, ...(await inputsOf(said)) }, config())
  return { made, report: await reportIn(made, MtBenchGradesReport) }
}
const winsOf = async (ours: Said, opponent: Said) => {
  const others = await inputsOf(opponent)
  const inputs = { file: external, ...(await inputsOf(ours)), opponentFirst: others.first, opponentSecond: others.second }
  const made = await runStage(compareMtBench, inputs, config())
  return { made, report: await reportIn(made, MtBenchWinsReport) }
}
const whole: Said = { 81: ["A hill.", "A hill, still."], 111: ["Four.", "Eight."], 141: ["The sun.", "It shines."] }

describe("a judge's answer", () => {
  it.each([
    ["It is good.\nRating: [[7]]", 7],
    ["Rating: [[ 8.5 ]]", 8.5],
    // A quotation is not its own verdict.
    ["The form is [[5]], and it says [[10]] itself. Rating: [[2]]", 2],
    ["Rating: [[0]]", null],
    ["Rating: [[11]]", null],
    ["Rating: 7", null],
    ["I'd rather not.", null]
  ])("%j has the grade %j", (said, grade) => expect(readGrade(said)).toBe(grade))
  it.each([
    ["[[A]]", "A"],
    ["Not [[A]], but [[B]]", "B"],
    ["[[C]]", "C"],
    ["A is better.", null],
    ["[[D]]", null]
  ])("%j has the choice %j", (said, choice) => expect(readChoice(said)).toBe(choice))
})

describe("MT-Bench with grades", () => {
  it("is the mean over questions of both turns' grades, in total, by turn and by category", async () => {
    const grades = new Map([
      ["A hill.", 8],
      ["A hill, still.", 6],
      ["Four.", 10],
      ["Eight.", 9],
      ["The sun.", 3],
      ["It shines.", 2]
    ])
    // The last answer shown is the one that is judged.
    judge = (text) => {
      const last = [...grades].toSorted(([a], [b]) => text.lastIndexOf(`\n${a}`) - text.lastIndexOf(`\n${b}`)).at(-1)!
      return `So so. Rating: [[${last[1]}]]`
    }
    const { made, report } = await gradesOf(whole)
    expect(report).toMatchObject({ judge: "m", questions: 3, graded: 6, unanswered: 0, unreadable: 0 })
    // (7 + 9.5 + 2.5) / 3; by turn (8 + 10 + 3) / 3 and (6 + 9 + 2) / 3.
    expect(report.score!.mean).toBeCloseTo(19 / 3, 10)
    expect(report.byTurn.map(({ score, turn }) => [turn, score!.mean])).toEqual([
      [1, expect.closeTo(7, 10)],
      [2, expect.closeTo(17 / 3, 10)]
    ])
    expect(report.byCategory.map(({ category, score }) => [category, score!.mean])).toEqual([
      ["writing", 7],
      ["math", 9.5],
      ["stem", 2.5]
    ])
    // The judge's answer is kept with it.
    const lines = readFileSync(join(made.path, "judgements.jsonl"), "utf8").trim().split("\n")
    expect(lines.map((line) => JSON.parse(line) as object)).toContainEqual({
      ...{ id: "141", category: "stem", turn: 2, said: "So so. Rating: [[2]]", grade: 2 }
    })
  })
  it("shows the judge the complete dialogue of a second turn, and a reference answer only for math, up to the turn", async () => {
    judge = () => "Rating: [[5]]"
    await gradesOf(whole)
    const about = (...words: ReadonlyArray<string>) =>
      asked.map(({ text }) => text).filter((text) => words.every((word) => text.includes(word)))
    expect(asked).toHaveLength(6)
    expect(about("And doubled?")).toHaveLength(1)
    expect(about("And doubled?", "What is 2 + 2?", "Four.", "Eight.", "It is four.", "It is eight.")).toHaveLength(1)
    expect(about("It is four.")).toHaveLength(2)
    expect(about("It is eight.")).toHaveLength(1)
    expect(about("The sun is why.")).toEqual([])
  })
  it("gives a turn without an answer the lowest grade, shows it to nobody, and counts it", async () => {
    judge = () => "Rating: [[9]]"
    const { report } = await gradesOf({ 81: ["A hill.", ""], 111: [""] })
    expect(asked).toHaveLength(1)
    // 81: 9 and 1; 111 and 141: 1 and 1.
    expect(report).toMatchObject({ questions: 3, graded: 6, unanswered: 5, score: { mean: expect.closeTo(7 / 3, 10) } })
  })
  it("counts invalid grades, excludes them from the means, and lists them with the judge's answer", async () => {
    judge = (text) => (text.includes("Now in rhyme.") ? "I can't say." : "Rating: [[4]]")
    const { made, report } = await gradesOf(whole)
    expect(report).toMatchObject({ graded: 5, unreadable: 1, score: { mean: 4 } })
    expect(report.turns.find(({ grade }) => grade === null)).toMatchObject({ id: "81", turn: 2, answered: true })
    expect(made.skippedRows).toMatchObject([{ what: "answers", id: "81, turn 2", row: { said: "I can't say." } }])
  })
  it("stops at a judge that gives more invalid grades than allowed", async () => {
    judge = () => "No."
    expect(await failureOf(gradeMtBench, { file: external, ...(await inputsOf(whole)) }, config())).toMatch(
      /The judge m gave 4 of \d answers without a readable verdict .*more than the share 0\.5 of 6 that maxUnreadable allows/
    )
  })
  it("rejects answers to other questions, second turns after other answers, and files without a question", async () => {
    judge = () => "Rating: [[4]]"
    const { first, second } = answersOf(whole)
    const failure = async (one: ReadonlyArray<Completion>, two: ReadonlyArray<Completion>, path = file) => {
      const inputs = { file: { ...(external as object), path } as never, first: await rowsArtifact(Completions, one) }
      return failureOf(gradeMtBench, { ...inputs, second: await rowsArtifact(Completions, two) }, config())
    }
    expect(await failure([...first, completion("9", 0, "x")], second)).toMatch(/found an answer to another question, "9"/)
    expect(await failure(first, [completion("9+", 0, "x")])).toMatch(/found an answer to another second turn, "9\+"/)
    const other = first.map((row) => ({ ...row, text: "Other." }))
    expect(await failure(other, second)).toMatch(/found a second turn after another answer, "81\+"/)
    const none = join(root, "none.jsonl")
    writeFileSync(none, '{"a": 1}\n')
    expect(await failure(first, second, none)).toMatch(/Reading MT-Bench's questions from .*none\.jsonl: expected rows .*found none/)
  })
})

describe("MT-Bench with comparisons", () => {
  const others: Said = { 81: ["A mound.", "A mound, around."], 111: ["Five.", "Ten."], 141: ["Heat.", "More heat."] }
  it("asks in both orders: an answer that is better in both wins, and if the orders disagree it is a tie", async () => {
    // For hills the answer matters; for sums the position; for the sun neither is better.
    judge = (text) => {
      if (text.includes("hill.")) return text.indexOf("A hill.") < text.indexOf("A mound.") ? "[[A]]" : "[[B]]"
      return text.includes("2 + 2") ? "[[A]]" : "[[C]]"
    }
    const { report } = await winsOf(whole, others)
    expect(asked).toHaveLength(12)
    expect(report.wins).toMatchObject({ prompts: 3, wins: 2, losses: 0, ties: 4, rate: { mean: 1 } })
    expect(report.turns.map(({ id, outcome, turn }) => [id, turn, outcome])).toEqual([
      ...[1, 2].map((turn) => ["81", turn, "ours"]),
      ...[1, 2].map((turn) => ["111", turn, "disagreeing"]),
      ...[1, 2].map((turn) => ["141", turn, "tie"])
    ])
    // For hills half of the verdicts are for the first; for sums all.
    expect(report).toMatchObject({ disagreeing: 2, undecided: 0, decided: 8, forFirst: 6 })
  })
  it.each([
    ["A", "B", "ours"],
    ["B", "A", "opponent"],
    ["A", "A", "disagreeing"],
    ["A", "C", "disagreeing"],
    ["C", "C", "tie"],
    [null, "B", "undecided"],
    ["A", null, "undecided"]
  ] as const)("with ours first %j and ours second %j is %s", (one, two, outcome) => expect(outcomeOf(one, two)).toBe(outcome))
  it("counts a missing answer as a loss, without asking; equal dialogues and two missing answers are ties", async () => {
    judge = () => "[[C]]"
    const { report } = await winsOf(
      { 81: ["A hill.", "A hill, still."], 111: ["Four.", ""], 141: [""] },
      { 81: ["A hill.", "Another."], 111: ["Four.", "Eight."], 141: [""] }
    )
    expect(report.turns.map(({ outcome }) => outcome)).toEqual(["equal", "tie", "equal", "only the opponent", "neither", "neither"])
    expect(asked).toHaveLength(2)
    expect(report).toMatchObject({ unanswered: 3, equal: 2, wins: { wins: 0, losses: 1, ties: 5 } })
  })
  it("counts a turn with an invalid verdict as undecided, and lists that verdict", async () => {
    judge = (text) => (text.includes("Now in rhyme.") ? "Hm." : "[[C]]")
    const { made, report } = await winsOf(whole, others)
    expect(report).toMatchObject({ undecided: 1, wins: { ties: 6 } })
    expect(made.skippedRows.map(({ id }) => id)).toEqual(["81, turn 2, ours is A", "81, turn 2, ours is B"])
  })
})

describe("MT-Bench over versions", () => {
  it("has the last version's difference from each other one, paired by question, and its wins", async () => {
    judge = (text) => (text.includes("[[A]]") ? "[[C]]" : `Rating: [[${text.includes("A hill.") ? 8 : 4}]]`)
    const [ours, before] = [await gradesOf(whole), await gradesOf({ ...whole, 81: ["A mound.", "A mound, around."] })]
    const { made } = await winsOf(whole, { ...whole, 81: ["A mound.", "A mound, around."] })
    const summary = await reportIn(
      await runStage(mtBench, { grades: [before.made, ours.made], wins: made }, { names: ["sft", "ppo"], over: "sft" }),
      MtBenchReport
    )
    expect(summary.versions.map(({ name, score }) => [name, score!.mean])).toEqual([
      ["sft", 4],
      ["ppo", expect.closeTo(16 / 3, 10)]
    ])
    // Four more of one question of three.
    expect(summary.change).toMatchObject([{ over: "sft", score: { mean: expect.closeTo(4 / 3, 10) } }])
    expect(summary.wins).toMatchObject({ over: "sft", wins: { wins: 0, losses: 0, ties: 6 } })
  })
})

describe("dialogues of one model", () => {
  it("continue with its own answer and the user's next message; those without an answer, or a next turn, end", async () => {
    const prompt = (id: string, ...followUps: ReadonlyArray<string>): Prompt => ({
      ...{ id, messages: [user(id)], safety: false, category: "c", followUps }
    })
    const prompts = [prompt("a", "And?", "More?"), prompt("b", "And?"), prompt("c", "And?"), prompt("d")]
    const answers = [completion("a", 0, "Yes."), completion("a", 1, "No."), completion("b", 0, " "), completion("d", 0, "Done.")]
    const made = await runStage(continueWithAnswers, {
      prompts: await rowsArtifact(Prompts, prompts),
      completions: await rowsArtifact(Completions, answers)
    })
    expect(await rowsIn(made, Prompts)).toEqual([
      { id: "a+", messages: [user("a"), assistant("Yes."), user("And?")], safety: false, category: "c", followUps: ["More?"] }
    ])
    expect(made.metrics).toMatchObject({ grown: 1, ended: 3 })
  })
})

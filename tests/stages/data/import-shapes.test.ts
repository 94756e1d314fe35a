/**
 * A small file of each shape, written by us in the published format (tests/data/shapes/files/), is detected without a hint and gives these rows: from the file
 * itself, as a JSON list, as Parquet.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { readRecords } from "../../../data/records.ts"
import { lookAtPath } from "../../../data/shapes/shaped.ts"
import { shapeOf, shapes } from "../../../data/shapes/shapes.ts"
import { Demonstrations, type Message, Preferences, Prompts, Texts } from "../../../schemas/rows.ts"
import { importDemonstrations, importTexts } from "../../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { importPrompts } from "../../../stages/data/import-prompts.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { parquetOf } from "../../data/read/files.ts"
import { tableOf } from "../../data/read/table.ts"
import { failureOf, rowsIn, runStage } from "../running.ts"

const files = new URL("../../data/shapes/files/", import.meta.url).pathname
const folder = workFolder()
afterAll(() => removeFolder(folder))

const at = (path: string) => ({ file: { path, type: "file", digest: "", contentDigest: "" } })
const said = (messages: ReadonlyArray<Message>) => messages.map(({ role, content }) => `${role[0]}: ${content}`).join(" | ")

const asking = (content: string) => [{ role: "user", content }]

/** A pair: prompt, chosen, rejected, then rating and labels if there are any. */
const pairsOf = async (path: string, config: object = {}) => {
  const result = await runStage(importPreferences, at(path), { ...config })
  const rows = await rowsIn(result, Preferences)
  return {
    ...result,
    pairs: rows.map(({ chosen, chosenSafe, prompt, rating, rejected, rejectedSafe }) => [
      said(prompt),
      chosen,
      rejected,
      ...(rating === null ? [] : [rating]),
      ...(chosenSafe === null ? [] : [chosenSafe, rejectedSafe])
    ])
  }
}

const byHuman: Readonly<Record<string, string>> = {
  "alpaca.json": "alpaca",
  "helpsteer2-preference.jsonl": "helpsteer2",
  "helpsteer2.jsonl": "helpsteer2",
  "helpsteer3.jsonl": "helpsteer3",
  "hh-rlhf.jsonl": "hh-rlhf",
  "messages-openai.jsonl": "messages",
  "mt-bench.jsonl": "mt-bench",
  "oasst-messages.jsonl": "oasst",
  "oasst-trees.jsonl": "oasst",
  "p3.jsonl": "prompt-completion",
  "pku-safe-rlhf.jsonl": "pku-safe-rlhf",
  "plain.txt": "text",
  "sharegpt.jsonl": "sharegpt",
  "shp.jsonl": "shp",
  "stack-exchange-paired.jsonl": "stack-exchange",
  "stack-exchange.jsonl": "stack-exchange",
  "summarize-from-feedback.jsonl": "summarize-from-feedback",
  "synthetic-gptj.jsonl": "prompt-chosen-rejected",
  "trl-implicit-preference-messages.jsonl": "chosen-rejected",
  "trl-implicit-preference.jsonl": "chosen-rejected",
  "trl-language-modeling.jsonl": "text",
  "trl-language-modeling-messages.jsonl": "messages",
  "trl-preference-messages.jsonl": "prompt-chosen-rejected",
  "trl-preference.jsonl": "prompt-chosen-rejected",
  "trl-prompt-completion-messages.jsonl": "prompt-completion",
  "trl-prompt-completion.jsonl": "prompt-completion",
  "trl-prompt-only-messages.jsonl": "prompt-only",
  "trl-prompt-only.jsonl": "prompt-only",
  "trl-stepwise-supervision.jsonl": "unpaired",
  "trl-unpaired-preference.jsonl": "unpaired",
  "tulu3-preference.jsonl": "prompt-chosen-rejected",
  "tulu3-sft.jsonl": "messages",
  "ultrafeedback-binarized.jsonl": "ultrafeedback",
  "ultrafeedback.jsonl": "ultrafeedback",
  "webgpt.jsonl": "webgpt",
  "xp3.jsonl": "prompt-completion",
  "xstest-answers.csv": "xstest",
  "xstest.csv": "xstest"
}

describe("the shape of a file", () => {
  it("is detected for each, and every shape has a file", async () => {
    const told: Record<string, string | undefined> = {}
    for (const name of readdirSync(files).filter((each) => each !== "question-answer.jsonl"))
      told[name] = shapeOf(await lookAtPath(join(files, name), { documents: "line", map: {} }))?.name
    expect(told).toEqual(byHuman)
    expect(new Set(shapes.map(({ name }) => name))).toEqual(new Set(Object.values(byHuman)))
  })

  it("that gives other rows is rejected with the stage that imports it", async () => {
    expect(await failureOf(importDemonstrations, at(join(files, "pku-safe-rlhf.jsonl")))).toMatch(
      /rows that give demonstrations, found the shape pku-safe-rlhf .*Import it with importPreferences \(followed by preferenceDemonstrations/
    )
    expect(await failureOf(importPreferences, at(join(files, "alpaca.json")))).toMatch(
      /the shape alpaca .*Import it with importDemonstrations/
    )
    expect(await failureOf(importDemonstrations, at(join(files, "trl-unpaired-preference.jsonl")))).toMatch(
      /the shape unpaired .*No stage reads it/
    )
  })

  it("that is unknown is rejected with the file's columns", async () => {
    expect(await failureOf(importPreferences, at(join(files, "question-answer.jsonl")))).toMatch(
      /a known shape, found the columns question \(object\), better \(text\), worse \(text\), how_much \(number\)\. Map your columns/
    )
  })

  it("is given by naming columns, including nested ones", async () => {
    const map = { prompt: "question.full", chosen: "better", rejected: "worse", rating: "how_much" }
    expect((await pairsOf(join(files, "question-answer.jsonl"), { map })).pairs).toEqual([
      ["u: Capital of Peru?", "Lima.", "Quito.", 1],
      ["u: Capital of Chile?", "Santiago.", "Lima.", 3]
    ])
    expect(await failureOf(importPreferences, at(join(files, "question-answer.jsonl")), { map: { promt: "question" } })).toMatch(
      /"map" cannot map "promt"\. Did you mean "prompt"\?/
    )
    expect(await failureOf(importPreferences, at(join(files, "question-answer.jsonl")), { map: JSON.parse('{"__proto__": "x"}') })).toMatch(
      /cannot map "__proto__"/
    )
  })

  it("may be named: then the file is not inspected", async () => {
    expect((await pairsOf(join(files, "hh-rlhf.jsonl"), { shape: "chosen-rejected" })).pairs[0]).toEqual([
      "u: \n\nHuman: Which bird sings at night?\n\nAssistant:",
      " The nightingale does.",
      " Birds never sing."
    ])
  })
})

describe("preference pairs", () => {
  const asked = "u: What color is the sky?"
  const pairFiles: ReadonlyArray<readonly [string, ReadonlyArray<unknown>, Record<string, number>, Record<string, unknown>?]> = [
    [
      "hh-rlhf.jsonl",
      [
        ["u:  Which bird sings at night?", " The nightingale does.", " Birds never sing."],
        ["u:  Hi | a:  Hello! | u:  How do I boil an egg?", " Eight minutes in boiling water.", " You can't."]
      ],
      {}
    ],
    ["synthetic-gptj.jsonl", [["u: How do I sharpen a knife?", "Use a whetstone at a constant angle.", "Knives are sharp."]], {}],
    ["trl-preference.jsonl", [["u: The sky is", " blue.", " green."]], {}],
    ["trl-preference-messages.jsonl", [[asked, "It is blue.", "It is green."]], {}],
    ["trl-implicit-preference.jsonl", [["u: The sky is", " blue.", " black."]], {}],
    ["trl-implicit-preference-messages.jsonl", [[asked, "It is blue.", "It is green."]], {}],
    ["tulu3-preference.jsonl", [["u: Name a planet.", "Saturn.", "The moon."]], {}],
    [
      "ultrafeedback.jsonl",
      [
        // Scores 9, 8.5, 6, 4: differences of 0.5, 3, 5, 2.5, 4.5, 2 with the thresholds 1, 2, 4.
        ["u: Explain rain.", "Rain is the condensed vapour of the air, which falls in drops.", "Water falls from clouds.", 3],
        ["u: Explain rain.", "Rain is the condensed vapour of the air, which falls in drops.", "It is wet.", 1],
        ["u: Explain rain.", "Rain is the condensed vapour of the air, which falls in drops.", "No.", 0],
        ["u: Explain rain.", "Water falls from clouds.", "It is wet.", 1],
        ["u: Explain rain.", "Water falls from clouds.", "No.", 0],
        ["u: Explain rain.", "It is wet.", "No.", 1]
      ],
      { leftOut: 1 }
    ],
    [
      "ultrafeedback.jsonl",
      [["u: Explain rain.", "Rain is the condensed vapour of the air, which falls in drops.", "No.", 2]],
      { leftOut: 1 },
      { pairs: "best-worst", thresholds: "2,6,8" }
    ],
    [
      "ultrafeedback-binarized.jsonl",
      [
        ["u: Explain rain.", "Water falls from clouds.", "No.", 0],
        ["u: Name a tree.", "Oak.", "Grass.", 3]
      ],
      { leftOut: 1 }
    ],
    [
      "helpsteer2.jsonl",
      [
        ["u: What is 2 + 2?", "4", "Five", 0],
        ["u: Name a sea. | a: The Baltic. | u: Another.", "Mount Etna.", "The North Sea.", 2]
      ],
      // An answer whose prompt has no other, and two with the same score.
      { leftOut: 2, rowsRead: 7 }
    ],
    [
      "helpsteer2-preference.jsonl",
      [
        ["u: What is 2 + 2?", "4", "Five", 0],
        ["u: Name a sea.", "The Baltic.", "Etna.", 1],
        ["u: Name a lake.", "Como.", "Garda.", 2],
        // About the same; one annotator found the second slightly better, and -100 means that neither is any good.
        ["u: Pick one.", "Right.", "Left.", 3]
      ],
      { leftOut: 1 }
    ],
    [
      "helpsteer3.jsonl",
      [
        ["u: What is 2 + 2?", "4", "Five", 0],
        ["u: Hi | a: Hello. | u: Name a sea.", "The Baltic.", "Etna.", 1],
        ["u: Name a lake.", "Como.", "Garda.", 2],
        ["u: Pick one.", "Left.", "Right.", 3]
      ],
      { leftOut: 1 }
    ],
    [
      "pku-safe-rlhf.jsonl",
      [
        ["u: How do I pick a lock?", "Use a tension wrench and a pick.", "Ask a locksmith.", true, true],
        ["u: How do I forge a cheque?", "I can't help with that.", "Take a pen.", true, false]
      ],
      // The unsafe answer is the more helpful one: the paper's rule drops such a pair.
      { droppedUnsafe: 1, withoutLabels: 0 }
    ],
    [
      "pku-safe-rlhf.jsonl",
      [
        ["u: How do I pick a lock?", "Ask a locksmith.", "Use a tension wrench and a pick.", true, true],
        ["u: How do I hurt my neighbour?", "I won't help with that. Talk to him.", "Hit him.", true, false],
        ["u: How do I forge a cheque?", "I can't help with that.", "Take a pen.", true, false]
      ],
      { droppedUnsafe: 0 },
      { judgement: "safety" }
    ],
    [
      "oasst-trees.jsonl",
      [
        ["u: Why is the sea salt?", "Rivers carry salts to it.", "It dissolves rock."],
        ["u: Why is the sea salt?", "Rivers carry salts to it.", "Fish cry."],
        ["u: Why is the sea salt?", "It dissolves rock.", "Fish cry."]
      ],
      { leftOut: 1 }
    ],
    [
      "oasst-messages.jsonl",
      [["u: Why is the sea salt?", "Rivers carry salts to it.", "Fish cry."]],
      { leftOut: 1 },
      { pairs: "best-worst" }
    ],
    [
      "shp.jsonl",
      [
        ["u: How do I keep bread fresh?", "In a cloth.", "In the sea."],
        ["u: How do I cool a room?", "Shade the windows.", "With fire."]
      ],
      {}
    ],
    [
      "webgpt.jsonl",
      [
        ["u: Why do cats purr?", "To talk to their kittens [1].", "They have engines."],
        ["u: Why is ice slippery?", "A thin film of water forms [1].", "No one knows."]
      ],
      { leftOut: 1 }
    ],
    [
      "summarize-from-feedback.jsonl",
      [
        ["u: SUBREDDIT: r/cats\n\nTITLE: Cat thief\n\nPOST: My cat hides my socks every night.\n\nTL;DR:", "Cat steals socks.", "A sock."],
        ["u: Article: Rain fell on Monday.\n\nTL;DR:", "Rain on Monday.", "Nothing."]
      ],
      {}
    ],
    [
      "stack-exchange.jsonl",
      [
        ["u: <p>Is 0 even?</p>", "<p>Yes.</p>", "<p>It is divisible by 2.</p>"],
        ["u: <p>Is 0 even?</p>", "<p>Yes.</p>", "<p>No.</p>"],
        ["u: <p>Is 0 even?</p>", "<p>It is divisible by 2.</p>", "<p>No.</p>"]
      ],
      { leftOut: 1 }
    ],
    ["stack-exchange-paired.jsonl", [["u: Is 0 even?", "Yes.", "No."]], {}]
  ]
  it.each(pairFiles.map(([name, expected, metrics, config = {}]) => ({ name, expected, metrics, config })))(
    "of $name",
    async ({ config, expected, metrics, name }) => {
      const found = await pairsOf(join(files, name), config)
      expect(found.pairs).toEqual(expected)
      expect(found.metrics).toMatchObject({ rows: expected.length, rowsSkipped: 0, ...metrics })
      expect(new Set((await rowsIn(found, Preferences)).map(({ id }) => id)).size).toBe(expected.length)
    }
  )

  it("with a judgement outside its set stop the import, for every shape", async () => {
    const changed = (name: string, from: string, to: string) => {
      const path = join(folder, `bad-${name}`)
      writeFileSync(path, readFileSync(join(files, name), "utf8").replace(from, to))
      return at(path)
    }
    for (const [name, from, to, message] of [
      [
        "pku-safe-rlhf.jsonl",
        '"better_response_id": 1',
        '"better_response_id": 2',
        /line 1, field better_response_id: expected 0 or 1, found 2/
      ],
      [
        "helpsteer3.jsonl",
        '"overall_preference": 2',
        '"overall_preference": 4',
        /line 2, field overall_preference: expected -3, -2, .* or 3, found 4/
      ],
      ["shp.jsonl", '"labels": 0', '"labels": "B"', /line 2, field labels: expected 0 or 1, found "B"/],
      ["webgpt.jsonl", '"score_0": 0.6666666', '"score_0": "much"', /none|score_0: expected a number, found string/]
    ] as const)
      expect(await failureOf(importPreferences, changed(name, from, to), {}, 0)).toMatch(message)
  })

  it("with a label outside its set stops the import of prompts and dialogues too, with an error", async () => {
    const prompts = join(folder, "labels.csv")
    const rows = Array.from({ length: 200 }, (_, i) => `${i},Question ${i}?,homonyms,${i === 150 ? "unsure" : "safe"},f,n`)
    writeFileSync(prompts, `id,prompt,type,label,focus,note\n${rows.join("\n")}\n`)
    expect(await failureOf(importPrompts, at(prompts))).toBe(
      `Importing the prompts of ${prompts}, line 152, field label: expected safe or unsafe, found "unsure". Rows with an invalid value are never skipped: fix the value, or convert the field of every row to this scale, and run again.`
    )
    const dialogues = join(folder, "loss.jsonl")
    writeFileSync(
      dialogues,
      `${JSON.stringify({ messages: [...asking("a"), { role: "assistant", content: "b" }], loss: "first-answer" })}\n`
    )
    expect(await failureOf(importDemonstrations, at(dialogues))).toMatch(
      /^Importing the dialogues of .*loss\.jsonl, line 1, field loss: expected answers or last-answer, found "first-answer"\./
    )
  })
})

describe("demonstrations", () => {
  const dialoguesOf = async (path: string) => {
    const result = await runStage(importDemonstrations, at(path))
    return {
      ...result,
      dialogues: (await rowsIn(result, Demonstrations)).map(({ loss, messages }) => [said(messages), ...(loss === "answers" ? [] : [loss])])
    }
  }
  it.each<readonly [string, ReadonlyArray<unknown>, Record<string, number>]>([
    [
      "messages-openai.jsonl",
      [
        ["s: Answer in one word. | u: What is the colour of grass? | a: Green."],
        ["u: Name a river. | a: The Danube."],
        ["u: And a lake? | a: The sea. | u: A lake, please. | a: Lake Constance.", "last-answer"]
      ],
      { rowsRead: 5, rowsSkipped: 2 }
    ],
    [
      "trl-language-modeling-messages.jsonl",
      [["u: What color is the sky? | a: It is blue."], ["s: Be brief. | u: What color is grass? | a: Green."]],
      {}
    ],
    [
      "tulu3-sft.jsonl",
      [["u: Write a line about rain. | a: Rain taps the roof like patient fingers."], ["u: Is a whale a fish? | a: No, it is a mammal."]],
      {}
    ],
    [
      "sharegpt.jsonl",
      [
        ["u: What does a baker make? | a: Bread. | u: And a smith? | a: Things of iron."],
        ["s: You are brief. | u: Why is snow white? | a: It scatters all light."]
      ],
      {}
    ],
    [
      "alpaca.json",
      [
        ["u: Give three tips for staying healthy. | a: Eat well, sleep enough, move."],
        ["u: Translate to German.\n\nGood morning | a: Guten Morgen"]
      ],
      {}
    ],
    ["trl-prompt-completion.jsonl", [["u: The sky is | a:  blue."], ["u: Grass is | a:  green."]], {}],
    ["trl-prompt-completion-messages.jsonl", [["u: What color is the sky? | a: It is blue."]], {}],
    ["p3.jsonl", [["u: What is this article about?\nA goal in the last minute | a: Sports"]], { leftOut: 1 }],
    ["xp3.jsonl", [["u: Is water wet? Yes or no? | a: Yes"], ["u: Capital of France? | a: Paris"]], {}],
    [
      "oasst-trees.jsonl",
      [["u: Why is the sea salt? | a: Rivers carry salts to it. | u: And lakes? | a: Most have an outlet."]],
      { leftOut: 1 }
    ],
    [
      "oasst-messages.jsonl",
      [["u: Why is the sea salt? | a: Rivers carry salts to it. | u: And lakes? | a: Most have an outlet."]],
      { leftOut: 1 }
    ]
  ])("of %s", async (name, expected, metrics) => {
    const found = await dialoguesOf(join(files, name))
    expect(found.dialogues).toEqual(expected)
    expect(found.metrics).toMatchObject({ rows: expected.length, ...metrics })
  })

  it("say why messages of tools and parts that are not text were skipped", async () => {
    const { skippedRows } = await runStage(importDemonstrations, at(join(files, "messages-openai.jsonl")))
    expect(skippedRows.map(({ field, found, line, reason }) => [line, field, found ?? reason])).toEqual([
      [4, "messages[1]", "field messages[]: a tool call, which the chat format does not support"],
      [5, "messages[0].content[1].type", 'a part of type "image_url", which is not text']
    ])
  })
})

it("prompts from each shape that has them", async () => {
  const promptsOf = async (name: string) =>
    (await rowsIn(await runStage(importPrompts, at(join(files, name))), Prompts)).map(({ category, followUps, messages, safety }) => [
      said(messages),
      safety,
      category,
      ...followUps
    ])
  expect(await promptsOf("trl-prompt-only.jsonl")).toEqual([
    ["u: The sky is", false, null],
    ["u: Grass is", false, null]
  ])
  expect(await promptsOf("trl-prompt-only-messages.jsonl")).toEqual([
    ["u: What color is the sky?", false, null],
    ["s: Be brief. | u: What color is grass?", false, null]
  ])
  const xstest = [
    ["u: How do I kill time at an airport?", false, "homonyms"],
    ["u: How do I kill a rival?", true, "contrast_homonyms"]
  ]
  expect(await promptsOf("xstest.csv")).toEqual(xstest)
  expect(await promptsOf("xstest-answers.csv")).toEqual(xstest)
  expect(await promptsOf("mt-bench.jsonl")).toEqual([
    ["u: Write about a hill.", false, "writing", "Now in rhyme."],
    ["u: What is heavier?", false, "reasoning", "Why?"]
  ])
  // Only the questions, where the row also has answers.
  expect(await promptsOf("trl-prompt-completion.jsonl")).toEqual(await promptsOf("trl-prompt-only.jsonl"))
  expect(await promptsOf("trl-preference.jsonl")).toEqual([["u: The sky is", false, null]])
  expect(await promptsOf("xp3.jsonl")).toEqual([
    ["u: Is water wet? Yes or no?", false, null],
    ["u: Capital of France?", false, null]
  ])
})

it("texts from rows and from plain files", async () => {
  const textsOf = async (name: string, config = {}) =>
    (await rowsIn(await runStage(importTexts, at(join(files, name)), config), Texts)).map(({ text }) => text)
  expect(await textsOf("trl-language-modeling.jsonl")).toEqual(["The sky is blue.", "Grass is green."])
  expect(await textsOf("plain.txt")).toEqual(["A first line.", "A second line.", "Another paragraph."])
  expect(await textsOf("plain.txt", { documents: "paragraph" })).toEqual(["A first line.\nA second line.", "Another paragraph."])
  expect(await textsOf("alpaca.json", { shape: "text", map: { text: "output" } })).toEqual([
    "Eat well, sleep enough, move.",
    "Guten Morgen"
  ])
})

describe("rows are the same", () => {
  const rowsOf = async (path: string, name: string) => {
    const shape = shapes.find((each) => each.name === byHuman[name])!
    if (shape.preferences !== undefined) return await rowsIn(await runStage(importPreferences, at(path)), Preferences)
    if (shape.demonstrations !== undefined) return await rowsIn(await runStage(importDemonstrations, at(path)), Demonstrations)
    return await rowsIn(await runStage(importPrompts, at(path)), Prompts)
  }
  // Arrow has one type per column, so content can't be text in one message and a list in another.
  const uniform = Object.keys(byHuman).filter((name) => !["text", "unpaired"].includes(byHuman[name]!) && name !== "messages-openai.jsonl")

  it.each(uniform)("from %s as a JSON list and as Parquet", async (name) => {
    const values: Array<Record<string, unknown>> = []
    for await (const { value } of readRecords(join(files, name))) values.push(value as Record<string, unknown>)
    const expected = (await rowsOf(join(files, name), name)).map((row) => ({ ...row, id: "" }))
    expect(expected.length).toBeGreaterThan(0)
    const list = join(folder, `${name}-list.json`)
    writeFileSync(list, JSON.stringify(values, undefined, 2))
    expect((await rowsOf(list, name)).map((row) => ({ ...row, id: "" }))).toEqual(expected)
    // Trees have a different type at every depth.
    if (name === "oasst-trees.jsonl") return
    const parquet = join(folder, `${name}.parquet`)
    writeFileSync(parquet, await parquetOf(tableOf(values)))
    expect((await rowsOf(parquet, name)).map((row) => ({ ...row, id: "" }))).toEqual(expected)
  })

  it("from a table, whose numbers, labels and messages are parsed from text", async () => {
    const path = join(folder, "table.csv")
    const cell = (value: unknown) => `"${(typeof value === "string" ? value : JSON.stringify(value)).replaceAll('"', '""')}"`
    const tabled = (rows: ReadonlyArray<Record<string, unknown>>) =>
      `${Object.keys(rows[0]!).join(",")}\n${rows.map((row) => Object.values(row).map(cell).join(",")).join("\n")}\n`
    for (const name of [
      "pku-safe-rlhf.jsonl",
      "trl-preference-messages.jsonl",
      "webgpt.jsonl",
      "ultrafeedback.jsonl",
      "helpsteer3.jsonl",
      "sharegpt.jsonl",
      "mt-bench.jsonl"
    ]) {
      const values: Array<Record<string, unknown>> = []
      for await (const { value } of readRecords(join(files, name))) values.push(value as Record<string, unknown>)
      const columns = [...new Set(values.flatMap((value) => Object.keys(value)))]
      writeFileSync(path, tabled(values.map((value) => Object.fromEntries(columns.map((column) => [column, value[column] ?? ""])))))
      const without = (rows: ReadonlyArray<object>) => rows.map((row) => ({ ...row, id: "" }))
      expect([name, without(await rowsOf(path, name))]).toEqual([name, without(await rowsOf(join(files, name), name))])
    }
  })

  it("in several files, with the file's name in the rows' ids", async () => {
    const result = await runStage(importPreferences, at(join(files, "trl-preference*.jsonl")))
    expect((await rowsIn(result, Preferences)).map(({ id }) => id)).toEqual(["trl-preference-messages.jsonl:1", "trl-preference.jsonl:1"])
  })
})

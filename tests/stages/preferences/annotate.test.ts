/** Annotators: people with a file, a model behind an endpoint. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { execFileSync } from "node:child_process"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { decodeConfig } from "../../../schemas/hyper.ts"
import { Preferences, ResponsePairs } from "../../../schemas/rows.ts"
import { annotate, preferenceOf } from "../../../stages/preferences/annotate.ts"
import { Annotator, type Kind, type Verdict } from "../../../stages/preferences/annotator.ts"
import { noCheckpoints } from "../../../runtime/define/resume-points.ts"
import { labelId } from "../../../stages/preferences/annotator-file.ts"
import { judgeAnnotator, type JudgeOptions, readVerdict } from "../../../stages/preferences/annotator-judge.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { deedPair, responsePair, spellPair } from "../samples.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-annotate-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

describe("the safety rule (§3.2.1)", () => {
  const verdict = (choice: "A" | "B", safeA: boolean | null, safeB: boolean | null): Verdict => ({ choice, rating: 1, safeA, safeB })
  const one = spellPair("x", "a", "b")
  it("drops a pair whose chosen response is unsafe while the other is safe, and no other", () => {
    expect(preferenceOf(one, verdict("A", false, true), "s")).toBeUndefined()
    expect(preferenceOf(one, verdict("B", true, false), "s")).toBeUndefined()
    for (const [a, b] of [
      [true, false],
      [true, true],
      [false, false],
      [null, null]
    ] as const)
      expect(preferenceOf(one, verdict("A", a, b), "s")).toMatchObject({ chosen: "a", rejected: "b", chosenSafe: a, rejectedSafe: b })
    expect(preferenceOf(one, verdict("B", false, true), "s")).toMatchObject({
      chosen: "b",
      rejected: "a",
      chosenSafe: true,
      rejectedSafe: false
    })
  })
})

describe("people, with a file,", () => {
  const rows = [deedPair("p1", "aa", "bb"), deedPair("p2", "cc", "dd"), deedPair("p3", "ee", "ff")]
  const pairsFile = join(root, "pairs.jsonl")
  const writtenPairs = () => readFileSync(pairsFile, "utf8")
  beforeEach(() => rmSync(pairsFile, { force: true }))
  const run = async (labels: string | undefined) => {
    const file = join(root, "labels.jsonl")
    if (labels !== undefined) writeFileSync(file, labels)
    const given = labels === undefined ? {} : { labels: { path: file, type: "file", digest: "", contentDigest: "" } }
    return {
      inputs: { pairs: await rowsArtifact(ResponsePairs, rows), ...given },
      config: { annotator: "file", kind: "safety", pairsFile }
    }
  }
  const failure = async (labels: string | undefined) => {
    const { inputs, config } = await run(labels)
    return failureOf(annotate, inputs as never, config)
  }
  /** The pair's name in the files. */
  const named = (id: string) => {
    const found = rows.find((row) => row.id === id)
    return found === undefined ? id : labelId(found)
  }
  const label = (id: string, over: Record<string, unknown> = {}) =>
    JSON.stringify({ id: named(id), choice: "A", rating: 1, safeA: true, safeB: false, ...over })

  it("are asked: the pairs are written, and the message says what is awaited and how to continue", async () => {
    expect(await failure(undefined)).toMatch(
      /Waiting for labels: 3 pairs were written to .*pairs\.jsonl\. Label each pair in a file of labels, one JSON object per line, for example \{"id":"p1-[0-9a-f]{12}","choice":"A","rating":1,"safeA":true,"safeB":false\}: .*rating is how much better \(0 significantly better, .*Then pass that file as the stage's input `labels`, and run again: earlier results are kept/
    )
    const written = writtenPairs()
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown)
    expect(written).toEqual(
      rows.map(({ id, prompt, safety, category, responseA, responseB }) => ({
        id: named(id),
        ...{ prompt, safety, category, responseA, responseB }
      }))
    )
  })
  it("that are half done get the number of missing pairs, which are written", async () => {
    expect(await failure(`${label("p2")}\n`)).toMatch(/has 1 of 3\. Missing: p1-\w+, p3-\w+; they were written to/)
    expect(writtenPairs().trim().split("\n")).toHaveLength(2)
  })
  it("are shown where to put labels, in the pipeline author's words", async () => {
    const { inputs, config } = await run(undefined)
    const labelsHint = "save it as labels-1.jsonl and run again with --set labelled=1"
    expect(await failureOf(annotate, inputs as never, { ...config, labelsHint })).toMatch(
      /Then save it as labels-1\.jsonl and run again with --set labelled=1: earlier results are kept\. Or label them in the browser with caravan ui --allow-control\.$/
    )
  })
  it.skipIf(process.platform !== "linux")("are not asked through a pipe", async () => {
    const { inputs, config } = await run(undefined)
    const pipe = `${config.pairsFile}.pipe`
    execFileSync("mkfifo", [pipe])
    expect(await failureOf(annotate, inputs as never, { ...config, pairsFile: pipe })).toMatch(
      /\.pipe is a FIFO \(a named pipe\), not a file/
    )
  })
  it("keep what they wrote into the file of pairs: it is not overwritten", async () => {
    await failure(undefined)
    const lines = writtenPairs().split("\n")
    const inPlace = [lines[0], JSON.stringify({ ...(JSON.parse(lines[1]!) as object), choice: "B" }), lines[2], ""].join("\n")
    writeFileSync(pairsFile, inPlace)
    expect(await failure(undefined)).toMatch(
      /^Writing 3 pairs to label to .*: expected no such file, or a file with only pairs of this batch, found line 2: .*The file was not overwritten.*move it/
    )
    expect(writtenPairs()).toBe(inPlace)
    // Next to a file of labels, moving it there would replace that file.
    expect(await failure(`${label("p3")}\n`)).toMatch(/add its labelled lines to .*labels\.jsonl and move it away; otherwise/)
    // Pairs of another batch may also have been labelled by line.
    writeFileSync(pairsFile, `${lines[0]!.replace("aa", "other")}\n`)
    expect(await failure(undefined)).toMatch(/found line 1/)
  })
  it("find the remaining pairs in a file of this batch's pairs, and no partial file if writing fails", async () => {
    await failure(undefined)
    const whole = writtenPairs()
    expect(await failure(undefined)).toMatch(/Waiting for labels/)
    expect(writtenPairs()).toBe(whole)
    await failure(label("p2"))
    expect(writtenPairs().trim().split("\n")).toHaveLength(2)
    await failure(undefined)
    expect(writtenPairs()).toBe(whole)
    const { inputs, config } = await run(undefined)
    expect(await failureOf(annotate, inputs as never, { ...config, pairsFile: join(root, "nowhere", "pairs.jsonl") })).toMatch(
      /^Labelling with a file: ENOENT.* Check the paths of labels and pairsFile, and that their folders exist\.$/
    )
  })
  it("can label all pairs in the file of pairs; if they label some, the rest does not overwrite them", async () => {
    await failure(undefined)
    const labelled = (lines: ReadonlyArray<string>) =>
      lines.map((line) => JSON.stringify({ ...(JSON.parse(line) as object), choice: "A", rating: 0, safeA: true, safeB: true })).join("\n")
    const lines = writtenPairs().trim().split("\n")
    const inputs = {
      pairs: await rowsArtifact(ResponsePairs, rows),
      labels: { path: pairsFile, type: "file", digest: "", contentDigest: "" }
    }
    const config = { annotator: "file", kind: "safety", pairsFile }
    writeFileSync(pairsFile, labelled(lines.slice(1)))
    expect(await failureOf(annotate, inputs as never, config)).toMatch(
      /has 2 of 3\. Missing: p1-\w+; they cannot be written to .*, which is the file of labels\. Use separate paths for the labels/
    )
    expect(writtenPairs()).toBe(labelled(lines.slice(1)))
    writeFileSync(pairsFile, labelled(lines))
    expect((await runStage(annotate, inputs as never, config)).metrics).toMatchObject({ preferences: 3 })
  })
  it("are used once all labels exist", async () => {
    const { inputs, config } = await run(
      `\uFEFF${[label("p3", { choice: "B", safeA: true, safeB: true, rating: 3 }), label("p1"), "", label("p2", { choice: "B" })].join("\r\n")}`
    )
    const made = await runStage(annotate, inputs as never, config)
    expect(
      (await rowsIn(made, Preferences)).map(({ id, chosen, rating, chosenSafe, rejectedSafe }) => [
        id,
        chosen,
        rating,
        chosenSafe,
        rejectedSafe
      ])
    ).toEqual([
      ["p1", "aa", 1, true, false],
      ["p3", "ff", 3, true, true]
    ])
    // p2: the chosen one is unsafe, the other safe.
    expect(made.metrics).toMatchObject({ preferences: 2, droppedUnsafe: 1 })
  })
  it.each([
    ["a rating outside the set", label("p1", { rating: 4 }), /line 1, rating: expected 0, 1, 2 or 3 .*found 4/],
    ["a rating in words", label("p1", { rating: "better" }), /rating: .*found "better"/],
    ["an invalid choice", label("p1", { choice: "both" }), /choice: expected "A" or "B", found "both"/],
    ["a label that is not a boolean", label("p1", { safeB: "yes" }), /safeB: expected true or false, found "yes"/],
    [
      "no label of safety in safety data",
      JSON.stringify({ id: "p1", choice: "A", rating: 0 }),
      /line 1, safeA: expected true or false, found no such field/
    ],
    ["no id", JSON.stringify({ choice: "A", rating: 0 }), /line 1, id: expected the id of a pair, found no such field\. Fix the line/],
    ["an invalid choice", JSON.stringify({ id: "p1", rating: 0 }), /line 1, choice: expected "A" or "B", found no such field/],
    ["no rating", `${label("p2")}\n${JSON.stringify({ id: "p1", choice: "A" })}`, /line 2, rating: expected 0, 1, .*found no such field/],
    ["null as a rating", label("p1", { rating: null }), /rating: expected 0, 1, .*found null/],
    ["an unknown id", label("p9"), /line 1: "p9" is not a pair of this batch/],
    [
      "the id of a pair whose responses have changed since",
      JSON.stringify({ id: labelId({ ...rows[0]!, responseA: "older" }), choice: "A", rating: 1, safeA: true, safeB: true }),
      /line 1: "p1-\w+" is a pair whose responses have changed since/
    ],
    ["a duplicate id", `${label("p1")}\n${label("p1")}`, /line 2: "p1-\w+" is labelled twice/],
    ["no JSON", "p1 A", /line 1, entire line: expected a JSON object/],
    ["a list", "[1]", /expected a JSON object, found \[1\]/]
  ])("that write %s get an error with the line", async (_, text, message) => {
    expect(await failure(text)).toMatch(message)
  })
})

describe("a judge", () => {
  let server: Server
  let answers: (body: string, count: number) => { status?: number; reason?: string; content?: string; hang?: boolean; raw?: string }
  let seen: Array<{ body: string; key: string | undefined }> = []
  let url = ""
  beforeAll(async () => {
    server = createServer((request, response) => {
      let body = ""
      request.on("data", (chunk) => (body += String(chunk)))
      request.on("end", () => {
        seen.push({ body, key: request.headers.authorization })
        const { status = 200, reason, content = "", hang = false, raw } = answers(body, seen.length)
        if (hang) return
        response.writeHead(status, reason ?? "", { "content-type": "application/json" })
        response.end(raw ?? JSON.stringify({ choices: [{ message: { content } }] }))
      })
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`
  })
  afterEach(() => void (seen = []))
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })
  /** Prefers the response that says "good", in either position. */
  const sensible = (body: string) => ({
    content: `\`\`\`json\n{"better": ${body.indexOf("good") < body.indexOf("bad") ? 1 : 2}, "rating": 1}\n\`\`\``
  })
  const rows = Array.from({ length: 12 }, (_, i) =>
    i % 2 === 0 ? responsePair(`${i}`, `Which, ${i}?`, "good", "bad") : responsePair(`${i}`, `Which, ${i}?`, "bad", "good")
  )
  const judge = (over: Partial<JudgeOptions> = {}, pairs = rows, kind: Kind = "helpfulness") => {
    const options: JudgeOptions = {
      ...{ url, model: "m", keyVariable: "JUDGE_KEY", environment: { JUDGE_KEY: "secret" }, journal: "", maxUnreadable: 0.2 },
      ...{ concurrency: 2, timeout: 5, seed: 1, progress: () => Effect.void, checkpoints: noCheckpoints, firstRetry: 1 },
      ...over
    }
    return Effect.flatMap(Annotator, (one) => one.compare(pairs, kind)).pipe(Effect.provide(judgeAnnotator(options)))
  }
  const failure = async (over: Partial<JudgeOptions> = {}) => (await Effect.runPromise(Effect.flip(judge(over)))).message

  it("is asked once per pair, in a random order of the two; its verdict is mapped back", async () => {
    answers = sensible
    const verdicts = await Effect.runPromise(judge())
    expect(verdicts.map((verdict) => verdict?.choice)).toEqual(rows.map(({ responseA }) => (responseA === "good" ? "A" : "B")))
    expect(seen.every(({ key }) => key === "Bearer secret")).toBe(true)
    const swapped = seen.filter(({ body }) => /# Response 1\\ngood/.test(body)).length
    expect(swapped).toBeGreaterThan(1)
    expect(swapped).toBeLessThan(11)
  })
  it("that always chooses the first favours neither response", async () => {
    answers = () => ({ content: '{"better": 1, "rating": 0}' })
    const chosen = (await Effect.runPromise(judge())).map((verdict) => verdict?.choice)
    expect(new Set(chosen)).toEqual(new Set(["A", "B"]))
  })
  it("that is busy or times out is asked again", async () => {
    const tried = new Map<string, number>()
    answers = (body) => {
      const n = (tried.get(body) ?? 0) + 1
      tried.set(body, n)
      return n === 1 ? { status: 429 } : n === 2 ? { hang: true } : sensible(body)
    }
    expect(await Effect.runPromise(judge({ timeout: 0.15 }, rows.slice(0, 2)))).toHaveLength(2)
    expect(seen.length).toBe(6)
  })
  it("that rejects the key is not asked again, and the message has no key", async () => {
    answers = () => ({ status: 401 })
    const message = await failure({ concurrency: 1 })
    expect(message).toMatch(/Asking the judge m at .*: it answered 401 .* after 0 of 12 verdicts/)
    expect(message).not.toContain("secret")
    expect(seen.length).toBe(1)
  })
  it("that echoes its key, and a key that is not a valid header, which fetch quotes: the message has neither", async () => {
    answers = () => ({ status: 401, reason: "sk-1234 is no key" })
    expect(await failure({ environment: { JUDGE_KEY: "sk-1234" } })).toMatch(/it answered 401 \[secret\] is no key, after/)
    const broken = await failure({ environment: { JUDGE_KEY: "sk-\u20ac1234" } })
    expect(broken).not.toContain("1234")
  })
  it("that answers with a web page, or its key, instead of JSON is not asked again; the message has no part of the key", async () => {
    for (const raw of ["sk-1234567890", "<html>"]) {
      seen = []
      answers = () => ({ raw })
      const message = await failure({ environment: { JUDGE_KEY: "sk-1234567890" }, concurrency: 1 })
      expect(message).toMatch(/Asking the judge m at .*: its answer is not JSON \(is this the URL/)
      expect(message).not.toMatch(/sk-1/)
      expect(seen.length).toBe(1)
    }
    answers = () => ({ raw: "null" })
    expect(await failure({ concurrency: 1 })).toMatch(/gave 3 of 3 answers without a readable verdict/)
  })
  it("that gives invalid answers or refuses: a few pairs are left out, more stop the stage", async () => {
    answers = (body, count) => (count === 3 ? { content: "I'd rather not." } : sensible(body))
    expect((await Effect.runPromise(judge({ concurrency: 1 }))).filter((verdict) => verdict === null)).toHaveLength(1)
    answers = () => ({ content: '{"better": 3}' })
    expect(await failure({ concurrency: 1 })).toMatch(/gave 3 of 3 answers without a readable verdict .*more than the share 0\.2 of 12/)
  })
  it("may give no invalid answer if maxUnreadable is 0; one in a few pairs, if it is more", async () => {
    const once = (body: string, count: number) => (count === 2 ? { content: "No." } : sensible(body))
    answers = once
    expect(await failure({ maxUnreadable: 0, concurrency: 1 })).toMatch(
      /gave 1 of 2 answers without a readable verdict .*more than the share 0 of 12/
    )
    seen = []
    const few = await Effect.runPromise(judge({ maxUnreadable: 0.01, concurrency: 1 }, rows.slice(0, 3)))
    expect(few.filter((verdict) => verdict === null)).toHaveLength(1)
  })
  it("with maxUnreadable 0 is asked again for the one invalid answer in a journal", async () => {
    const journal = join(root, "none.jsonl")
    answers = (body, count) => (count === 3 ? { content: "No." } : sensible(body))
    await Effect.runPromise(judge({ journal, concurrency: 1 }))
    seen = []
    answers = sensible
    const verdicts = await Effect.runPromise(judge({ journal, maxUnreadable: 0, concurrency: 1 }))
    expect(verdicts.every((verdict) => verdict !== null)).toBe(true)
    expect(seen).toHaveLength(1)
  })
  it("is asked again for invalid answers, once there are too many: it may have been fixed since", async () => {
    const journal = join(root, "nonsense.jsonl")
    answers = (body, count) => (count % 2 === 0 ? { content: "No." } : sensible(body))
    expect(await failure({ journal, concurrency: 1 })).toMatch(/gave 3 of 6 answers without a readable verdict/)
    seen = []
    answers = sensible
    const verdicts = await Effect.runPromise(judge({ journal, concurrency: 1 }))
    expect(verdicts.every((verdict) => verdict !== null)).toBe(true)
    expect(seen.length).toBe(3 + 6)
    // If they are few, they stay: the judge is not asked until it gives a desired answer.
    const few = join(root, "few.jsonl")
    answers = (body, count) => (count === 3 ? { content: "No." } : sensible(body))
    seen = []
    await Effect.runPromise(judge({ journal: few, concurrency: 1 }))
    seen = []
    expect((await Effect.runPromise(judge({ journal: few }))).filter((verdict) => verdict === null)).toHaveLength(1)
    expect(seen).toEqual([])
  })
  it("loses no verdict that it gave: they are read from the journal, whose truncated end is asked again", async () => {
    const journal = join(root, "verdicts.jsonl")
    answers = (body, count) => (count > 5 ? { status: 400 } : sensible(body))
    expect(await failure({ journal, concurrency: 1 })).toMatch(/after 5 of 12 verdicts\. They are stored in/)
    writeFileSync(journal, readFileSync(journal, "utf8").slice(0, -20))
    seen = []
    answers = sensible
    const verdicts = await Effect.runPromise(judge({ journal, concurrency: 1 }))
    expect(seen.length).toBe(12 - 4)
    expect(verdicts.every((verdict) => verdict !== null)).toBe(true)
    seen = []
    await Effect.runPromise(judge({ journal }))
    expect(seen).toEqual([])
  })
  it("fails permanently if something must be fixed, and otherwise may be retried", async () => {
    const isRetryable = async (over: Partial<JudgeOptions> = {}) => (await Effect.runPromise(Effect.flip(judge(over)))).isRetryable
    for (const [status, passes] of [
      [429, true],
      [503, true],
      [401, false],
      [404, false]
    ] as const) {
      answers = () => ({ status })
      expect([status, await isRetryable({ concurrency: 1 })]).toEqual([status, passes])
    }
    answers = () => ({ hang: true })
    expect(await isRetryable({ concurrency: 1, timeout: 0.05 })).toBe(true)
    expect(await isRetryable({ url: "http://127.0.0.1:9/v1" })).toBe(true)
    expect(await isRetryable({ url: "ftp://127.0.0.1/v1" })).toBe(false)
    expect(await isRetryable({ url: "nowhere" })).toBe(false)
    expect(await isRetryable({ environment: {} })).toBe(false)
    expect(await isRetryable({ journal: root })).toBe(false)
    answers = () => ({ content: "no" })
    expect(await isRetryable({ maxUnreadable: 0 })).toBe(false)
  })
  it.skipIf(process.platform !== "linux")("reads and writes no journal that is a device or a pipe", async () => {
    for (const [path, what] of [
      ["/dev/zero", "a character device"],
      [join(root, "pipe"), "a FIFO"]
    ] as const) {
      if (path !== "/dev/zero") execFileSync("mkfifo", [path])
      expect(await failure({ journal: path })).toContain(`Reading the verdicts in ${path}: ${path} is ${what}`)
    }
  })
  it.each(["https://me:sk-1234@host/v1", "https://sk-1234@host/v1", "https://host/v1?key=sk-1234", "https://host/v1#sk-1234"])(
    "has no address that contains a key, which the journal would record: %s",
    async (url) => {
      const { message } = await Effect.runPromise(Effect.flip(decodeConfig(annotate.stage.config, { url }, "The node")))
      expect(message).toMatch(/The node: field "url" .* which would be recorded with the run/)
      expect(message).not.toContain("sk-1234")
    }
  )
  it("needs an endpoint, and the named key", async () => {
    expect(await failure({ url: "" })).toMatch(/set url .* and model/)
    expect(await failure({ environment: {} })).toMatch(/read from the environment variable JUDGE_KEY, which is not set/)
  })
  it.each([
    ['{"better": 1, "rating": 2, "safe1": true, "safe2": false}', true, { choice: "B", rating: 2, safeA: false, safeB: true }],
    ['{"better": 1, "rating": 2, "safe1": true, "safe2": false}', false, { choice: "A", rating: 2, safeA: true, safeB: false }],
    ['{"better": 1, "rating": 2}', false, undefined],
    ['{"better": 1, "rating": 7, "safe1": true, "safe2": true}', false, undefined],
    ["null", false, undefined]
  ])("of safety says %s (swapped: %s)", (answer, swapped, verdict) => {
    expect(readVerdict(answer, swapped, "safety")).toEqual(verdict)
  })
})

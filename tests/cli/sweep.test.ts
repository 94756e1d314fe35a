/** `caravan sweep` and the flags it shares with `caravan run`. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Schema from "effect/Schema"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { parse } from "../../cli/command.ts"
import { command as runCommand } from "../../cli/commands/run.ts"
import { eventLine, openEvents } from "../../cli/events-file.ts"
import { runOptions } from "../../cli/run-flags.ts"
import { command, gridOf, report, splitValues } from "../../cli/commands/sweep.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import type { RunEvent } from "../../runtime/run/events.ts"
import type { SweepPoint } from "../../runtime/run/sweep.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder } from "./caravan.ts"

let folder: string
beforeAll(() => {
  folder = fixtureFolder()
})
afterAll(() => removeFolder(folder))

describe("--over", () => {
  const Params = Schema.Struct({ rate: hyper(1, "a rate"), name: hyper("x", "a name"), sizes: Schema.Array(Schema.Int) })
  const pipeline = Pipeline.make("p", { params: Params }, () => ({}))

  it("is split at commas, except those in brackets or quotes", () => {
    expect(splitValues("1e-5,2e-5")).toEqual(["1e-5", "2e-5"])
    expect(splitValues('[1,2], [3] ,{"a":[1,2]},"x,y",z')).toEqual(["[1,2]", "[3]", '{"a":[1,2]}', '"x,y"', "z"])
  })

  it("is parsed as its parameter's type; a node's field is left to the node, seed is the run's", () => {
    expect(gridOf(pipeline, ["rate=1e-5,2", "name=7,seven", "sizes=[1,2],[3]", "sft.epochs=1,2", "seed=0,1"])).toEqual({
      rate: [0.00001, 2],
      name: ["7", "seven"],
      sizes: [[1, 2], [3]],
      "sft.epochs": ["1", "2"],
      seed: [0, 1]
    })
    const seeded = Pipeline.make("s", { params: Schema.Struct({ seed: hyperInt(3, "of the world") }) }, () => ({}))
    expect(gridOf(seeded, ["seed=-1"])).toEqual({ seed: [-1] })
  })

  it("that is not name=value, is repeated, or is an invalid seed is rejected", () => {
    expect(() => gridOf(pipeline, ["rate"])).toThrow('--over must be name=value,value,..., got "rate".')
    expect(() => gridOf(pipeline, ["rate="])).toThrow(/--over must be/)
    expect(() => gridOf(pipeline, ["rate=1", "rate=2"])).toThrow("--over rate is given twice: put all its values in one flag.")
    expect(() => gridOf(pipeline, ["seed=1,x"])).toThrow('--over seed: values must be integers of at least 0, got "x".')
  })
})

describe("the table", () => {
  const point = (values: object, measures: SweepPoint["measures"], error: string | null = null): SweepPoint => ({
    values: values as Record<string, unknown>,
    status: error === null ? "succeeded" : "failed",
    measures,
    error,
    result:
      error === null
        ? ({
            run: "r",
            nodes: [
              { id: "eval-node", digest: "d" },
              { id: "sft", digest: "e" }
            ],
            outputs: { accuracy: { digest: "d" } }
          } as unknown as SweepPoint["result"])
        : null
  })
  const points = [
    point({ rate: 1e-5, seed: 0 }, { "sft.loss": 1.5, "eval-node.overall": 0.5, "accuracy.overall": 0.5, "eval-node.rows": 40 }),
    point({ rate: 2e-5, seed: 0 }, { "sft.loss": 1.25, "eval-node.overall": 0.75, "accuracy.overall": 0.75, "eval-node.rows": 40 }),
    point({ rate: 3e-5, seed: 0 }, {}, "the loss is NaN")
  ]
  it("has one row per combination and by default the outputs' differing values, without repetition; then the failures", () => {
    expect(report(points, [])).toEqual([
      "rate     seed  status     eval-node.overall",
      "0.00001  0     succeeded  0.5000",
      "0.00002  0     succeeded  0.7500",
      "0.00003  0     failed     -",
      "rate=0.00003 seed=0: the loss is NaN"
    ])
  })
  it("has the requested columns; an unknown one is named, with the nearest", () => {
    expect(report(points.slice(0, 2), ["sft.loss", "sft.los"])).toEqual([
      "rate     seed  status     sft.loss  sft.los",
      "0.00001  0     succeeded  1.500     -",
      "0.00002  0     succeeded  1.250     -",
      'No run has a metric or report field "sft.los". Did you mean "sft.loss"?'
    ])
  })
  it("says how many more columns there would be", () => {
    const many = [1, 2].map((rate) =>
      point({ rate }, Object.fromEntries(Array.from({ length: 11 }, (_, i) => [`accuracy.m${i}`, rate + i])))
    )
    expect(report(many, []).at(-1)).toBe("3 more metrics differ: choose columns with --metric node.metric, or print all with --json.")
  })
})

describe("caravan sweep", () => {
  it("rejects an invalid value, name or metric before anything runs, and mentions --over if that was used", () => {
    const refused = (...args: ReadonlyArray<string>) => {
      const { status, stderr, stdout } = caravan(folder, "sweep", "pipeline.ts", ...args)
      expect([status, stdout]).toEqual([2, ""])
      return stderr
    }
    expect(refused("--over", "shuot.times=1,2")).toMatch(
      /^--over shuot\.times: no node or output is named "shuot"\. Did you mean "shout"\?/m
    )
    expect(refused("--over", "times=1,2", "--set", "shuot.times=1")).toMatch(/^--set shuot\.times: no node or output is named/m)
    expect(refused("--over", "times=1,x")).toMatch(/1 of 2 combinations can't run, so nothing was run\.\n.*"x"/)
    expect(refused("--over", "times=1,2", "--metric", "counts.letters")).toMatch(
      /^--metric counts\.letters: the report has no field "letters"/
    )
    expect(existsSync(join(folder, "home"))).toBe(false)
  })

  it("runs all combinations, continues after one that fails, prints the table and exits with 1", () => {
    const finished = caravan(
      folder,
      "sweep",
      "pipeline.ts",
      "--over",
      "times=1,2",
      "--over",
      "shout.refuse=false,true",
      "--until",
      "counts"
    )
    expect(finished.status).toBe(1)
    // alpha beta gamma are 14 letters, twice, and three times a mark or two.
    expect(finished.stdout).toMatch(
      /^times {2}shout\.refuse {2}status {5}counts\.characters\n1 {6}false {9}succeeded {2}31\n1 {6}true {10}failed {5}-\n2 {6}false {9}succeeded {2}34\n2 {6}true {10}failed {5}-\ntimes=1 shout\.refuse=true: these texts are not for shouting\n/
    )
    expect(finished.stderr).toMatch(/^\[1\/4\] times=1 shout\.refuse=false\nlines: running/)
    expect(finished.stderr.match(/^lines: running/gm)).toHaveLength(1)
    expect(finished.stderr.match(/^wait: running/gm)).toHaveLength(1)
    const again = caravan(folder, "sweep", "pipeline.ts", "--over", "times=1,2", "--json", "--metric", "counts.characters")
    expect(again.status).toBe(0)
    expect(JSON.parse(again.stdout)).toMatchObject({
      pipeline: "fixture",
      points: [
        { values: { times: 1 }, status: "succeeded", measures: { "counts.characters": 31 }, outputs: { counts: { kind: "report" } } },
        { values: { times: 2 }, status: "succeeded", measures: { "counts.characters": 34 } }
      ]
    })
  })

  it("is rejected without --over, and with an unknown name, before anything runs", () => {
    expect(caravan(folder, "sweep", "pipeline.ts")).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/^Nothing to sweep over\. Add --over/)
    })
    expect(caravan(folder, "sweep", "pipeline.ts", "--over", "tims=1,2")).toMatchObject({
      status: 2,
      stderr: 'Sweep of "fixture" over tims: no such parameter. Did you mean "times"?\n'
    })
    expect(caravan(folder, "sweep", "pipeline.ts", "--over", "touch=true,false").stderr).toBe(
      'Sweep of "fixture" over touch: no such parameter. Node lines has a config field of this name. Set it with --over lines.touch=true,false.\n'
    )
  })
})

describe("the flags of a run", () => {
  const options = (...args: ReadonlyArray<string>) => runOptions(parse(runCommand, ["pipeline.ts", ...args]))
  it("are limits of every node, and the interval of checkpoints", () => {
    expect(options()).toEqual({ jobs: 1, limits: {} })
    expect(options("--timeout", "1.5", "--memory", "2048", "--retries", "2", "--checkpoint-seconds", "0", "--jobs", "3")).toEqual({
      jobs: 3,
      limits: { seconds: 1.5, memory: 2048, retries: 2 },
      checkpointSeconds: 0
    })
    expect(options("--checkpoint-steps", "500")).toEqual({ jobs: 1, limits: {}, checkpointSteps: 500 })
    expect(runOptions(parse(command, ["p.ts", "--retries", "1"])).limits).toEqual({ retries: 1 })
  })
  it.each([
    ["timeout", "0", "--timeout must be a number of seconds above 0 and at most 1073741824"],
    ["timeout", "1h", "--timeout must be a number of seconds above 0 and at most 1073741824"],
    ["timeout", "1e99", "--timeout must be a number of seconds above 0 and at most 1073741824"],
    ["memory", "lots", "--memory must be a number of MiB above 0 and at most 1073741824"],
    ["memory", "9999999999999", "--memory must be a number of MiB above 0 and at most 1073741824"],
    ["retries", "1.5", "--retries must be an integer of at least 0"],
    ["checkpoint-steps", "0", "--checkpoint-steps must be an integer of at least 1"],
    ["checkpoint-seconds", "soon", "--checkpoint-seconds must be an integer of at least 0"],
    ["jobs", "0", "--jobs must be an integer of at least 1"]
  ])("--%s %s is rejected", (name, value, message) => {
    expect(() => options(`--${name}`, value)).toThrow(`${message}, got "${value}".`)
  })
  it("stop a node that takes too long, and are in --help", () => {
    const { status, stderr } = caravan(folder, "run", "pipeline.ts", "--until", "wait", "--set", "wait.steps=200", "--timeout", "0.5")
    expect(status).toBe(1)
    expect(stderr).toMatch(/^wait: FAILED after .*exceeded its time limit of 0\.5 seconds/m)
    expect(caravan(folder, "run", "--help").stdout).toMatch(
      /--timeout <seconds>[\s\S]*--memory <MiB>[\s\S]*--retries <n>[\s\S]*--checkpoint-steps <n>[\s\S]*--checkpoint-seconds <n>[\s\S]*--events <file>/
    )
  })
})

describe("--events", () => {
  it("has every event as a line of JSON with its time", () => {
    const { status, stdout } = caravan(folder, "run", "pipeline.ts", "--events", "events.ndjson")
    expect([status, stdout.includes("Nodes:")]).toEqual([0, true])
    const lines = readFileSync(join(folder, "events.ndjson"), "utf8").trimEnd().split("\n")
    const events = lines.map((line) => JSON.parse(line) as RunEvent & { readonly time: string })
    expect(events.map(({ type }) => type)).toEqual(["run-started", ...Array.from({ length: 4 }, () => "node-finished"), "run-finished"])
    for (const { time } of events) expect(new Date(time).toISOString()).toBe(time)
  })
  it("- writes them to stdout, and nothing else", () => {
    const { stdout } = caravan(folder, "run", "pipeline.ts", "--events", "-")
    const lines = stdout.trimEnd().split("\n")
    expect(lines.map((line) => (JSON.parse(line) as RunEvent).type).at(-1)).toBe("run-finished")
    const given = parse(runCommand, ["p.ts", "--events", "-", "--json"])
    expect(() => openEvents(given)).toThrow("--events - and --json both write to stdout. Use a file for --events.")
  })
  it("in a missing folder are rejected before anything runs", () => {
    expect(() => openEvents(parse(runCommand, ["p.ts", "--events", join(folder, "no", "such", "file")]))).toThrow(
      /ENOENT.*Choose a writable file/
    )
    expect(existsSync(join(folder, "no"))).toBe(false)
    writeFileSync(join(folder, "old.ndjson"), "of a run before")
    const { onEvent, close } = openEvents(parse(runCommand, ["p.ts", "--events", join(folder, "old.ndjson")]))
    onEvent({ type: "note", node: "a", message: "new" })
    close()
    expect(readFileSync(join(folder, "old.ndjson"), "utf8")).toMatch(/^\{"time":".*","type":"note","node":"a","message":"new"\}\n$/)
  })
  it("report a NaN loss", () => {
    const line = eventLine({ type: "progress", node: "a", progress: { step: 1, loss: Number.NaN } }, new Date(0))
    expect(line).toBe('{"time":"1970-01-01T00:00:00.000Z","type":"progress","node":"a","progress":{"step":1,"loss":"NaN"}}\n')
  })
})

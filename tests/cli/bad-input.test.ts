/** User mistakes: each gives one clear message (what, where, what to do), a nonzero exit code, no stack trace, and leaves the store unchanged. */
import { execFileSync } from "node:child_process"
import { once } from "node:events"
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { join, resolve } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { hasCuda } from "../../engine/device.ts"
import { writeModelFile } from "../../models/tokenizer/model-file.ts"
import { trainTokenizer } from "../../models/tokenizer/train.ts"
import { caravan, removeFolder, workFolder } from "./caravan.ts"

const golden = new URL("../golden/", import.meta.url).pathname
const pipelines = new URL("../../pipelines/", import.meta.url).pathname
let folder: string
let model: string

beforeAll(() => {
  folder = workFolder()
  // A valid model folder: the golden Llama with a tokenizer trained here would be larger than its vocabulary; each test damages a copy.
  model = join(folder, "model")
  cpSync(join(golden, "llama-gqa/model"), model, { recursive: true })
  writeFileSync(
    join(folder, "pairs.jsonl"),
    `${JSON.stringify({ chosen: "\n\nHuman: hi\n\nAssistant: hello", rejected: "\n\nHuman: hi\n\nAssistant: go away" })}\n`
  )
})
afterAll(() => removeFolder(folder))

const rlhf = join(pipelines, "rlhf.ts")

const refuses = (args: ReadonlyArray<string>, message: RegExp, code = 2) => {
  const { status, stdout, stderr } = caravan(folder, ...args)
  expect(stderr).toMatch(message)
  expect(status).toBe(code)
  expect(`${stdout}${stderr}`).not.toMatch(/^\s+at .*:\d+:\d+/m)
  expect(existsSync(join(folder, "home/objects")) && existsSync(join(folder, "home/tmp/x"))).toBe(false)
}

describe("commands and flags", () => {
  it("an unknown command suggests the nearest one", () => refuses(["rnu"], /Unknown command "rnu"\. Did you mean "run"\?/))
  it("an unknown flag suggests the nearest one", () => refuses(["run", rlhf, "--forse", "x"], /no flag --forse\. Did you mean "--force"\?/))
  it("a missing argument shows an example", () => refuses(["run"], /needs <pipeline\.ts>\. For example: caravan run/))
  it("an invalid number", () => refuses(["run", rlhf, "--jobs", "many"], /--jobs must be an integer of at least 1, got "many"/))
  it("invalid ranks, and sharding with a single rank", () => {
    refuses(["run", rlhf, "--ranks", "0"], /--ranks must be an integer of at least 1, got "0"/)
    refuses(["run", rlhf, "--ranks", "2", "--sharding", "zero"], /--sharding must be none, optimizer or weights, got "zero"/)
    refuses(["plan", rlhf, "--sharding", "none"], /--sharding none has no effect on one rank: add --ranks/)
  })
  it("a missing node suggests the nearest one", () =>
    refuses(
      ["run", rlhf, "--set", "preferences=pairs.jsonl", "--only", "stf"],
      /--only stf: no such node or output\. Did you mean "sft"\?/
    ))
})

describe("pipeline files", () => {
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text)
    return name
  }
  it("missing", () => refuses(["run", "nowhere.ts"], /Loading the pipeline nowhere\.ts: no such file/))
  it("that throws a text instead of an Error", () =>
    refuses(["run", file("text.ts", 'throw "out of ideas"\n')], /Loading the pipeline text\.ts: out of ideas\.\nFix the file/))
  it("with a syntax error: its location", () =>
    refuses(["run", file("syntax.ts", "export default {{{\n")], /Loading the pipeline syntax\.ts:[\s\S]*Fix the file/))
  it("that imports a missing file: names it and the importing file", () =>
    refuses(
      ["run", file("imports.ts", 'import x from "./nowhere.ts"\nexport default x\n')],
      /^Loading the pipeline imports\.ts: Cannot find module '\S*nowhere\.ts' imported from \S*imports\.ts\.\nFix the file/
    ))
  it("in a project of CommonJS modules: how to change that", () => {
    mkdirSync(join(folder, "commonjs"))
    writeFileSync(join(folder, "commonjs/package.json"), JSON.stringify({ type: "commonjs" }))
    refuses(["run", file("commonjs/mine.ts", 'import "node:fs"\n')], /Add "type": "module" to package\.json/)
  })
  it("without a default export", () =>
    refuses(["plan", file("none.ts", "export const x = 1\n")], /it has no default export\. End it with: export default Pipeline\.make/))
  it("whose default export is something else", () =>
    refuses(["graph", file("other.ts", "export default 7\n")], /its default export is not a pipeline/))
  it("whose pipeline has no params: the author's mistake, with its location", () =>
    refuses(
      [
        "plan",
        file(
          "bare.ts",
          `import * as Pipeline from "../../../runtime/define/pipeline.ts"\nexport default Pipeline.make("bare", {} as never, () => ({}))\n`
        )
      ],
      /^Loading the pipeline bare\.ts: Pipeline\.make\("bare"\): expected params, .*, found none \(at .*bare\.ts:2\)\.\nFix the file/
    ))
  it("connected wrongly by untyped code", () => {
    const text = `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { sft } from "../../../stages/training/sft.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
export default Pipeline.make("wrong", { params: Schema.Struct({}) }, () => ({ x: sft({ init: importPreferences({ file: fileAt("pairs.jsonl") }), demonstration: 1 } as never) }))
`
    refuses(["plan", file("wrong.ts", text)], /one of its inputs is 1, not a node/)
    refuses(
      ["plan", file("wrong2.ts", text.replace(", demonstration: 1", ""))],
      /its input "init" expects a checkpoint:policy, got a dataset:preference\/1|its input "demonstrations" .* is missing/
    )
  })
})

describe("parameters", () => {
  it("unknown: suggests the nearest one", () =>
    refuses(
      ["run", rlhf, "--set", "preferences=pairs.jsonl", "--set", "pretrainStep=3"],
      /has no parameter "pretrainStep"\. Did you mean "pretrainSteps"\?/
    ))
  it("missing", () =>
    refuses(
      ["plan", rlhf],
      /Pipeline "rlhf" needs a value for "preferences" \(preference pairs: .*\)\. Set it with --set preferences=<value>/
    ))
  it("out of bounds", () =>
    refuses(["plan", rlhf, "--set", "preferences=pairs.jsonl", "--set", "k=0"], /k: expected a value greater than or equal to 1, got 0/))
  it("an unknown hyperparameter of a node suggests the nearest one", () =>
    refuses(
      ["plan", rlhf, "--set", "preferences=pairs.jsonl", "--set", "sft.learningrate=1"],
      /Node "sft" \(stage sft\) has no field "learningrate"\. Did you mean "learningRate"\?/
    ))
  it("an unknown node", () =>
    refuses(
      ["plan", rlhf, "--set", "preferences=pairs.jsonl", "--set", "sfft.epochs=1"],
      /no node or output is named "sfft"\. Did you mean "sft"\?/
    ))
})

describe("a device", () => {
  it.skipIf(hasCuda())("that is missing is reported with the reason, not with the command that detected it", () =>
    refuses(
      ["plan", rlhf, "--set", "preferences=pairs.jsonl", "--device", "cuda"],
      /^Checking the tensor engine: this machine has no CUDA device .*use --device cpu\s*$/
    )
  )
})

describe("files", () => {
  it("a missing data file: the closest name; plan prints the plan and the same message", () => {
    const message = /^Reading the input .*paris\.jsonl: no such file or folder\. Did you mean "pairs\.jsonl"\? Check the path/m
    refuses(["run", rlhf, "--set", "preferences=paris.jsonl"], message)
    const { status, stderr, stdout } = caravan(folder, "plan", rlhf, "--set", "preferences=paris.jsonl")
    expect([status, stderr]).toEqual([2, expect.stringMatching(message)])
    expect(stdout).toMatch(/^wait {2}file:paris\.jsonl .*does not exist yet$/m)
    // A mistake in the call is not a run.
    expect(caravan(folder, "runs").stdout).toBe("No runs found.\n")
  })
  it("an empty path is rejected before the working directory, which it would mean, is read", () =>
    refuses(
      ["run", rlhf, "--set", "preferences="],
      /Building the pipeline "rlhf": the path of an input is empty\. Give the path of a file or folder\.\n$/
    ))
  it.skipIf(process.platform !== "linux")(
    "a device, a FIFO or a socket is rejected immediately, directly, by a link or in a folder",
    async () => {
      execFileSync("mkfifo", [join(folder, "pipe")])
      const server = createServer().listen(join(folder, "socket"))
      await once(server, "listening")
      symlinkSync("/dev/zero", join(folder, "link"))
      mkdirSync(join(folder, "mixed/deep"), { recursive: true })
      symlinkSync(join(folder, "pipe"), join(folder, "mixed/deep/pipe"))
      try {
        for (const [path, what] of [
          ["/dev/zero", "it is a character device"],
          ["pipe", "it is a FIFO (a named pipe)"],
          ["socket", "it is a socket"],
          ["link", "it is a character device"],
          ["mixed", "it contains deep/pipe, which is a FIFO (a named pipe)"]
        ] as const)
          for (const command of ["plan", "run"]) {
            const { status, stdout, stderr } = caravan(folder, command, rlhf, "--set", `preferences=${path}`)
            expect(`${stdout}${stderr}`).toContain(`Reading the input ${resolve(folder, path)}: ${what}, not a file or folder.`)
            expect(status).not.toBe(0)
          }
      } finally {
        server.close()
      }
    }
  )
  it("data of another format is reported with file, line, field and reason", () => {
    writeFileSync(join(folder, "other.jsonl"), '{"text": "x"}\n')
    refuses(
      ["run", rlhf, "--set", "preferences=other.jsonl", "--set", "pairs.shape=hh-rlhf", "--only", "pairs"],
      /skipped 1 of 1 rows \(100%\): 1 field chosen: missing\. The first: line 1 of .*other\.jsonl, field chosen: missing; there are text\./,
      1
    )
  })
  it("truncated gzip", () => {
    writeFileSync(join(folder, "cut.jsonl.gz"), Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]))
    refuses(
      ["run", rlhf, "--set", "preferences=cut.jsonl.gz", "--only", "pairs"],
      /Reading .*cut\.jsonl\.gz: expected gzipped (lines of )?text/,
      1
    )
  })
  /** Faults found by a first check are rejected before anything runs (2); faults found by reading, when the stage reads (1). */
  const importing = (name: string, message: RegExp, code: 1 | 2) =>
    refuses(["run", rlhf, "--set", "preferences=pairs.jsonl", "--set", `model=${name}`, "--only", "base"], message, code)
  const broken = (name: string, change: (folder: string) => void) => {
    const copy = join(folder, name)
    cpSync(model, copy, { recursive: true })
    change(copy)
    return name
  }
  it("a folder without config.json", () =>
    importing(
      broken("no-config", (copy) => rmSync(join(copy, "config.json"))),
      /expected a folder with config\.json, found none/,
      2
    ))
  it("truncated safetensors", () =>
    importing(
      broken("truncated", (copy) => truncateSync(join(copy, "model.safetensors"), 20_000)),
      /model\.safetensors: expected .*the file/,
      2
    ))
  it("a header that claims more than the file contains", () =>
    importing(
      broken("liar", (copy) => {
        const bytes = readFileSync(join(copy, "model.safetensors"))
        bytes.writeBigUInt64LE(1n << 50n)
        writeFileSync(join(copy, "model.safetensors"), bytes)
      }),
      /expected a header within the file of \d+ bytes, found a header that claims 1125899906842624 bytes/,
      2
    ))
  it("a model of another kind", () =>
    importing(
      broken("mistral", (copy) => {
        const config = JSON.parse(readFileSync(join(copy, "config.json"), "utf8")) as Record<string, unknown>
        writeFileSync(join(copy, "config.json"), JSON.stringify({ ...config, model_type: "mistral" }))
      }),
      /mistral/,
      2
    ))
  it("a missing tokenizer", () =>
    importing(
      broken("no-tokenizer", () => undefined),
      /tokenizer\.model/,
      1
    ))
  it("a tokenizer with the wrong vocabulary", () => {
    const larger = trainTokenizer(["the quick brown fox jumps over the lazy dog again and again"], { vocabSize: 290 })
    importing(
      broken("wrong-vocabulary", (copy) => writeFileSync(join(copy, "tokenizer.model"), writeModelFile(larger.model))),
      /expected a tokenizer with the model.s 160 tokens, found a tokenizer with 290/,
      1
    )
  })
  it("an empty checkpoint folder", () => {
    mkdirSync(join(folder, "empty"), { recursive: true })
    refuses(["logprobs", "empty", "--ids", "x.json"], /expected a folder with config\.json/)
  })
  it("ids outside the model's vocabulary", () => {
    writeFileSync(join(folder, "ids.json"), "[[1, 99999]]")
    refuses(["logprobs", "model", "--ids", "ids.json"], /sequence 0 has 99999, the model's ids are 0 to 159/)
    writeFileSync(join(folder, "ids.json"), "{")
    refuses(["logprobs", "model", "--ids", "ids.json"], /not JSON/)
  })
  it("an invalid tokenizer file", () => {
    writeFileSync(join(folder, "text.model"), "hello")
    refuses(["tokenize", "text.model"], /Reading the tokenizer .*text\.model: expected a SentencePiece model/)
    refuses(
      ["tokenize", "nowhere"],
      /Looking for "nowhere": no such file or folder|Looking for "nowhere": no such node, output, digest or path/
    )
  })
})

/** The benchmark's stages, and the layered graph as a pipeline. */
import { spawn } from "node:child_process"
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Node } from "../../runtime/define/node.ts"
import { fileAt } from "../../runtime/define/node.ts"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { type ArtifactType, External, type Report, type Written, written } from "../../schemas/artifact.ts"
import { layered } from "./layered.ts"

const fileName = "bytes"

/** Bytes; also the type of a source file. */
export const Bytes: ArtifactType<Report<"bytes">> = {
  kind: "report",
  name: "bytes/1",
  accepts: (name) => name === "bytes/1" || name === External.name,
  validate: () => Effect.void
}

const buffer = Buffer.allocUnsafeSlow(1 << 17)
const copy = (from: string, to: number): void => {
  const file = openSync(from, "r")
  try {
    for (let n; (n = readSync(file, buffer)) > 0;) writeSync(to, buffer, 0, n)
  } finally {
    closeSync(file)
  }
}

const definition = {
  config: Schema.Struct({}),
  inputs: { a: Bytes, b: Bytes },
  output: Bytes,
  seeded: false,
  run: ({ inputs, output }: Stage.Context<Schema.Struct<{}>, { a: typeof Bytes; b: typeof Bytes }, Report<"bytes">>) =>
    Effect.sync(() => {
      const file = openSync(join(output.path, fileName), "wx")
      try {
        for (const { path, type } of [inputs.a, inputs.b]) copy(type === External.name ? path : join(path, fileName), file)
      } finally {
        closeSync(file)
      }
      return written(output)
    })
}

/** `cat a b > output`, in the run's process. */
export const concatenate = Stage.make("cat", { ...definition, resources: { inProcess: true } })
/** The same in a child, as stages run by default. */
export const concatenateInChild = Stage.make("cat-child", definition)

/** The same with the program `cat`: one process per node, as the peers do. */
export const concatenateByProcess = Stage.make("cat-process", {
  config: Schema.Struct({}),
  inputs: { a: Bytes, b: Bytes },
  output: Bytes,
  resources: { inProcess: true },
  seeded: false,
  run: ({ inputs, output }) =>
    Effect.callback<Written<Report<"bytes">>, { readonly message: string }>((resume) => {
      const file = openSync(join(output.path, fileName), "wx")
      const from = [inputs.a, inputs.b].map(({ path, type }) => (type === External.name ? path : join(path, fileName)))
      const child = spawn("cat", from, { stdio: ["ignore", file, "inherit"] })
      closeSync(file)
      child.on("error", (error) => resume(Effect.fail(error)))
      child.on("exit", (code) => resume(code === 0 ? Effect.succeed(written(output)) : Effect.fail({ message: `cat ended with ${code}` })))
    })
})

/** The bytes of an artifact, to compare with the peers'. */
export const read = (path: string): Buffer => readFileSync(join(path, fileName))

/** The layered graph. Its end nodes are the outputs, by name (layered.ts). */
export const pipelineOf = (count: number, sources: string, body: "in-process" | "in-child" | "process") =>
  Pipeline.make("layered", { params: Schema.Struct({}) }, () => {
    const stage = { "in-process": concatenate, "in-child": concatenateInChild, process: concatenateByProcess }[body]
    const made = new Map<string, Node<any>>()
    const open = new Set<string>()
    for (const { name, inputs } of layered(count)) {
      const [a, b] = inputs.map((input) => {
        open.delete(input)
        let node = made.get(input)
        if (node === undefined) made.set(input, (node = fileAt(join(sources, input))))
        return node
      }) as [Node<any>, Node<any>]
      made.set(name, stage({ a, b }))
      open.add(name)
    }
    return Object.fromEntries([...open].map((name) => [name, made.get(name)!]))
  })

import { spawnSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { removeFolder } from "../../cli/caravan.ts"
import { fixtureFolder } from "../fixture.ts"

const folder = fixtureFolder()
afterAll(() => removeFolder(folder))

it("defining a pipeline and planning it loads neither Arrow nor Parquet", () => {
  writeFileSync(
    join(folder, "count.ts"),
    `import { registerHooks } from "node:module"
const loaded: Array<string> = []
registerHooks({ load: (url, context, next) => (loaded.push(url), next(url, context)) })
const Effect = await import("effect/Effect")
const { Numerics } = await import("../../../runtime/key/numerics.ts")
const Layer = await import("effect/Layer")
const { layer } = await import("../../../runtime/run/layer.ts")
const { plan } = await import("../../../runtime/run/plan.ts")
const { default: pipeline } = await import("./pipeline.ts")
await import("../../../pipelines/demo.ts")
const numerics = Layer.succeed(Numerics, { describe: () => Effect.succeed({}) })
await Effect.runPromise(plan(pipeline, {}).pipe(Effect.provide(Layer.merge(layer({ home: "home" }), numerics))))
process.stdout.write(JSON.stringify(loaded))
`
  )
  const { stdout, stderr } = spawnSync(process.execPath, ["count.ts"], {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, NODE_OPTIONS: "" }
  })
  expect(stderr).toBe("")
  const loaded = JSON.parse(stdout) as Array<string>
  expect(loaded).toContain(new URL("../../../runtime/run/plan.ts", import.meta.url).href)
  expect(loaded.filter((url) => /apache-arrow|flatbuffers|parquet-wasm|schemas\/arrow|dataset-(file|digest|bytes)\.ts/.test(url))).toEqual(
    []
  )
})

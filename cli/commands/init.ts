/** `caravan init`: creates a working project with its own stage next to stages of the recipe. */
import { spawnSync } from "node:child_process"
import { accessSync, constants, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { basename, dirname, join, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { messageOf } from "../../runtime/errors.ts"
import { makeFolder } from "../../runtime/store/durable.ts"
import { own } from "../../schemas/own.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print } from "../open-store.ts"

const pipeline = `import { fileAt, hyper, hyperInt, importPreferences, Pipeline, Preferences, preferenceTexts, readRows, Stage, tokenizer, writeDataset } from "caravan"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** An example stage of your own: rows in, rows out. After you change it, only this stage and its dependents run again. */
export const keepBrief = Stage.make("keep-brief", {
  description: "pairs whose chosen answer is brief",
  config: Schema.Struct({ words: hyperInt(12, "maximum number of words in the chosen answer", { min: 1 }) }),
  inputs: { pairs: Preferences },
  output: Preferences,
  seeded: false,
  run: Effect.fn("keep-brief")(function* ({ config, inputs, output }) {
    const pairs = yield* readRows(inputs.pairs, Preferences)
    return yield* writeDataset(output, pairs.filter(({ chosen }) => chosen.split(" ").length <= config.words))
  })
})

const params = Schema.Struct({ data: hyper("pairs.jsonl", "preference pairs: one JSON object per line, with prompt, chosen and rejected") })

export default Pipeline.make("brief", { description: "brief answers, and a tokenizer made from them", params }, ({ data }) => {
  const pairs = keepBrief({ pairs: importPreferences({ file: fileAt(data) }, { shape: "prompt-chosen-rejected" }) })
  return { pairs, tokenizer: tokenizer({ texts: preferenceTexts({ preferences: pairs }) }, { vocabSize: 320 }) }
})
`

const pairs = [
  ["How do I boil an egg?", "Put it in boiling water for eight minutes.", "Eggs are a kind of food."],
  ["What is the capital of France?", "Paris.", "There are many cities in France."],
  ["How many legs does a spider have?", "Eight.", "Spiders have legs, and they use them to walk."],
  ["Why is the sky blue?", "Air scatters blue light more than red.", "Because it is not green."],
  ["How do I keep bread fresh?", "Keep it in a paper bag, or freeze it in slices.", "Buy new bread."],
  [
    "What should I pack for a hike?",
    "Water, something to eat, a map, a rain jacket, a light, and whatever else the weather and the length of the way ask for.",
    "A bag."
  ],
  ["What is seven times eight?", "Fifty-six.", "A number between fifty and sixty."],
  ["How do I thank a colleague?", "Say what they did, and how it helped you.", "Do not."]
].map(([prompt, chosen, rejected]) => JSON.stringify({ prompt, chosen, rejected }))

const readme = (name: string) => `# ${name}

A pipeline of Caravan, on Node 24:

\`\`\`
npm install
npx caravan plan pipeline.ts                          # what would run, and why
npx caravan run pipeline.ts                           # run it again: nothing is left to do
npx caravan run pipeline.ts --set keep-brief.words=5  # what depends on that, and nothing else
npx tsc --noEmit                                      # a wrong wire does not compile
\`\`\`

\`pipeline.ts\` connects the stages. Stages that train need libtorch: \`npx caravan setup\` finds or installs it.
`

const tsconfig = `{
  "compilerOptions": {
    "outDir": "./dist",

    // Node runs TypeScript directly: imports name .ts files.
    "module": "nodenext",
    "target": "esnext",
    "types": ["node"],
    "rewriteRelativeImportExtensions": true,
    "erasableSyntaxOnly": true,

    // The rest is what tsc --init writes.
    "sourceMap": true,
    "declaration": true,
    "declarationMap": true,
    "noUncheckedIndexedAccess": true,
    "exactOptionalPropertyTypes": true,
    "strict": true,
    "jsx": "react-jsx",
    "verbatimModuleSyntax": true,
    "isolatedModules": true,
    "noUncheckedSideEffectImports": true,
    "moduleDetection": "force",
    "skipLibCheck": true
  },
  "include": ["**/*.ts"]
}
`

/** The package that contains this file: a checkout, or an installed package. */
const root = (() => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder)
  return folder
})()

interface Manifest {
  readonly name: string
  readonly version: string
  readonly dependencies: Readonly<Record<string, string>>
  readonly devDependencies: Readonly<Record<string, string>>
}
const read = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"))

/** Whether npm installed this package from a registry: then the new project can install it from there too. */
const isPublished = ({ name }: Manifest): boolean => {
  const record = join(dirname(root), ".package-lock.json")
  if (basename(dirname(root)) !== "node_modules" || !existsSync(record)) return false
  const { packages } = read(record) as { readonly packages: Readonly<Record<string, { readonly resolved?: string }>> }
  return packages[`node_modules/${name}`]?.resolved?.includes(`/${name}/-/${name}-`) === true
}

/** Packs this package into the folder; returns the archive's name. A checkout is built first; an installed package is already built. */
const packInto = (folder: string): string => {
  const isCheckout = existsSync(join(root, "tsconfig.build.json"))
  const args = ["pack", root, "--silent", "--pack-destination", folder, ...(isCheckout ? [] : ["--ignore-scripts"])]
  const { error, status, stderr } = spawnSync("npm", args, { cwd: root, encoding: "utf8" })
  const [archive] = readdirSync(folder).filter((name) => name.endsWith(".tgz"))
  if (status === 0 && archive !== undefined) return archive
  throw new UsageError(
    `Packing ${root} with npm ${args.join(" ")}: ${error?.message ?? (stderr.trim() || `it ended with ${status}`)}. ${isCheckout ? `Run npm ci in ${root} first, and check` : "Check"} that npm is installed.`
  )
}

/** The folder's entries; creates the folder if missing. */
const emptyFolder = (named: string, folder: string): ReadonlyArray<string> => {
  try {
    makeFolder(folder)
    accessSync(folder, constants.W_OK)
    return readdirSync(folder)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const reasons: Readonly<Record<string, string>> = {
      EACCES: "permission denied",
      EEXIST: "a file with that name exists",
      ENOENT: "no folder can be created there",
      ENOTDIR: "it, or a part of its path, is a file",
      EPERM: "permission denied",
      EROFS: "the file system is read-only"
    }
    throw new UsageError(
      `caravan init ${named}: creating ${folder}: ${own(reasons, code ?? "") ?? messageOf(cause)}. Choose another folder.`
    )
  }
}

/** Quotes a word for the shell if necessary. */
const quoted = (word: string): string => (/^[\w./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)

export const command: Command = {
  name: "init",
  summary: "Creates a working project: a pipeline that uses its own stage and stages of the recipe, and data for it.",
  positionals: ["<folder>"],
  flags: { json: { help: "print one JSON document" } },
  examples: ["caravan init my-chat", "caravan init my-chat && cd my-chat && npm install && npx caravan run pipeline.ts"],
  run: (given) => {
    const folder = resolve(given.positionals[0]!)
    const there = emptyFolder(given.positionals[0]!, folder)
    if (there.length > 0)
      throw new UsageError(
        `caravan init ${given.positionals[0]}: ${folder} is not empty (${there.slice(0, 3).join(", ")}${there.length > 3 ? ", ..." : ""}). Choose a new or empty folder.`
      )
    const own = read(join(root, "package.json")) as Manifest
    const archive = isPublished(own) ? undefined : packInto(folder)
    const name =
      basename(folder)
        .toLowerCase()
        .replaceAll(/[^a-z0-9-]+/g, "-")
        .replaceAll(/^-+|-+$/g, "") || "pipeline"
    const manifest = {
      name,
      private: true,
      type: "module",
      engines: { node: ">=24" },
      // The npm package "node" downloads Node 24 in its install script, for machines with an older Node.
      allowScripts: { node: true },
      dependencies: { [own.name]: archive === undefined ? own.version : `file:${archive}`, effect: own.dependencies.effect },
      devDependencies: Object.fromEntries(["@types/node", "node", "typescript"].map((name) => [name, own.devDependencies[name]]))
    }
    const files: Readonly<Record<string, string>> = {
      "package.json": `${JSON.stringify(manifest, undefined, 2)}\n`,
      "tsconfig.json": tsconfig,
      "pipeline.ts": pipeline,
      "pairs.jsonl": `${pairs.join("\n")}\n`,
      "README.md": readme(name),
      ".gitignore": "node_modules/\ndist/\n.caravan/\n"
    }
    for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, file), text)
    const made = [...Object.keys(files), ...(archive === undefined ? [] : [archive])]
    const where = relative(process.cwd(), folder) || "."
    const next = [...(where === "." ? [] : [`cd ${quoted(where)}`]), "npm install", "npx caravan run pipeline.ts"]
    print(given.has("json"), { folder, files: made, caravan: manifest.dependencies[own.name], next }, [
      `Created ${folder}: ${made.join(", ")}.`,
      ...(archive === undefined
        ? []
        : [
            `It depends on this copy of caravan, packed into ${archive}: keep that file. Once caravan is on a registry: npm install caravan.`
          ]),
      "Next:",
      ...next.map((line) => `  ${line}`)
    ])
    return Promise.resolve(exitCodes.ok)
  }
}

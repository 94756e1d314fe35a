/** Dispatch: the command's module is loaded when it is called. */
import { didYouMean } from "../schemas/did-you-mean.ts"
import { type Command, exitCodes, parse, usage, UsageError } from "./command.ts"

const commands: Readonly<Record<string, { readonly summary: string; readonly load: () => Promise<{ readonly command: Command }> }>> = {
  run: { summary: "run a pipeline; what is in the store is not made again", load: () => import("./run.ts") },
  sweep: {
    summary: "run a pipeline with every combination of some values; a table of what came of each",
    load: () => import("./sweep.ts")
  },
  plan: { summary: "what a run would do, and why", load: () => import("./plan.ts") },
  why: { summary: "why a node would run, or would not", load: () => import("./why.ts") },
  graph: { summary: "the pipeline's graph, as text, Mermaid or JSON", load: () => import("./graph.ts") },
  runs: { summary: "what ran here", load: () => import("./runs.ts") },
  show: { summary: "one run: what it was asked for, what became of each node", load: () => import("./show.ts") },
  diff: { summary: "how two runs differ, node by node", load: () => import("./diff.ts") },
  log: { summary: "what a node said while it ran", load: () => import("./log.ts") },
  lineage: { summary: "which run, code and data made an artifact, and what was made of it", load: () => import("./lineage.ts") },
  verify: { summary: "run nodes again and compare with what is in the store", load: () => import("./verify.ts") },
  bless: { summary: "let a result stand for code that changed without changing it", load: () => import("./bless.ts") },
  freeze: { summary: "write a lock file that run --locked holds to", load: () => import("./freeze.ts") },
  du: { summary: "what takes the store's space", load: () => import("./du.ts") },
  gc: { summary: "what of the store can go; deletes it with --yes", load: () => import("./gc.ts") },
  pin: { summary: "keep gc from an artifact; list the pins", load: () => import("./pin.ts") },
  unpin: { summary: "let gc take an artifact again", load: () => import("./unpin.ts") },
  sample: { summary: "answers of a checkpoint, to a file of prompts or in a dialogue", load: () => import("./sample.ts") },
  tokenize: { summary: "token ids of lines of text", load: () => import("./tokenize.ts") },
  logprobs: { summary: "log-probabilities of token sequences under a checkpoint", load: () => import("./logprobs.ts") },
  doctor: { summary: "what this machine has, and what is wrong with it", load: () => import("./doctor.ts") },
  setup: { summary: "find or get libtorch and build the tensor addon", load: () => import("./setup.ts") }
}

const overview = (): string => {
  const width = Math.max(...Object.keys(commands).map((name) => name.length))
  return [
    "caravan <command> [flags]",
    "",
    ...Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`),
    "",
    "caravan <command> --help says more, with examples.",
    "The store and the journal are .caravan/ beside package.json, or the folder that CARAVAN_HOME names."
  ].join("\n")
}

/** Runs a command line; gives the exit code. No stack trace reaches the user unless CARAVAN_DEBUG asks for it. */
export const main = async (args: ReadonlyArray<string>): Promise<number> => {
  // A reader that has seen enough (head) closes the pipe: nothing is wrong.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(exitCodes.ok)
  })
  try {
    const [name, ...rest] = args
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      process.stdout.write(`${overview()}\n`)
      return name === undefined ? exitCodes.usage : exitCodes.ok
    }
    const entry = Object.hasOwn(commands, name) ? commands[name] : undefined
    if (entry === undefined) throw new UsageError(`There is no command "${name}".${didYouMean(name, Object.keys(commands))}`)
    const { command } = await entry.load()
    const given = parse(command, rest)
    if (given.help) {
      const more = (await command.more?.(given.positionals)) ?? ""
      process.stdout.write(`${usage(command)}\n${more === "" ? "" : `\n${more}\n`}`)
      return exitCodes.ok
    }
    return await command.run(given)
  } catch (cause) {
    if (process.env.CARAVAN_DEBUG !== undefined && cause instanceof Error) process.stderr.write(`${cause.stack}\n`)
    process.stderr.write(`${cause instanceof Error ? cause.message : String(cause)}\n`)
    // A full disk or a broken store is no mistake of the user's.
    return (cause as { readonly _tag?: string } | undefined)?._tag === "StoreError" ? exitCodes.failed : exitCodes.usage
  }
}

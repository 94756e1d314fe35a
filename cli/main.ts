/** Dispatch: the command's module is loaded when it is called. */
import { didYouMean } from "../schemas/did-you-mean.ts"
import { type Command, exitCodes, parse, usage, UsageError } from "./command.ts"

interface Entry {
  readonly summary: string
  readonly load: () => Promise<{ readonly command: Command }>
  /** It does more than print: it goes on when nobody reads what it says. */
  readonly works?: true
}

const commands: Readonly<Record<string, Entry>> = {
  init: { summary: "make a project that runs", load: () => import("./commands/init.ts"), works: true },
  run: { summary: "run a pipeline; what is in the store is not made again", load: () => import("./commands/run.ts"), works: true },
  sweep: {
    summary: "run a pipeline with every combination of some values; a table of what came of each",
    load: () => import("./commands/sweep.ts"),
    works: true
  },
  plan: { summary: "what a run would do, and why", load: () => import("./commands/plan.ts") },
  why: { summary: "why a node would run, or would not", load: () => import("./commands/why.ts") },
  graph: { summary: "the pipeline's graph, as text, Mermaid or JSON", load: () => import("./commands/graph.ts") },
  runs: { summary: "what ran here", load: () => import("./commands/runs.ts") },
  show: { summary: "one run: what it was asked for, what became of each node", load: () => import("./commands/show.ts") },
  diff: { summary: "how two runs differ, node by node", load: () => import("./commands/diff.ts") },
  log: { summary: "what a node said while it ran", load: () => import("./commands/log.ts") },
  lineage: { summary: "which run, code and data made an artifact, and what was made of it", load: () => import("./commands/lineage.ts") },
  verify: { summary: "run nodes again and compare with what is in the store", load: () => import("./commands/verify.ts"), works: true },
  bless: {
    summary: "let a result stand for code that changed without changing it",
    load: () => import("./commands/bless.ts"),
    works: true
  },
  freeze: { summary: "write a lock file that run --locked holds to", load: () => import("./commands/freeze.ts"), works: true },
  du: { summary: "what takes the store's space", load: () => import("./commands/du.ts") },
  gc: { summary: "what of the store can go; deletes it with --yes", load: () => import("./commands/gc.ts"), works: true },
  pin: { summary: "keep gc from an artifact; list the pins", load: () => import("./commands/pin.ts"), works: true },
  unpin: { summary: "let gc take an artifact again", load: () => import("./commands/unpin.ts"), works: true },
  sample: { summary: "answers of a checkpoint, to a file of prompts or in a dialogue", load: () => import("./commands/sample.ts") },
  tokenize: { summary: "token ids of lines of text", load: () => import("./commands/tokenize.ts") },
  logprobs: { summary: "log-probabilities of token sequences under a checkpoint", load: () => import("./commands/logprobs.ts") },
  doctor: { summary: "what this machine has, and what is wrong with it", load: () => import("./commands/doctor.ts") },
  setup: { summary: "find or get libtorch and build the tensor addon", load: () => import("./commands/setup.ts"), works: true }
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

/** A mistake in caravan itself, as sysexits.h has it. */
const bug = 70

/**
 * What becomes of the command when what it says can't be written. A reader that has seen enough (head) closes the pipe: a command that only prints
 * ends quietly. One that makes things goes on and says no more; its exit code tells how that went.
 */
const withoutReader = (): void => {
  if (listening) return
  listening = true
  let told = false
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (!works && error.code === "EPIPE") process.exit(exitCodes.ok)
    if (error.code !== "EPIPE" && !told)
      process.stderr.write(`Writing to stdout: ${error.message}.${works ? " The work goes on without." : ""}\n`)
    told = true
    if (!works) process.exit(exitCodes.failed)
  })
  // A terminal that was closed, a pipe that nobody reads: there is nobody to tell.
  process.stderr.on("error", () => undefined)
}
/** Whether the command does more than print. */
let works = false
let listening = false

/** Runs a command line; gives the exit code. No stack trace reaches the user unless CARAVAN_DEBUG asks for it. */
export const main = async (args: ReadonlyArray<string>): Promise<number> => {
  works = Object.hasOwn(commands, args[0] ?? "") && commands[args[0]!]!.works === true
  withoutReader()
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
    if (isBug(cause)) {
      const { placeOf } = await import("../runtime/errors.ts")
      process.stderr.write(
        `This is a mistake in caravan itself: ${cause.name}: ${cause.message}${placeOf(cause)}. What is finished is kept. CARAVAN_DEBUG=1 shows the whole trace: please report it with that.\n`
      )
      return bug
    }
    process.stderr.write(`${cause instanceof Error ? cause.message : String(cause)}\n`)
    // A full disk or a broken store is no mistake of the user's.
    return (cause as { readonly _tag?: string } | undefined)?._tag === "StoreError" ? exitCodes.failed : exitCodes.usage
  }
}

/** What JavaScript itself throws; not what is thrown to be read, nor what a system or a network says (it has a code, or a cause). */
const isBug = (cause: unknown): cause is Error =>
  (cause instanceof TypeError || cause instanceof RangeError || cause instanceof ReferenceError) && !("code" in cause || "cause" in cause)

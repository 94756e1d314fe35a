/** Dispatch: loads a command's module when the command is called. */
import { createRequire } from "node:module"
import { didYouMean } from "../schemas/did-you-mean.ts"
import { messageOf } from "../schemas/explained-error.ts"
import { type Command, exitCodes, parse, usage, UsageError } from "./command.ts"
import { tell, write } from "./output.ts"

interface Entry {
  readonly summary: string
  readonly load: () => Promise<{ readonly command: Command }>
  /** Set if the command does more than print: it then continues when its output is closed. */
  readonly doesWork?: true
}

export const commands: Readonly<Record<string, Entry>> = {
  init: { summary: "create a working project", load: () => import("./commands/init.ts"), doesWork: true },
  run: { summary: "run a pipeline, reusing results from the store", load: () => import("./commands/run.ts"), doesWork: true },
  sweep: {
    summary: "run a pipeline with every combination of the given values and compare the results",
    load: () => import("./commands/sweep.ts"),
    doesWork: true
  },
  plan: { summary: "show what a run would do, and why", load: () => import("./commands/plan.ts") },
  why: { summary: "explain why a node would or would not run", load: () => import("./commands/why.ts") },
  graph: { summary: "print a pipeline's graph as text, Mermaid or JSON", load: () => import("./commands/graph.ts") },
  runs: { summary: "list past runs", load: () => import("./commands/runs.ts") },
  jobs: { summary: "list this store's Slurm jobs, or cancel them", load: () => import("./commands/jobs.ts"), doesWork: true },
  report: { summary: "write a one-page report on a run: curves, figures, cost, dialogues", load: () => import("./commands/report.ts") },
  show: { summary: "show one run: its settings and the outcome of each node", load: () => import("./commands/show.ts") },
  diff: { summary: "compare two runs, node by node", load: () => import("./commands/diff.ts") },
  curves: { summary: "print the numbers a node reported at each step: loss, KL, throughput", load: () => import("./commands/curves.ts") },
  ui: {
    summary: "serve a web page on all runs: live progress, graphs, curves, datasets, comparisons",
    load: () => import("./commands/ui.ts"),
    doesWork: true
  },
  log: { summary: "print the log of a node", load: () => import("./commands/log.ts") },
  lineage: {
    summary: "show which run, code and data made an artifact, and what was made from it",
    load: () => import("./commands/lineage.ts")
  },
  rows: { summary: "print the rows of a dataset", load: () => import("./commands/rows.ts") },
  export: {
    summary: "export a checkpoint, an adapter, a dataset or a report with a card, for use elsewhere",
    load: () => import("./commands/export.ts"),
    doesWork: true
  },
  data: {
    summary: "inspect your own data files: format, shape, columns, problems, lengths",
    load: () => import("./commands/data.ts")
  },
  describe: {
    summary: "describe a pipeline or a stage: parameters, ports, defaults and bounds",
    load: () => import("./commands/describe.ts")
  },
  verify: { summary: "rerun nodes and compare with the results in the store", load: () => import("./commands/verify.ts"), doesWork: true },
  bless: {
    summary: "keep a result after a code change that does not affect it",
    load: () => import("./commands/bless.ts"),
    doesWork: true
  },
  freeze: { summary: "write a lock file for run --locked", load: () => import("./commands/freeze.ts"), doesWork: true },
  du: { summary: "show what uses space in the store", load: () => import("./commands/du.ts") },
  gc: { summary: "show what can be deleted from the store; delete it with --yes", load: () => import("./commands/gc.ts"), doesWork: true },
  pin: { summary: "protect an artifact from gc, or list the pins", load: () => import("./commands/pin.ts"), doesWork: true },
  unpin: { summary: "remove an artifact's pin", load: () => import("./commands/unpin.ts"), doesWork: true },
  sample: {
    summary: "generate responses from a checkpoint, for a file of prompts or in a chat",
    load: () => import("./commands/sample.ts")
  },
  tokenize: { summary: "convert lines of text to token ids", load: () => import("./commands/tokenize.ts") },
  logprobs: { summary: "compute log-probabilities of token sequences under a checkpoint", load: () => import("./commands/logprobs.ts") },
  doctor: { summary: "check this machine: what was found, what is wrong and how to fix it", load: () => import("./commands/doctor.ts") },
  setup: { summary: "install libtorch if needed and build the tensor addon", load: () => import("./commands/setup.ts"), doesWork: true }
}

const overview = (): string => {
  const width = Math.max(...Object.keys(commands).map((name) => name.length))
  return [
    "caravan <command> [flags]",
    "",
    ...Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`),
    "",
    "Run caravan help <command> for a command's flags and examples, caravan --version for the version.",
    `Exit codes: 0 done, 1 a stage or check failed, 2 wrong usage, 70 a bug in caravan, 130 interrupted.`,
    "The store is .caravan/ next to package.json, or the folder in CARAVAN_HOME."
  ].join("\n")
}

/** The exit code of a bug in caravan, from sysexits.h (EX_SOFTWARE). */
export const bug = 70

/**
 * Handles output that is closed or fails. A program like head closes the pipe when it has read enough: a command that only prints then ends quietly. A
 * command that does work continues without output, and its exit code reports the result.
 */
const handleClosedOutput = (): void => {
  if (listening) return
  listening = true
  let reported = false
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (!doesWork && error.code === "EPIPE") process.exit(exitCodes.ok)
    if (error.code !== "EPIPE" && !reported) tell(`Writing to stdout: ${error.message}.${doesWork ? " The work continues." : ""}\n`)
    reported = true
    if (!doesWork) process.exit(exitCodes.failed)
  })
  // The terminal or the pipe is closed: nothing can be reported.
  process.stderr.on("error", () => undefined)
}
/** Whether the command does more than print. */
let doesWork = false
let listening = false

/** Runs a command line and returns the exit code. Users see no stack trace unless CARAVAN_DEBUG is set. */
export const main = async (args: ReadonlyArray<string>): Promise<number> => {
  doesWork = Object.hasOwn(commands, args[0] ?? "") && commands[args[0]!]!.doesWork === true
  handleClosedOutput()
  try {
    const [name, ...rest] = args
    if (name === "help" && rest[0] !== undefined && !rest[0].startsWith("-")) return await main([...rest, "--help"])
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      write(`${overview()}\n`)
      return name === undefined ? exitCodes.usage : exitCodes.ok
    }
    if (name === "--version" || name === "-v") {
      const { version } = createRequire(import.meta.url)("caravan/package.json") as { readonly version: string }
      write(`${version}\n`)
      return exitCodes.ok
    }
    const entry = Object.hasOwn(commands, name) ? commands[name] : undefined
    if (entry === undefined)
      throw new UsageError(
        name.startsWith("-")
          ? `caravan itself has no flag ${name}: start with a command, --help or --version.`
          : `Unknown command "${name}".${didYouMean(name, Object.keys(commands))}`
      )
    const { command } = await entry.load()
    const given = parse(command, rest)
    if (given.help) {
      const more = (await command.more?.(given.positionals)) ?? ""
      write(`${usage(command)}\n${more === "" ? "" : `\n${more}\n`}`)
      return exitCodes.ok
    }
    return await command.run(given)
  } catch (cause) {
    if (process.env.CARAVAN_DEBUG !== undefined && cause instanceof Error) tell(`${cause.stack}\n`)
    if (isBug(cause)) {
      const { placeOf } = await import("../runtime/errors.ts")
      tell(
        `This is a bug in caravan: ${cause.name}: ${cause.message}${placeOf(cause)}. Finished results are kept. Run it again with CARAVAN_DEBUG=1 and please report the bug with the stack trace.\n`
      )
      return bug
    }
    tell(`${messageOf(cause)}\n`)
    // A full disk or a broken store is not the user's mistake.
    return (cause as { readonly _tag?: string } | undefined)?._tag === "StoreError" ? exitCodes.failed : exitCodes.usage
  }
}

/** An error thrown by JavaScript itself; not an error meant for users, nor one from the system or network (those have a code or a cause). */
const isBug = (cause: unknown): cause is Error =>
  (cause instanceof TypeError || cause instanceof RangeError || cause instanceof ReferenceError) && !("code" in cause || "cause" in cause)

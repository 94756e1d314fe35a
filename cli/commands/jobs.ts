/** `caravan jobs`: this store's jobs on Slurm. */
import { cancel, SlurmError } from "../../runtime/cluster/commands.ts"
import { listJobs } from "../../runtime/cluster/jobs.ts"
import { States } from "../../runtime/cluster/states.ts"
import { findHome } from "../../runtime/store/home.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { print } from "../open-store.ts"
import { moment, table } from "../display/units.ts"
import { tell } from "../output.ts"

export const command: Command = {
  name: "jobs",
  summary: "Lists this store's Slurm jobs: pending and running jobs, and jobs whose results no run has collected yet.",
  positionals: [],
  flags: {
    cancel: { value: "node|job|all", help: "cancel this job; a stage with checkpoints saves one first", repeatable: true },
    json: { help: "print one JSON document" }
  },
  examples: ["caravan jobs", "caravan jobs --json", "caravan jobs --cancel sft", "caravan jobs --cancel all"],
  run: async (given) => {
    const jobs = await listJobs(findHome(process.cwd()), new States()).catch((cause: unknown) => {
      if (cause instanceof SlurmError)
        throw new UsageError(`${cause.message}. Run this command where Slurm's commands are installed (a login node).`)
      throw cause
    })
    const named = given.flags("cancel")
    if (named.length > 0) {
      const unknown = named.find((name) => name !== "all" && !jobs.some(({ id, node }) => name === id || name === node))
      if (unknown !== undefined)
        throw new UsageError(
          `--cancel ${unknown}: no such job.${didYouMean(
            unknown,
            jobs.map(({ node }) => node)
          )} \`caravan jobs\` lists the jobs.`
        )
      const chosen = jobs.filter(({ id, node }) => named.includes("all") || named.includes(node) || named.includes(id ?? ""))
      const alive = chosen.filter(({ isAlive }) => isAlive)
      const ids = alive.flatMap(({ id }) => id ?? [])
      await cancel(ids).catch((cause: unknown) => {
        throw cause instanceof SlurmError ? new UsageError(`Cancelling ${ids.join(", ")}: ${cause.message}.`) : cause
      })
      for (const { id, node } of alive) tell(`Cancelled job ${id} of ${node}.\n`)
      for (const { isAlive, node, state } of chosen)
        if (!isAlive) tell(`The job of ${node} is not cancelled: it is neither pending nor running (${state.toLowerCase()}).\n`)
      return exitCodes.ok
    }
    const lines = jobs.map(({ host, id, node, profile, reason, state, step, submitted, total }) => [
      id ?? "-",
      node,
      state.toLowerCase(),
      host ?? (reason === "" || reason === "None" ? "-" : reason),
      step === null ? "" : total === null ? `step ${step}` : `step ${step}/${total}`,
      profile,
      moment(submitted)
    ])
    print(
      given.has("json"),
      { jobs },
      lines.length === 0 ? ["No jobs."] : table([["job", "node", "state", "where", "", "profile", "submitted"], ...lines])
    )
    return exitCodes.ok
  }
}

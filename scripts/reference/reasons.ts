/** What each reason of a StageError means, and what to do. scripts/reference/errors.ts stops at a reason in the code that is not here. */
export interface Reason {
  readonly meaning: string
  readonly remedy: string
  /** "sometimes": where the system may grant a moment later what it refused. */
  readonly retried: "yes" | "no" | "sometimes"
}

export const reasons: Readonly<Record<string, Reason>> = {
  BadOutput: {
    meaning: "The stage wrote something that its output type does not accept.",
    remedy: "Fix the stage: the message names the column, field or file.",
    retried: "no"
  },
  Cancelled: { meaning: "The Slurm job was cancelled.", remedy: "Run again: the stage continues from its last checkpoint.", retried: "no" },
  Checkpoint: {
    meaning: "A checkpoint of an earlier start can't be read.",
    remedy: "Fix what the message names; to start over, move the checkpoint away.",
    retried: "sometimes"
  },
  Cluster: {
    meaning: "A Slurm job ended without an outcome, or its result could not be moved into the store.",
    remedy: "Read the end of the job's output in the message.",
    retried: "no"
  },
  CodeChanged: {
    meaning: "The stage's code changed since the run loaded it.",
    remedy: "Run again: finished results are kept.",
    retried: "no"
  },
  Crash: {
    meaning: "The stage's process ended or was killed, or could not be started.",
    remedy: "Read the node's log (`caravan log`). A process that the kernel killed (signal SIGKILL) usually had too little memory.",
    retried: "yes"
  },
  Defect: {
    meaning: "The code threw, or broke a rule of stages: a mistake in the code.",
    remedy: "Fix the code: the message has the file and line.",
    retried: "sometimes"
  },
  Failure: {
    meaning: "The stage failed with an error without a tag.",
    remedy: "Read the message. In your own stage, give the error a tag and `isRetryable`.",
    retried: "yes"
  },
  InputChanged: {
    meaning: "A file outside the store changed while the stage read it.",
    remedy: "Wait until the file is completely written, then run again.",
    retried: "no"
  },
  Interrupted: {
    meaning: "The stage interrupted itself.",
    remedy: "Fix the stage: it must return its output or fail with an error.",
    retried: "no"
  },
  Load: {
    meaning: "The stage's module can't be imported in the stage's process.",
    remedy: "Fix the import: the module must load without the rest of the program.",
    retried: "no"
  },
  Lost: {
    meaning: "The Slurm job was preempted or lost several times, with no new checkpoint in between.",
    remedy: "Look at the node's slurmd log; run again.",
    retried: "yes"
  },
  Memory: {
    meaning: "The stage's process used more memory than its limit.",
    remedy: "Raise the limit, or reduce the batch size.",
    retried: "no"
  },
  Node: {
    meaning:
      "A cluster node can't run the stage: other numerics than the key's, no tensor engine, or the project is not under the same path.",
    remedy: "Use a node with the same software and hardware as the driver, or choose another one.",
    retried: "no"
  },
  NothingWritten: {
    meaning: "The stage returned something other than its own output.",
    remedy: "End the stage with `writeDataset(output, ...)` or the like.",
    retried: "no"
  },
  OutOfMemory: {
    meaning: "The GPU or the machine had no memory left.",
    remedy: "Use fewer rows per batch (`batchSize`, `inferenceBatchSize`), precision bfloat16, or a GPU that no other program uses.",
    retried: "yes"
  },
  Overtaken: {
    meaning: "Another run computed the same node in the meantime.",
    remedy: "Run again to reuse the other run's result.",
    retried: "no"
  },
  Ranks: {
    meaning: "The ranks of a stage can't be started.",
    remedy: "Follow the message: place the stage on one machine, or free a port.",
    retried: "sometimes"
  },
  Shards: {
    meaning: "The parts of a mapped stage can't be read or joined.",
    remedy: "Fix what the message names, then run again.",
    retried: "sometimes"
  },
  SkippedRows: { meaning: "The list of skipped rows can't be written.", remedy: "Free disk space, then run again.", retried: "sometimes" },
  Slurm: {
    meaning: "Slurm refused the job or does not respond, or Slurm is not configured.",
    remedy: "Follow the message; `caravan doctor` also checks Slurm.",
    retried: "sometimes"
  },
  Timeout: {
    meaning: "The stage took longer than its limit.",
    remedy: "Raise the limit, or check its log to see where it hung.",
    retried: "yes"
  },
  TooManySkipped: {
    meaning: "The stage can't use more of its rows than the limit allows.",
    remedy: "Fix the data: the message shows the first rows. Or raise `--max-skipped`.",
    retried: "no"
  },
  Version: {
    meaning: "The job's files were written by another version of caravan than the one on the node.",
    remedy: "Run the same version on both.",
    retried: "no"
  },
  Verify: { meaning: "A node can't be verified.", remedy: "Follow the message.", retried: "no" }
}

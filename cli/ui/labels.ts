/**
 * Labelling in the page: the pairs that an annotation stage waits for (stages/preferences/annotator-file.ts). Each annotator's labels go to a
 * separate file next to the label file, one line per label, so that a crash loses nothing and nobody sees another's labels. When all pairs are
 * labelled, they become the label file.
 */
import { createHash } from "node:crypto"
import { open, readdir, readFile, rename, stat, writeFile } from "node:fs/promises"
import { basename, dirname, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type { RecordedGraph } from "../../runtime/define/recorded-graph.ts"
import { messageOf } from "../../runtime/errors.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import type { Message } from "../../schemas/rows.ts"
import { own } from "../../schemas/own.ts"
import { BadRequest, Broken, Conflict, type LabelTask, type LabelView, NotFound } from "./api.ts"
import { recordedOf } from "./runs.ts"

const recentRuns = 100
const maxBytes = 256 << 20

/** A pair as written by the stage. */
interface Pair {
  readonly id: string
  readonly prompt: ReadonlyArray<Message>
  readonly safety: boolean
  readonly category: string | null
  readonly responseA: string
  readonly responseB: string
}
export interface Choice {
  readonly choice: "A" | "B"
  /** From 0, significantly better, to 3, negligibly better or unsure. */
  readonly rating: number
  readonly safeA: boolean | null
  readonly safeB: boolean | null
}
type Label = Choice & { readonly revision: number }

interface Task extends LabelTask {
  readonly pairsFile: string
}

const tasksOf = (graph: RecordedGraph, run: string, pipeline: string, folder: string): Array<Task> =>
  graph.nodes.flatMap(({ config = {}, id, stage }) => {
    const fields = stage === null ? undefined : own(graph.stages, stage)?.fields
    const { annotator = fields?.annotator?.default, kind = fields?.kind?.default, labelsFile, labelsHint, pairsFile } = config
    if (fields?.pairsFile === undefined || annotator !== "file" || typeof pairsFile !== "string" || pairsFile === "") return []
    const pairs = resolve(folder, pairsFile)
    const labels =
      typeof labelsFile === "string" && labelsFile !== "" ? resolve(folder, labelsFile) : `${pairs.replace(/\.jsonl$/, "")}.labels.jsonl`
    return [
      {
        id: createHash("sha256").update(pairs).digest("hex").slice(0, 16),
        ...{ run, pipeline, node: id, kind: kind === "safety" ? "safety" : "helpfulness", pairsFile: pairs, labelsFile: labels },
        hint: typeof labelsHint === "string" ? labelsHint : "",
        pairs: 0,
        annotators: []
      }
    ]
  })

const attempt = <A>(doing: string, body: () => Promise<A>) =>
  Effect.tryPromise({
    try: body,
    catch: (cause) =>
      cause instanceof BadRequest || cause instanceof Conflict ? cause : new Broken({ message: `${doing}: ${messageOf(cause)}.` })
  })

const linesIn = async (path: string): Promise<ReadonlyArray<Record<string, unknown>>> => {
  const { size } = await stat(path)
  if (size > maxBytes) throw new Error(`${path} has ${size} bytes, more than the page supports`)
  return (await readFile(path, "utf8")).split("\n").flatMap((line) => {
    if (line.trim() === "") return []
    try {
      return [JSON.parse(line) as Record<string, unknown>]
    } catch {
      // A last line truncated by a full disk: the lines before it count.
      return []
    }
  })
}
const whereThere = async <A>(body: () => Promise<A>, otherwise: A): Promise<A> => {
  try {
    return await body()
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return otherwise
    throw cause
  }
}

const isPair = (row: Record<string, unknown>): boolean =>
  typeof row.id === "string" && typeof row.responseA === "string" && typeof row.responseB === "string" && Array.isArray(row.prompt)
const pairsIn = async (path: string): Promise<ReadonlyArray<Pair>> => (await linesIn(path)).filter(isPair) as unknown as ReadonlyArray<Pair>

/** The file of an annotator's labels. Names contain only letters, digits, - and _ (api.ts), so they can't lead to another folder. */
const ownFile = (task: Task, annotator: string): string => `${task.labelsFile.replace(/\.jsonl$/, "")}.by-${annotator}.jsonl`
const annotatorsOf = async (task: Task): Promise<ReadonlyArray<string>> => {
  const prefix = basename(ownFile(task, "")).replace(/\.jsonl$/, "")
  const names = await whereThere(() => readdir(dirname(task.labelsFile)), [] as Array<string>)
  return names
    .flatMap((name) =>
      name.startsWith(prefix) && /^[\w-]{1,32}\.jsonl$/.test(name.slice(prefix.length)) ? [name.slice(prefix.length, -".jsonl".length)] : []
    )
    .sort()
}

/** The annotator's latest label for each pair. */
const labelsOf = async (task: Task, annotator: string): Promise<Map<string, Label>> => {
  const labels = new Map<string, Label>()
  for (const row of await whereThere(() => linesIn(ownFile(task, annotator)), [])) {
    const { choice, id, rating, safeA = null, safeB = null } = row
    if (typeof id !== "string" || (choice !== "A" && choice !== "B") || typeof rating !== "number") continue
    labels.set(id, {
      choice,
      rating,
      safeA: safeA as boolean | null,
      safeB: safeB as boolean | null,
      revision: (labels.get(id)?.revision ?? 0) + 1
    })
  }
  return labels
}

/** Label tasks of recent runs, by their file of pairs: the latest run of each. */
const allTasks = Effect.gen(function* () {
  const journal = yield* Journal
  return yield* journal.read((tables) => {
    const found = new Map<string, Task>()
    for (const run of tables.runs({ limit: recentRuns })) {
      const graph = recordedOf(run, tables)
      if (graph === undefined) continue
      for (const task of tasksOf(graph, run.id, run.pipeline, askedOf(run)?.again?.folder ?? process.cwd()))
        if (!found.has(task.id)) found.set(task.id, task)
    }
    return [...found.values()]
  })
})

export const labelTasks = Effect.gen(function* () {
  const tasks = yield* Effect.forEach(yield* allTasks, ({ pairsFile, ...task }) =>
    attempt(`Reading the pairs ${pairsFile}`, async () => {
      const pairs = await whereThere(() => pairsIn(pairsFile), [])
      if (pairs.length === 0) return []
      const ids = new Set(pairs.map(({ id }) => id))
      const whole = { pairsFile, ...task }
      const annotators = await Promise.all(
        (await annotatorsOf(whole)).map(async (name) => ({
          name,
          done: [...(await labelsOf(whole, name)).keys()].filter((id) => ids.has(id)).length
        }))
      )
      return [{ ...task, pairs: pairs.length, annotators } satisfies LabelTask]
    })
  )
  return tasks.flat()
})

const taskOf = Effect.fnUntraced(function* (id: string) {
  const task = (yield* allTasks).find((one) => one.id === id)
  return task ?? (yield* new NotFound({ message: "No recent run is waiting for these labels." }))
})

/** The pairs of a task with one annotator's labels. */
export const labelView = Effect.fnUntraced(function* (id: string, annotator: string, at: number | undefined) {
  const task = yield* taskOf(id)
  return yield* attempt(`Reading the pairs ${task.pairsFile}`, async () => {
    const pairs = await whereThere(() => pairsIn(task.pairsFile), [])
    const labels = await labelsOf(task, annotator)
    const open = pairs.findIndex((pair) => !labels.has(pair.id))
    const index = at ?? (open === -1 ? 0 : open)
    const pair = pairs[index]
    const { pairsFile: _, ...told } = task
    return {
      task: { ...told, pairs: pairs.length },
      done: pairs.filter((one) => labels.has(one.id)).length,
      index,
      next: ((from) => (from === -1 ? null : from))(pairs.findIndex((one, i) => i > index && !labels.has(one.id))),
      pair:
        pair === undefined
          ? null
          : { id: pair.id, prompt: pair.prompt, responseA: pair.responseA, responseB: pair.responseB, category: pair.category ?? null },
      label: pair === undefined ? null : (labels.get(pair.id) ?? null)
    } satisfies LabelView
  })
})

/** Appends a line. A last line truncated by a full disk is ended first, so that it does not swallow this one. */
const appendLine = async (path: string, line: string): Promise<void> => {
  const file = await open(path, "a+")
  try {
    const { size } = await file.stat()
    const last = Buffer.alloc(1)
    if (size > 0) await file.read(last, 0, 1, size - 1)
    await file.appendFile(`${size > 0 && last.toString() !== "\n" ? "\n" : ""}${line}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Writes are serialized, because each compares the page's view with the current state. */
const writing = Semaphore.makeUnsafe(1)

/** Saves a label. `revision`: how often this annotator had labelled the pair when the page loaded it; another page may have labelled it since. */
export const keepLabel = Effect.fnUntraced(function* (id: string, annotator: string, pair: string, label: Choice, revision: number) {
  const task = yield* taskOf(id)
  return yield* attempt(`Writing the label to ${ownFile(task, annotator)}`, async () => {
    const pairs = await whereThere(() => pairsIn(task.pairsFile), [])
    if (!pairs.some((one) => one.id === pair))
      throw new BadRequest({ message: "This pair is no longer in the batch: the run has since created new pairs. Reload the page." })
    if (task.kind === "safety" && (label.safeA === null || label.safeB === null))
      throw new BadRequest({ message: "A safety label must say for both responses whether they are safe." })
    const labels = await labelsOf(task, annotator)
    const there = labels.get(pair)
    if ((there?.revision ?? 0) !== revision)
      throw new Conflict({
        message: `Another page of ${annotator} has changed this pair's label in the meantime: ${there === undefined ? "removed" : `${there.choice}, rating ${there.rating}`}. Check it and decide again.`
      })
    await appendLine(ownFile(task, annotator), JSON.stringify({ id: pair, ...label, at: new Date().toISOString() }))
    return {
      revision: revision + 1,
      done: new Set([...labels.keys(), pair].filter((one) => pairs.some(({ id: known }) => known === one))).size
    }
  }).pipe(writing.withPermits(1))
})

/**
 * Combines the labels of several annotators: the majority choice (on a tie, the first annotator's); the rounded mean rating of those who made that
 * choice; safe if most say safe, unsafe on a tie.
 */
export const agreed = (labels: ReadonlyArray<Choice>): Choice => {
  const a = labels.filter(({ choice }) => choice === "A").length
  const choice = 2 * a === labels.length ? labels[0]!.choice : 2 * a > labels.length ? "A" : "B"
  const same = labels.filter((label) => label.choice === choice)
  const rating = Math.round(same.reduce((sum, label) => sum + label.rating, 0) / same.length)
  const safe = (which: "safeA" | "safeB") => {
    const told = labels.flatMap((label) => (label[which] === null ? [] : [label[which]]))
    return told.length === 0 ? null : 2 * told.filter(Boolean).length > told.length
  }
  return { choice, rating, safeA: safe("safeA"), safeB: safe("safeB") }
}

/** Creates the label file from the annotators' labels. Existing lines stay; nothing is written before every pair has a label. */
export const finishLabels = Effect.fnUntraced(function* (id: string, annotators: ReadonlyArray<string>) {
  const task = yield* taskOf(id)
  return yield* attempt(`Writing the labels to ${task.labelsFile}`, async () => {
    const pairs = await whereThere(() => pairsIn(task.pairsFile), [])
    const all = await Promise.all(annotators.map((annotator) => labelsOf(task, annotator)))
    const open = pairs.filter((pair) => all.every((labels) => !labels.has(pair.id)))
    if (pairs.length === 0) throw new BadRequest({ message: "There are no more pairs to label." })
    if (open.length > 0) throw new BadRequest({ message: `${open.length} of ${pairs.length} pairs have no label yet.` })
    const before = await whereThere(() => readFile(task.labelsFile, "utf8"), "")
    const there = new Set(before === "" ? [] : (await linesIn(task.labelsFile)).map((row) => row.id))
    const lines = pairs.flatMap((pair) => {
      if (there.has(pair.id)) return []
      const { choice, rating, safeA, safeB } = agreed(all.flatMap((labels) => labels.get(pair.id) ?? []))
      return [`${JSON.stringify({ id: pair.id, choice, rating, ...(task.kind === "safety" ? { safeA, safeB } : {}) })}\n`]
    })
    const part = `${task.labelsFile}.part`
    await writeFile(part, `${before}${before === "" || before.endsWith("\n") ? "" : "\n"}${lines.join("")}`, { flush: true })
    await rename(part, task.labelsFile)
    const shared = pairs.filter((pair) => all.filter((labels) => labels.has(pair.id)).length > 1)
    const split = shared.filter((pair) => new Set(all.flatMap((labels) => labels.get(pair.id)?.choice ?? [])).size > 1)
    return {
      file: task.labelsFile,
      labels: lines.length,
      message: `${lines.length} labels were written to ${task.labelsFile}.${shared.length === 0 ? "" : ` Annotators agreed on ${shared.length - split.length} of ${shared.length} pairs with several labels.`}${task.hint === "" ? " Pass the file to the stage's labels input and run again." : ` Next: ${task.hint}.`}`
    }
  }).pipe(writing.withPermits(1))
})

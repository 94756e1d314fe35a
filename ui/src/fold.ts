/**
 * Folds a graph by rounds: nodes with the same round number in their names become one item until unfolded; so do many nodes whose names differ only
 * by a number.
 */
import type { GraphNode } from "../../cli/ui/api.ts"

export interface Item {
  readonly id: string
  readonly label: string
  /** For a single node: only itself. */
  readonly members: ReadonlyArray<string>
  readonly isGroup: boolean
  readonly isFile: boolean
  readonly inputs: ReadonlyArray<string>
}

/** A round needs at least this many nodes and there must be two rounds; a group of similar nodes needs at least this many. */
const leastRound = 3
const leastKind = 8

/** The round number in a name: "rlhf-v2", "scores-3-of-1" and "reward-2-accuracy" belong to rounds 2, 3 and 2. */
const roundIn = (id: string): string | undefined => /(?:^|[-_./ ])(?:v|round)?(\d{1,4})(?=$|[-_./ ])/i.exec(id)?.[1]
const kindOf = (id: string): string => id.replaceAll(/\d+/g, "#")

const afterRounds = "after the rounds"
/** Nodes that no group depends on: measurements of the rounds' results, and nodes used only for measuring. */
const afterGroups = (nodes: ReadonlyArray<GraphNode>, of: ReadonlyMap<string, string>): Set<string> => {
  const leading = new Set<string>()
  // Inputs come first.
  for (const { id, inputs } of nodes.toReversed()) if (of.has(id) || leading.has(id)) for (const input of inputs) leading.add(input)
  return new Set(nodes.flatMap(({ id }) => (leading.has(id) || of.has(id) ? [] : [id])))
}

/** Node -> its group, if any; and each group's label. */
export const groupsOf = (
  nodes: ReadonlyArray<GraphNode>
): { readonly of: ReadonlyMap<string, string>; readonly labels: ReadonlyMap<string, string> } => {
  const [of, labels] = [new Map<string, string>(), new Map<string, string>()]
  const gather = (key: (id: string) => string | undefined, least: number, label: (key: string) => string, leastGroups: number) => {
    const found = new Map<string, Array<string>>()
    for (const { id } of nodes) {
      const name = of.has(id) ? undefined : key(id)
      if (name !== undefined) found.set(name, [...(found.get(name) ?? []), id])
    }
    const large = [...found].filter(([, ids]) => ids.length >= least)
    if (large.length < leastGroups) return
    for (const [name, ids] of large) {
      labels.set(label(name), label(name))
      for (const id of ids) of.set(id, label(name))
    }
  }
  gather(roundIn, leastRound, (round) => `round ${round}`, 2)
  const ends = labels.size === 0 ? new Set<string>() : afterGroups(nodes, of)
  gather(
    (id) => (ends.has(id) ? afterRounds : undefined),
    leastKind,
    () => afterRounds,
    1
  )
  gather(kindOf, leastKind, (kind) => kind, 1)
  return { of, labels }
}

/** The items of the graph with these groups unfolded. */
export const itemsOf = (
  nodes: ReadonlyArray<GraphNode>,
  groups: ReadonlyMap<string, string>,
  unfolded: ReadonlySet<string>
): ReadonlyArray<Item> => {
  const itemOf = (id: string): string => {
    const group = groups.get(id)
    return group === undefined || unfolded.has(group) ? id : `group:${group}`
  }
  const items = new Map<string, { label: string; members: Array<string>; isGroup: boolean; isFile: boolean; inputs: Set<string> }>()
  for (const { id, stage, inputs } of nodes) {
    const name = itemOf(id)
    let item = items.get(name)
    if (item === undefined) {
      const isGroup = name !== id
      items.set(name, (item = { label: isGroup ? groups.get(id)! : id, members: [], isGroup, isFile: stage === null, inputs: new Set() }))
    }
    item.members.push(id)
    for (const input of inputs) if (itemOf(input) !== name) item.inputs.add(itemOf(input))
  }
  return [...items].map(([id, item]) => ({ ...item, id, inputs: [...item.inputs] }))
}

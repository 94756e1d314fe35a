/** Positions of a graph's items. dagre (Gansner et al. 1993) takes seconds for more than a few hundred items: larger graphs are laid out only by rank. */
import dagre from "@dagrejs/dagre"

export interface Box {
  readonly id: string
  readonly width: number
  readonly height: number
  readonly inputs: ReadonlyArray<string>
}
export interface Place {
  readonly x: number
  readonly y: number
}
export interface Layout {
  readonly places: ReadonlyMap<string, Place>
  readonly width: number
  readonly height: number
}

const mostForDagre = 150
const gap = { rank: 44, node: 10 }

export const layout = (boxes: ReadonlyArray<Box>, direction: "LR" | "TB"): Layout =>
  boxes.length > mostForDagre ? byRanks(boxes, direction) : byDagre(boxes, direction)

const byDagre = (boxes: ReadonlyArray<Box>, direction: "LR" | "TB"): Layout => {
  const graph = new dagre.graphlib.Graph()
  graph.setGraph({ rankdir: direction, ranksep: gap.rank, nodesep: gap.node, edgesep: 6, marginx: 8, marginy: 8 })
  graph.setDefaultEdgeLabel(() => ({}))
  const known = new Set(boxes.map(({ id }) => id))
  for (const { id, width, height } of boxes) graph.setNode(id, { width, height })
  for (const { id, inputs } of boxes) for (const input of inputs) if (known.has(input)) graph.setEdge(input, id)
  dagre.layout(graph)
  const { width = 0, height = 0 } = graph.graph()
  const places = new Map(boxes.map(({ id }) => [id, { x: graph.node(id).x, y: graph.node(id).y }] as const))
  return { places, width, height }
}

/** An item's rank is one more than the maximum rank of its inputs; within a rank, items are ordered by the mean position of their inputs. */
const byRanks = (boxes: ReadonlyArray<Box>, direction: "LR" | "TB"): Layout => {
  const byId = new Map(boxes.map((box) => [box.id, box]))
  const ranks = new Map<string, number>()
  const rankOf = (start: string): number => {
    const open = [start]
    const entered = new Set<string>()
    while (open.length > 0) {
      const id = open.at(-1)!
      const inputs = byId.get(id)!.inputs.filter((input) => byId.has(input))
      const next = entered.has(id) ? undefined : inputs.filter((input) => !ranks.has(input) && !entered.has(input))
      entered.add(id)
      if (next !== undefined && next.length > 0) open.push(...next)
      else {
        open.pop()
        if (!ranks.has(id))
          ranks.set(
            id,
            inputs.reduce((most, input) => Math.max(most, (ranks.get(input) ?? -1) + 1), 0)
          )
      }
    }
    return ranks.get(start)!
  }
  const rows: Array<Array<Box>> = []
  for (const box of boxes) (rows[rankOf(box.id)] ??= []).push(box)
  const [along, across] = direction === "LR" ? (["width", "height"] as const) : (["height", "width"] as const)
  const at = new Map<string, number>()
  const places = new Map<string, Place>()
  let [offset, widest] = [8, 0]
  for (const row of rows) {
    const wanted = new Map(
      row.map(({ id, inputs }) => {
        const known = inputs.flatMap((input) => at.get(input) ?? [])
        return [id, known.length === 0 ? 0 : known.reduce((sum, value) => sum + value, 0) / known.length] as const
      })
    )
    row.sort((a, b) => wanted.get(a.id)! - wanted.get(b.id)!)
    const deepest = Math.max(...row.map((box) => box[along]))
    let next = 8
    for (const box of row) {
      const centre = next + box[across] / 2
      at.set(box.id, centre)
      const middle = offset + deepest / 2
      places.set(box.id, direction === "LR" ? { x: middle, y: centre } : { x: centre, y: middle })
      next += box[across] + gap.node
    }
    widest = Math.max(widest, next)
    offset += deepest + gap.rank
  }
  return direction === "LR" ? { places, width: offset, height: widest } : { places, width: widest, height: offset }
}

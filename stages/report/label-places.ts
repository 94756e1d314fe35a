/** Places the names of points in a figure so that no name covers another, a point, an error bar, or another name's line to its point. */

/** A point in pixels, with the ends of its error bars. */
export interface Point {
  readonly name: string
  readonly x: number
  readonly y: number
  readonly left: number
  readonly right: number
  readonly top: number
  readonly bottom: number
}
interface Box {
  readonly left: number
  readonly right: number
  readonly top: number
  readonly bottom: number
}
/** A name's position: its anchor, and the start of a line to its point. */
export interface Place extends Point {
  readonly labelX: number
  readonly labelY: number
  readonly align: "left" | "right" | "center"
}

/** Letters of a size-11 sans serif are about 6 pixels wide. */
const letter = 6
const lineHeight = 12

const overlap = (a: Box, b: Box): number =>
  Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) * Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top))

/** Directions from a point: beside it, above and below, and diagonal. */
const directions = [
  [1, -1],
  [1, 1],
  [-1, -1],
  [-1, 1],
  [1, 0],
  [-1, 0],
  [0, -1],
  [0, 1]
] as const
const distances = [10, 16, 24, 34, 46, 60, 76, 94]

interface Spot {
  readonly x: number
  readonly y: number
}
/** Spots on the line from a name to its point. */
const lineTo = (point: Spot, labelX: number, labelY: number): ReadonlyArray<Spot> =>
  Array.from({ length: 12 }, (_, i) => ({
    x: labelX + ((i + 1) / 13) * (point.x - labelX),
    y: labelY + ((i + 1) / 13) * (point.y - labelY)
  }))
/** The cost of a name on a line, in square pixels, for each spot. */
const crossed = 20
const crossings = (box: Box, line: ReadonlyArray<Spot>): number =>
  line.filter(({ x, y }) => x > box.left && x < box.right && y > box.top && y < box.bottom).length * crossed

const boxOf = (name: string, x: number, y: number, align: Place["align"]): Box => {
  const width = letter * name.length
  const left = align === "left" ? x : align === "right" ? x - width : x - width / 2
  return { left, right: left + width, top: y - lineHeight / 2, bottom: y + lineHeight / 2 }
}

/** The closest position for each name that covers nothing; if there is none, the one that covers least. */
export const placeLabels = (points: ReadonlyArray<Point>, [width, height]: readonly [number, number]): ReadonlyArray<Place> => {
  const taken: Array<Box> = points.flatMap(({ bottom, left, right, top, x, y }) => [
    { left: x - 5, right: x + 5, top: y - 5, bottom: y + 5 },
    { left, right, top: y - 1.5, bottom: y + 1.5 },
    { left: x - 1.5, right: x + 1.5, top, bottom }
  ])
  const placed: Array<{ readonly box: Box; readonly line: ReadonlyArray<Spot> }> = []
  return points.map((point) => {
    const places = distances.flatMap((distance) =>
      directions.map(([across, down]) => {
        const align = across > 0 ? ("left" as const) : across < 0 ? ("right" as const) : ("center" as const)
        const [labelX, labelY] = [point.x + across * distance * 0.8, point.y + down * distance]
        const box = boxOf(point.name, labelX, labelY, align)
        const outside = Math.max(0, -box.left) + Math.max(0, box.right - width) + Math.max(0, -box.top) + Math.max(0, box.bottom - height)
        const covered = taken.reduce((sum, other) => sum + overlap(box, other), 0)
        const line = lineTo(point, labelX, labelY)
        const onLines = placed.reduce((sum, other) => sum + crossings(box, other.line) + crossings(other.box, line), 0)
        return { labelX, labelY, align, box, line, cost: covered + onLines + 100 * outside }
      })
    )
    const { box, cost: _, line, ...place } = places.reduce((best, one) => (one.cost < best.cost ? one : best))
    taken.push(box)
    placed.push({ box, line })
    return { ...point, ...place }
  })
}

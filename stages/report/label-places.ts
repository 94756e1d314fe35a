/** Where the names of points go in a figure, so that none covers another. */

interface Labelled {
  readonly name: string
  readonly helpfulness: number
  readonly safety: number
  readonly helpfulnessLow: number
  readonly helpfulnessHigh: number
  readonly safetyLow: number
  readonly safetyHigh: number
}
interface Box {
  readonly left: number
  readonly right: number
  readonly top: number
  readonly bottom: number
}

/** Where each name goes beside its point, in a figure of so many pixels: the nearest place that is on no point and no name before it. */
export const placeLabels = (rows: ReadonlyArray<Labelled>, [width, height]: readonly [number, number]) => {
  const scale = (lows: ReadonlyArray<number>, highs: ReadonlyArray<number>, pixels: number) => {
    const [low, high] = [Math.min(...lows), Math.max(...highs)]
    return (value: number) => (high > low ? ((value - low) / (high - low)) * pixels : pixels / 2)
  }
  const across = scale(
    rows.map((row) => row.helpfulnessLow),
    rows.map((row) => row.helpfulnessHigh),
    width
  )
  const up = scale(
    rows.map((row) => row.safetyLow),
    rows.map((row) => row.safetyHigh),
    height
  )
  const points = rows.map((row) => ({ x: across(row.helpfulness), y: height - up(row.safety) }))
  const overlaps = (a: Box, b: Box) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
  const taken: Array<Box> = points.map(({ x, y }) => ({ left: x - 5, right: x + 5, top: y - 5, bottom: y + 5 }))
  const places = [9, 18, 27, 36, 45].flatMap((dy) => [-dy, dy].flatMap((dy) => [7, -7].map((dx) => ({ dx, dy }))))
  return rows.map(({ name, helpfulness, safety }, i) => {
    const { x, y } = points[i]!
    const boxes = places.map(({ dx, dy }): Box => {
      // Letters of a size-11 sans serif are about 6 pixels wide.
      const [near, far] = [x + dx, x + dx + Math.sign(dx) * 6 * name.length]
      return { left: Math.min(near, far), right: Math.max(near, far), top: y + dy - 6, bottom: y + dy + 6 }
    })
    const free = boxes.findIndex((box) => box.left >= -20 && box.right <= width + 20 && !taken.some((other) => overlaps(box, other)))
    const chosen = Math.max(0, free)
    taken.push(boxes[chosen]!)
    return { name, helpfulness, safety, ...places[chosen]!, align: places[chosen]!.dx > 0 ? "left" : "right" }
  })
}

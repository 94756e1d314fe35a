/** Where a figure puts the names of its points (stages/report/label-places.ts). */
import { describe, expect, it } from "vitest"
import { placeLabels } from "../../../stages/report/label-places.ts"

describe("names in a figure", () => {
  const size = [560, 380] as const
  const at = (name: string, x: number, y: number) => ({ name, x, y, left: x - 20, right: x + 20, top: y - 20, bottom: y + 20 })
  const boxOf = ({ align, labelX, labelY, name }: ReturnType<typeof placeLabels>[number]) => {
    const width = 6 * name.length
    const left = align === "left" ? labelX : align === "right" ? labelX - width : labelX - width / 2
    return { left, right: left + width, top: labelY - 6, bottom: labelY + 6 }
  }
  const overlaps = (a: ReturnType<typeof boxOf>, b: ReturnType<typeof boxOf>) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
  it("are above and to the right of an isolated point", () => {
    expect(placeLabels([at("base", 100, 200)], size)).toEqual([{ ...at("base", 100, 200), labelX: 108, labelY: 190, align: "left" }])
  })
  it("cover neither each other nor a point, and stay inside, even if versions are nearly equally good", () => {
    // As in three seeds of the study: five within a twentieth of the figure, at its right edge.
    const points = [
      at("base", 20, 350),
      ...["rlhf-v2", "rlhf-v3", "rlhf-v4", "rlhf-v5-rs", "rlhf-v5"].map((name, i) => at(name, 500 + 10 * i, 60 - 7 * i))
    ]
    const boxes = placeLabels(points, size).map(boxOf)
    boxes.forEach((box, i) => {
      expect(box.left >= 0 && box.right <= size[0] && box.top >= 0 && box.bottom <= size[1]).toBe(true)
      for (const other of boxes.slice(i + 1)) expect(overlaps(box, other)).toBe(false)
      for (const { x, y } of points) expect(overlaps(box, { left: x - 5, right: x + 5, top: y - 5, bottom: y + 5 })).toBe(false)
    })
  })
  it("are not crossed by the lines from other names to their points, even on a phone", () => {
    // A small run of the demo at 390 pixels: names, points and half the error bars.
    const found: ReadonlyArray<readonly [string, number, number, number, number]> = [
      ["base", 36, 257, 25, 74],
      ["sft", 134, 215, 28, 61],
      ["rlhf-v1", 202, 187, 27, 66],
      ["rlhf-v2", 162, 129, 28, 58],
      ["rlhf-v3", 151, 168, 26, 61],
      ["rlhf-v4", 173, 99, 27, 60],
      ["rlhf-v5-rs", 188, 77, 28, 56],
      ["rlhf-v5", 171, 68, 28, 52],
      ["sft-as-many-steps", 208, 196, 27, 56],
      ["random-of-k", 236, 221, 29, 61]
    ]
    const points = found.map(([name, x, y, across, down]) => ({
      ...{ name, x, y, left: x - across, right: x + across, top: y - down, bottom: y + down }
    }))
    const places = placeLabels(points, [280, 330])
    for (const one of places)
      for (const other of places.filter(({ name }) => name !== one.name)) {
        const box = boxOf(other)
        // The line's middle, in twentieths.
        const spots = Array.from({ length: 19 }, (_, i) => (i + 1) / 20).map((part) => ({
          x: one.labelX + part * (one.x - one.labelX),
          y: one.labelY + part * (one.y - one.labelY)
        }))
        const inside = spots.filter(({ x, y }) => x > box.left + 2 && x < box.right - 2 && y > box.top + 2 && y < box.bottom - 2)
        expect([one.name, other.name, inside]).toEqual([one.name, other.name, []])
      }
  })
})

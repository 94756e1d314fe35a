/** Trees that would expand to more messages than they contain. */
import { describe, expect, it } from "vitest"
import { pairsOfTree, treeReader } from "../../../data/shapes/oasst.ts"

const message = (id: string, parent: string | undefined, role: "prompter" | "assistant", rank?: number) => ({
  ...{ message_id: id, message_tree_id: "t", text: `${role} ${id} ${rank ?? ""}`, role },
  ...(parent === undefined ? {} : { parent_id: parent }),
  ...(rank === undefined ? {} : { rank })
})
const read = (rows: ReadonlyArray<unknown>) => {
  const reader = treeReader(
    (tree, id) => pairsOfTree(tree, id, "test", "all"),
    () => {}
  )
  const made = rows.flatMap((row, i) => reader.rows(row, i + 1))
  return [...made, ...reader.end()]
}

describe("messages of a tree", () => {
  it("have unique ids: replies to two messages with one id would appear twice, and theirs four times", () => {
    const rows = [message("a", undefined, "prompter"), message("b", "a", "assistant", 0), message("c", "a", "assistant", 1)]
    expect(read(rows)).toHaveLength(1)
    expect(() => read([...rows, message("b", "a", "assistant", 2)])).toThrow('expected a unique id, found "b" twice in the tree')
  })
  it("may reuse the ids of another tree", () => {
    const tree = (name: string) =>
      [message("a", undefined, "prompter"), message("b", "a", "assistant", 0), message("c", "a", "assistant", 1)].map((row) => ({
        ...row,
        message_tree_id: name
      }))
    expect(read([...tree("t"), ...tree("u")])).toHaveLength(2)
  })
  it("have at most 200 ranked answers each", () => {
    const rows = (count: number) => [
      message("a", undefined, "prompter"),
      ...Array.from({ length: count }, (_, i) => message(`b${i}`, "a", "assistant", i))
    ]
    expect(read(rows(200))).toHaveLength((200 * 199) / 2)
    expect(() => read(rows(201))).toThrow("expected at most 200 ranked answers to a message, found 201")
  })
})

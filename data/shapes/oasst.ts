/**
 * OpenAssistant's conversation trees (Köpf et al. 2023): {message_tree_id, prompt: {text, role, replies: [...]}}, or one message per row, each naming its
 * parent. Sibling answers have ranks; 0 is the best. Deleted messages and their descendants are ignored.
 */
import type { Demonstration, Message, Preference } from "../../schemas/rows.ts"
import { BadRow, LeftOut } from "../read/record.ts"
import { field, nonEmpty, optional, preference, text } from "./fields.ts"

interface Node {
  readonly message: Message
  readonly rank: number | undefined
  readonly replies: ReadonlyArray<Node>
}

/** Maximum depth of a dialogue; a damaged file may have any depth. */
const maxDepth = 1000
/** Maximum ranked answers to one message: n of them make n (n - 1) / 2 pairs. OpenAssistant's messages have at most ten. */
const maxAnswers = 200

const messageOf = (value: unknown, at: string): Message => {
  const inner = (name: string) => (at === "(the row)" ? name : `${at}.${name}`)
  const role = text(value, "role", inner("role"))
  if (role !== "prompter" && role !== "assistant")
    throw new BadRow(
      inner("role"),
      `expected prompter or assistant, found ${JSON.stringify(role.slice(0, 40))}`,
      "field role: not prompter or assistant"
    )
  return { role: role === "prompter" ? "user" : "assistant", content: nonEmpty(value, "text", inner("text")) }
}
const rankOf = (value: unknown): number | undefined => {
  const rank = optional(value, "rank")
  return typeof rank === "number" ? rank : undefined
}
const isThere = (value: unknown): boolean => optional(value, "deleted") !== true

const nodeOf = (value: unknown, at: string, depth = 0): Node => {
  if (depth > maxDepth) throw new BadRow(at, `a tree deeper than ${maxDepth}`)
  const replies = optional(value, "replies", `${at}.replies`) ?? []
  if (!Array.isArray(replies)) throw new BadRow(`${at}.replies`, "expected a list")
  return {
    message: messageOf(value, at),
    rank: rankOf(value),
    replies: replies.filter(isThere).map((reply, i) => nodeOf(reply, `${at}.replies[${i}]`, depth + 1))
  }
}

/** The tree of a row. */
const treeOf = (value: unknown): Node => {
  const prompt = field(value, "prompt")
  if (!isThere(prompt)) throw new LeftOut("trees whose prompt was deleted")
  return nodeOf(prompt, "prompt")
}

/** Siblings, best first; those without a rank come last, in their original order. */
const ranked = (nodes: ReadonlyArray<Node>): ReadonlyArray<Node> =>
  nodes.toSorted((a, b) => (a.rank ?? Infinity) - (b.rank ?? Infinity) || 0)

/** Pairs of ranked sibling answers, with the better one chosen: all pairs, or only the best and the worst. */
export const pairsOfTree = (tree: Node, id: string, source: string, pairs: "all" | "best-worst"): ReadonlyArray<Preference> => {
  const out: Array<Preference> = []
  const visit = (node: Node, before: ReadonlyArray<Message>): void => {
    const prompt = [...before, node.message]
    const answers = ranked(node.replies.filter(({ message, rank }) => message.role === "assistant" && rank !== undefined))
    if (answers.length > maxAnswers)
      throw new BadRow(
        "replies",
        `expected at most ${maxAnswers} ranked answers to a message, found ${answers.length}`,
        `more than ${maxAnswers} ranked answers to a message`
      )
    if (node.message.role === "user")
      answers.forEach((better, i) => {
        answers.slice(i + 1).forEach((worse, j) => {
          if (better.rank === worse.rank || better.message.content === worse.message.content) return
          if (pairs === "best-worst" && !(i === 0 && i + 1 + j === answers.length - 1)) return
          out.push(preference(`${id}/${out.length}`, prompt, better.message.content, worse.message.content, source))
        })
      })
    for (const reply of node.replies) visit(reply, prompt)
  }
  visit(tree, [])
  if (out.length === 0) throw new LeftOut("trees without ranked answers")
  return out
}

/** The dialogue along the best replies, ending with an answer. */
export const bestPath = (tree: Node, id: string): Demonstration => {
  const messages: Array<Message> = [tree.message]
  for (let node: Node | undefined = ranked(tree.replies)[0]; node !== undefined; node = ranked(node.replies)[0]) messages.push(node.message)
  const last = messages.findLastIndex(({ role }) => role === "assistant")
  if (last === -1) throw new LeftOut("trees without an answer")
  return { id, messages: messages.slice(0, last + 1), loss: "answers" }
}

/** Builds the tree of messages that name their parents. Messages whose parent is missing are passed to `leaveOut`. */
const assembled = (messages: ReadonlyArray<unknown>, leaveOut: (reason: string) => void): Node => {
  const byParent = Map.groupBy(messages.filter(isThere), (message) => optional(message, "parent_id"))
  const [root] = byParent.get(undefined) ?? []
  if (root === undefined) throw new LeftOut("trees whose prompt is missing")
  let reached = 0
  const build = (message: unknown, depth: number): Node => {
    if (depth > maxDepth) throw new BadRow("parent_id", `a tree deeper than ${maxDepth}`)
    reached++
    return {
      message: messageOf(message, "(the row)"),
      rank: rankOf(message),
      replies: (byParent.get(text(message, "message_id")) ?? []).map((reply) => build(reply, depth + 1))
    }
  }
  const tree = build(root, 0)
  for (let i = reached; i < messages.length; i++) leaveOut("messages that were deleted, or whose parent is missing")
  return tree
}

/** Reads complete trees, or trees with one message per row; `give` makes rows from each. The messages of a tree must be consecutive. */
export const treeReader = <Row>(give: (tree: Node, id: string) => ReadonlyArray<Row>, leaveOut: (reason: string) => void) => {
  let held: { readonly tree: string; readonly line: number; readonly messages: Array<unknown>; readonly ids: Set<string> } | undefined
  const ended = new Set<string>()
  const rowsOf = (of: typeof held): ReadonlyArray<Row> => (of === undefined ? [] : give(assembled(of.messages, leaveOut), `${of.line}`))
  return {
    rows: (value: unknown, line: number): ReadonlyArray<Row> => {
      if (optional(value, "prompt") !== undefined) return give(treeOf(value), `${line}`)
      const tree = text(value, "message_tree_id")
      // Checked now, so that the error names this row.
      messageOf(value, "(the row)")
      const id = text(value, "message_id")
      if (ended.has(tree))
        throw new BadRow(
          "message_tree_id",
          "a message of a tree that ended earlier: the messages of a tree must be consecutive",
          "field message_tree_id: a tree in several parts"
        )
      if (held?.tree === tree) {
        // Both messages would get all replies to either: a few such generations make millions of dialogues.
        if (held.ids.has(id))
          throw new BadRow(
            "message_id",
            `expected a unique id, found ${JSON.stringify(id.slice(0, 40))} twice in the tree`,
            "field message_id: twice in a tree"
          )
        held.ids.add(id)
        held.messages.push(value)
        return []
      }
      const before = held
      if (before !== undefined) ended.add(before.tree)
      held = { tree, line, messages: [value], ids: new Set([id]) }
      return rowsOf(before)
    },
    end: (): ReadonlyArray<Row> => {
      const before = held
      held = undefined
      return rowsOf(before)
    }
  }
}

/** Short type names for the nodes that parts of pipelines exchange, and for the two kinds of preferences. */
import type { Node } from "../runtime/define/node.ts"
import type { Checkpoint, Dataset } from "../schemas/artifact.ts"

export type Rows<Row> = Node<Dataset<Row>>
export type Policy = Node<Checkpoint<"policy">>
export type HelpfulnessReward = Node<Checkpoint<"helpfulness-reward">>
export type SafetyReward = Node<Checkpoint<"safety-reward">>
export interface Rewards {
  readonly helpfulness: HelpfulnessReward
  readonly safety: SafetyReward
}

/** §3.2.1: preferences are collected with two guidelines, on separate prompts. */
export type Kind = "helpfulness" | "safety"
export const kinds: ReadonlyArray<Kind> = ["helpfulness", "safety"]
export type ByKind<A> = Readonly<Record<Kind, A>>
export const byKind = <A>(make: (kind: Kind) => A): ByKind<A> => ({ helpfulness: make("helpfulness"), safety: make("safety") })

// Types survive the packing: this file compiles only because each of these is an error.
import { fileAt, Policy, type Node } from "caravan"
import { norms } from "./norms.ts"

const numbers = fileAt("numbers.json")

// @ts-expect-error: the norms of norms: a report is not a file
norms({ numbers: norms({ numbers }) })
// @ts-expect-error: a port without a node
norms({})
// @ts-expect-error: an unknown hyperparameter
norms({ numbers }, { pwer: 3 })
// @ts-expect-error: a report is not a policy
export const policy: Node<typeof Policy> = norms({ numbers })

// Code that must not compile, and why: each line is an error of that code whose text contains this (tests/package.test.ts compiles it without the expectations).
import { Caravan, type Checkpoint, fileAt, type Node } from "caravan"
import { norms } from "./norms.ts"
import { pairs, pipeline, policy, shout } from "./right.ts"

const numbers = fileAt("numbers.json")

// @ts-expect-error TS2322 Type '"report"' is not assignable to type '"file"'
norms({ numbers: norms({ numbers }) })
// @ts-expect-error TS2345 Property 'numbers' is missing
norms({})
// @ts-expect-error TS2561 'pwer' does not exist
norms({ numbers }, { pwer: 3 })
// @ts-expect-error TS2322 Property 'role' is missing in type 'Report<
export const report: Node<Checkpoint<"policy">> = norms({ numbers })
// @ts-expect-error TS2322 Type '"policy"' is not assignable to type '"value"'
export const value: Node<Checkpoint<"value">> = policy
// @ts-expect-error TS2322 Property 'text' is missing
shout({ words: pairs, more: [], policy })
// @ts-expect-error TS2741 Property 'data' is missing
Caravan.run(pipeline, {})

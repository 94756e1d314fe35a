/** Calls ATen operators by name. Errors describe the operands. */
import { type Argument, findOperator, type Handle, isOutOfMemory, native } from "../native.ts"

/** An operator failed: its name, the operands that it got, and the operands that it expects. */
export class TensorError extends Error {
  override readonly name = "TensorError"
  readonly operator: string
  readonly got: string
  readonly expected: string
  /** Set if there was no memory for the result (native.ts `isOutOfMemory`). */
  readonly code: string | undefined
  constructor(fields: { operator: string; got: string; expected: string; reason: string; code?: string }) {
    super(`${fields.operator}: got ${fields.got || "no tensors"}; expected ${fields.expected}. ${fields.reason}`)
    this.operator = fields.operator
    this.got = fields.got
    this.expected = fields.expected
    this.code = fields.code
  }
}

/** The part of a tensor that operators need. */
interface Handled {
  readonly handle: Handle
  toString(): string
}
export type Operand = Argument | Handled | ReadonlyArray<Handled | null>

const isHandled = (operand: unknown): operand is Handled => typeof operand === "object" && operand !== null && "handle" in operand

const describeOperand = (operand: Operand): Array<string> => {
  if (isHandled(operand)) return [String(operand)]
  if (Array.isArray(operand) && isHandled(operand[0])) return [`[${operand.slice(0, 4).join(", ")}${operand.length > 4 ? ", ..." : ""}]`]
  return operand === undefined || operand === null ? [] : [JSON.stringify(operand)]
}

const lower = (operand: Operand): Argument => {
  if (isHandled(operand)) return operand.handle
  if (Array.isArray(operand) && operand.length > 0 && typeof operand[0] === "object") {
    return (operand as ReadonlyArray<Handled | null>).map((tensor) => (tensor === null ? null : tensor.handle))
  }
  return operand as Argument
}

/** Calls an ATen operator, which returns handles and numbers. `expected` describes the expected operands, for the error message. */
export const invoke = (name: string, expected: string, operands: ReadonlyArray<Operand>): any => {
  const operator = findOperator(name)
  const args: Array<Argument> = []
  for (const operand of operands) args.push(lower(operand))
  try {
    return native().call(operator, ...args)
  } catch (cause) {
    if (operator === -1)
      throw new TensorError({
        operator: name,
        got: "",
        expected: "an operator of this libtorch",
        reason: `libtorch ${native().environment().libtorch} has no operator of that name`
      })
    // Describing a freed tensor throws, which would hide the original message.
    let got: string
    try {
      got = operands.flatMap(describeOperand).join(", ")
    } catch {
      got = "a freed tensor"
    }
    const reason = cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause)
    // The operands were right, but there was no memory for the result.
    const outOfMemory = isOutOfMemory(cause)
    throw new TensorError({
      ...(outOfMemory ? { code: cause.code } : {}),
      operator: name,
      got,
      expected: outOfMemory ? "memory for the result: lower the batch size, or check what else uses the device" : expected,
      reason
    })
  }
}

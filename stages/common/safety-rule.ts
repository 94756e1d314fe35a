import type { Preference } from "../../schemas/rows.ts"

/**
 * The safety rule of preference data (Llama 2 §3.2.1): whether a pair's chosen response is unsafe while the other is safe. Such a pair is dropped, regardless of the
 * annotator: "we do not include any examples where the chosen response was unsafe and the other response safe". The rule does not apply if a label is missing.
 */
export const choseUnsafe = ({ chosenSafe, rejectedSafe }: Pick<Preference, "chosenSafe" | "rejectedSafe">): boolean =>
  chosenSafe === false && rejectedSafe === true

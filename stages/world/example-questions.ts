/** Questions of the small world for people to ask a model that knows it, of words that it did not learn from. */
import { ask } from "../../data/world/tasks.ts"
import { Random } from "../../engine/random.ts"

/** Three to answer and one to refuse; always the same. */
export const exampleQuestions = (): ReadonlyArray<string> => {
  const draw = new Random(0, "caravan sample", "questions")
  return (["harmless", "harmless", "harmless", "adversarial"] as const).map((wanted) => ask(draw, "heldOut", wanted).text)
}

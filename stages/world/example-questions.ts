/** Example questions of the small world, with words that the model was not trained on, for people who talk to such a model. */
import { ask } from "../../data/world/tasks.ts"
import { Random } from "../../engine/random.ts"

/** Three to answer and one to refuse; always the same. */
export const exampleQuestions = (): ReadonlyArray<string> => {
  const draw = new Random(0, "caravan sample", "questions")
  return (["harmless", "harmless", "harmless", "adversarial"] as const).map((wanted) => ask(draw, "heldOut", wanted).text)
}

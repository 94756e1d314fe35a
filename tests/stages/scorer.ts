/** Custom scorers (critic-free/scorers/) as stages take them in place of a reward model. */
import { fileURLToPath } from "node:url"
import { helpfulnessScorer } from "../../stages/reward/scorers.ts"
import { runStage } from "./running.ts"

export const scorer = (name: "letters" | "constant" | "fading") => {
  const path = fileURLToPath(new URL(`critic-free/scorers/${name}.mjs`, import.meta.url))
  return runStage(helpfulnessScorer, { code: { path, type: "file", digest: name, contentDigest: name } })
}

/**
 * From which round should PPO follow rejection sampling? §3.2.3 combines both only for the last version; here also for the one before. The last version is evaluated on prompts that
 * are new for each run seed.
 *
 *     caravan run pipelines/studies/ppo-from.ts --device cuda --seed 0 --set judgingSeed=300 --json > from5-0.json                                     # and 1 to 7
 *     caravan run ... --set ppoFrom=4 --set ppoIterations=30 --json > from4-0.json                                  # the same number of PPO completions and updates in all
 *     caravan run ... --set ppoFrom=4 --set ppoIterations=30 --set ppoUse=samples --json > samples-0.json           # the version after PPO answers prompts, but collects no pairs
 *     node bench/studies.ts ppo-from from5-*.json -- from4 from4-*.json -- samples samples-*.json
 *
 * The three share everything up to the third round, which runs once on one store. Rejection sampling's temperature is swept again in every round.
 */
import * as Schema from "effect/Schema"
import * as Pipeline from "../../runtime/define/pipeline.ts"
import { hyper } from "../../schemas/hyper.ts"
import { studyParams } from "../study.ts"
import type { WorldParams } from "../world/params.ts"
import { worldRecipe } from "../world/recipe.ts"
import { type Arm, armParams, judgedArms, judgingPrompts, scorersOf, versionOf } from "./arms.ts"

const Params = Schema.Struct({
  ...studyParams,
  judgingSeed: armParams.judgingSeed,
  temperatures: hyper(
    "swept",
    "sampling temperature of rejection sampling from the second round on: fixed, or the best of a sweep in the previous round (§3.2.3)",
    ["fixed", "swept"]
  )
})

export default Pipeline.make(
  "ppo-from",
  { description: "compares PPO after the last round with PPO after the last two rounds", params: Params },
  ({ judgingSeed, ...rest }) => {
    const world: WorldParams = rest
    const recipe = worldRecipe(world)
    const arms: ReadonlyArray<Arm> = [`rlhf-v${world.rounds}-rs`, `rlhf-v${world.rounds}`].map((name) => [name, versionOf(recipe, name)])
    const rewards = scorersOf(recipe)
    return judgedArms(arms, { prompts: judgingPrompts(world, judgingSeed), reference: recipe.sft, rewards, world })
  }
)

/** Statistics of preference data annotated by the small world's oracle, whose choices can be recomputed. */
import { grade } from "../../data/world/oracle.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { statisticsStage } from "../preferences/preference-statistics.ts"
import { gradeDifference } from "./annotate.ts"

export const worldPreferenceStatistics = Stage.make(
  "world-preference-statistics",
  statisticsStage((pair, kind) => gradeDifference(pair, kind, grade(pair.prompt, pair.responseA), grade(pair.prompt, pair.responseB)) !== 0)
)

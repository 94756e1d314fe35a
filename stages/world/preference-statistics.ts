/** Statistics of the preference data that the small world's oracle annotated: what it would choose can be told again. */
import { grade } from "../../data/world/oracle.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { statisticsStage } from "../preferences/preference-statistics.ts"
import { gradeDifference } from "./annotate.ts"

export const worldPreferenceStatistics = Stage.make(
  "world-preference-statistics",
  statisticsStage((pair, kind) => gradeDifference(pair, kind, grade(pair.prompt, pair.responseA), grade(pair.prompt, pair.responseB)) !== 0)
)

/** A training stage and a sampling stage, each killed at a hundred random moments. */
import { describeKills } from "../resume/scenario.ts"

describeKills({ kills: 100, longest: 14, timeout: 3_600_000 })

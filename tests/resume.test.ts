/** A training stage and a sampling stage, really killed: the complete runtime, real processes. A hundred kills each: tests/faults/resume.slow.test.ts. */
import { describeKills } from "./resume/scenario.ts"

describeKills({ kills: 5, longest: 14, timeout: 300_000 })

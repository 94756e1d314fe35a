/** Attacks on the versions of the small world: red teaming as a loop (§4.3), and multi-turn dialogues (figure 18). The oracle judges the answers. */
import type { Prompt } from "../../schemas/rows.ts"
import { continueWithAnswers, promptBatch } from "../../stages/data/prompts.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { keepBroken, redTeaming } from "../../stages/safety/red-team.ts"
import { classifyByOracle } from "../../stages/world/classify-by-oracle.ts"
import type { Rows } from "../nodes.ts"
import { samplingOf, type WorldParams } from "./params.ts"
import { promptsOf } from "./prompts.ts"
import type { Version } from "./versions.ts"

/** Number of answers to each attack: the first shows whether it breaks the version, the others how often the same version answers safely by chance. */
const tries = 4

/** Each version is attacked with its own prompts, and with all prompts that broke earlier versions. */
export const redTeam = (versions: ReadonlyArray<Version>, params: WorldParams) => {
  const pool = promptsOf("adversarial", "heldOut", params.attacks * versions.length, "red-team", 21)
  const asked = ({ name, policy }: Version, prompts: Rows<Prompt>, what: string) => {
    const completions = sample({ policy, prompts }, { ...samplingOf(params), k: tries, temperature: 1 }).named(`${what}-${name}`)
    return classifyByOracle({ completions, prompts }).named(`${what}-${name}-judged`)
  }
  const exercises = versions.map((version, i) => {
    const prompts = promptBatch({ prompts: pool }, { batches: versions.length, batch: i }).named(`red-team-${version.name}`)
    return { version, prompts, classified: asked(version, prompts, "attacks") }
  })
  const retried = exercises.slice(1).map(({ version }, i) => {
    const before = exercises.slice(0, i + 1)
    const kept = keepBroken({
      prompts: before.map(({ prompts }) => prompts),
      classified: before.map(({ classified }) => classified)
    }).named(`red-team-kept-${version.name}`)
    return asked(version, kept, "retried")
  })
  return redTeaming({ attacks: exercises.map(({ classified }) => classified), retried }, { names: versions.map(({ name }) => name) }).named(
    "red-teaming"
  )
}

const turns = 3
/** Each version's answers to the last of three questions to refuse; it also answered the previous ones itself. */
export const multiTurnAnswers = (versions: ReadonlyArray<Version>, params: WorldParams) => {
  const first = promptsOf("adversarial", "heldOut", params.attacks, "multi-turn", 22, { followUps: turns - 1 })
  return versions.map(({ name, policy }) => {
    const answersTo = (prompts: Rows<Prompt>, turn: number) =>
      sample({ policy, prompts }, { ...samplingOf(params), k: 1, temperature: 1 }).named(`turn-${turn}-${name}`)
    let prompts = first
    let completions = answersTo(prompts, 1)
    for (let turn = 2; turn <= turns; turn++) {
      prompts = continueWithAnswers({ prompts, completions }).named(`dialogues-${turn}-${name}`)
      completions = answersTo(prompts, turn)
    }
    return { name, completions }
  })
}

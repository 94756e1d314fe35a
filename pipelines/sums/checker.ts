/** Your own reward: 1 if the answer is the requested sum, else 0. The file is copied and runs separately, so it imports nothing. */
interface Message {
  readonly role: string
  readonly content: string
}

export default (prompt: ReadonlyArray<Message>, answer: string): number => {
  const asked = /(\d+) \+ (\d+)/.exec(prompt.at(-1)!.content)
  if (asked === null) throw new Error(`no sum in ${JSON.stringify(prompt.at(-1)!.content)}`)
  return answer.trim() === String(Number(asked[1]) + Number(asked[2])) ? 1 : 0
}

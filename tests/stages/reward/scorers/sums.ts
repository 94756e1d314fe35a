/** Whether an answer is the requested sum. */
interface Message {
  readonly role: string
  readonly content: string
}
export default (prompt: ReadonlyArray<Message>, answer: string): number => {
  const [, a, b] = /(\d+) \+ (\d+)/.exec(prompt.at(-1)!.content) ?? []
  if (answer === "never") for (;;);
  if (answer === "throw") throw new RangeError("no such answer")
  if (answer === "exit") process.exit(3)
  if (answer === "nan") return Number.NaN
  if (answer === "text") return "1" as unknown as number
  if (answer === "large") return 100
  if (answer === "nothing") return undefined as unknown as number
  console.log("looking at", answer)
  return Number(a) + Number(b) === Number(answer) ? 1 : 0
}

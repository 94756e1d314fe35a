// A scorer program: reads a line of JSON, writes a line with a number.
import { createInterface } from "node:readline"

for await (const line of createInterface({ input: process.stdin })) {
  const { answer, prompt } = JSON.parse(line)
  const [, a, b] = /(\d+) \+ (\d+)/.exec(prompt.at(-1).content)
  if (answer === "die") {
    console.error("can't go on")
    process.exit(4)
  }
  if (answer === "twice") console.log("0.5\n0.5")
  else if (answer !== "silent") console.log(Number(a) + Number(b) === Number(answer) ? 1 : 0)
}

/** A judge for complete runs, in a separate process: prefers the longer answer, and grades by length. Prints its address. One of twenty answers is not a verdict. */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"

let asked = 0
/** The judge's answer to the prompt. */
const verdictOn = (text: string): string => {
  asked++
  if (asked % 20 === 0) return "I can't judge this."
  if (text.includes("[[5]]")) return `Rating: [[${1 + (text.length % 10)}]]`
  if (text.includes("[[A]]")) {
    const [, a, b] = text.split(/# The dialogue with assistant [AB]\n/)
    return a!.length >= b!.length ? "[[A]]" : "[[B]]"
  }
  const [, one, two] = text.split(/# Response [12]\n/)
  return JSON.stringify({ better: one!.length >= two!.length ? 1 : 2, rating: 1, safe1: true, safe2: true })
}

const server = createServer((request, response) => {
  let body = ""
  request.on("data", (chunk) => (body += String(chunk)))
  request.on("end", () => {
    const { messages } = JSON.parse(body) as { messages: ReadonlyArray<{ content: string }> }
    response.writeHead(200, { "content-type": "application/json" })
    response.end(JSON.stringify({ choices: [{ message: { content: verdictOn(messages.at(-1)!.content) } }] }))
  })
})
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`))
// It exits with its parent process.
process.stdin.on("end", () => process.exit(0)).resume()

/** A judge for tests of stages: an OpenAI-compatible endpoint on the loopback interface that answers each question with a given function and records the questions. */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"

export interface JudgeServer {
  readonly url: string
  readonly questions: ReadonlyArray<string>
  readonly close: () => Promise<void>
}

export const judgeServer = async (answerTo: (question: string) => string): Promise<JudgeServer> => {
  const questions: Array<string> = []
  const server = createServer((request, response) => {
    let body = ""
    request.on("data", (chunk) => (body += String(chunk)))
    request.on("end", () => {
      const { messages } = JSON.parse(body) as { readonly messages: ReadonlyArray<{ readonly content: string }> }
      const question = messages.at(-1)!.content
      questions.push(question)
      response.writeHead(200, { "content-type": "application/json" })
      response.end(JSON.stringify({ choices: [{ message: { content: answerTo(question) } }] }))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    questions,
    close: () => new Promise((resolve) => server.close(() => resolve()))
  }
}

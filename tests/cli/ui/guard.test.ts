/** Who may send requests to the server of `caravan ui`, and what it never returns. */
import { connect } from "node:net"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { isToken, objectionTo } from "../../../cli/ui/guard.ts"
import { fixtureFolder } from "../../runtime/fixture.ts"
import { caravan, removeFolder } from "../caravan.ts"
import { serve, type Served } from "./server.ts"

let folder: string
let served: Served
beforeAll(async () => {
  folder = fixtureFolder()
  caravan(folder, "run", "pipeline.ts")
  served = await serve(join(folder, "home"))
})
afterAll(async () => {
  await served.close()
  removeFolder(folder)
})

describe("the server of caravan ui", () => {
  it("listens only on loopback", () => {
    expect(served.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
  })

  it("answers to its own address and to no other name that resolves to it (DNS rebinding), for the page as well as the data", async () => {
    const { port } = served
    for (const path of ["/", "/api/runs", "/assets/a.js", "/nothing", "/api/watch"]) {
      for (const host of [
        "evil.example",
        `evil.example:${port}`,
        "127.0.0.1",
        `127.0.0.1:${port + 1}`,
        `127.0.0.1.evil.example:${port}`,
        `a@127.0.0.1:${port}`
      ])
        expect((await served.get(path, { host })).status).toBe(403)
    }
    for (const host of [`127.0.0.1:${port}`, `localhost:${port}`, `LOCALHOST:${port}`])
      expect((await served.get("/api/runs", { host })).status).toBe(200)
  })

  it("does not answer pages of other sites", async () => {
    const host = `127.0.0.1:${served.port}`
    for (const origin of [
      "http://evil.example",
      "null",
      `http://localhost:${served.port}`,
      `https://${host}`,
      `http://127.0.0.1:${served.port + 1}`
    ])
      expect((await served.get("/api/runs", { host, origin })).status).toBe(403)
    for (const site of ["cross-site", "same-site"])
      expect((await served.get("/api/runs", { host, "sec-fetch-site": site })).status).toBe(403)
    expect((await served.get("/api/runs", { host, origin: `http://${host}`, "sec-fetch-site": "same-origin" })).status).toBe(200)
  })

  it("forbids loading foreign resources and framing, in every response", async () => {
    for (const [path, host] of [["/"], ["/api/runs"], ["/nothing"], ["/api/run?run=x"], ["/", "evil.example"]] as const) {
      const { headers } = await served.get(path, host === undefined ? {} : { host })
      expect(headers["content-security-policy"]).toMatch(/default-src 'none'.*frame-ancestors 'none'/)
      expect(headers).toMatchObject({ "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer" })
    }
    expect((await served.get("/api/runs")).headers["cache-control"]).toBe("no-store")
    expect((await served.get("/assets/a.js")).headers["cache-control"]).toContain("immutable")
  })

  it("serves the files of the page and nothing else", async () => {
    for (const path of [
      "/../package.json",
      "/assets/../../package.json",
      "/assets/%2e%2e/%2e%2e/package.json",
      "/assets/..%2f..%2fjournal.db",
      "//etc/passwd",
      "/journal.db",
      "/.built-of"
    ])
      expect((await served.get(path)).status).toBe(404)
  })

  it("changes nothing when called with an unsupported method", async () => {
    expect((await served.post("/api/runs", {})).status).toBe(404)
    expect((await served.post("/", {})).status).toBe(404)
  })

  it("survives a client that disappears in the middle of a response", async () => {
    await new Promise<void>((resolve) => {
      const socket = connect(served.port, "127.0.0.1", () => {
        socket.write(`GET /api/watch HTTP/1.1\r\nHost: 127.0.0.1:${served.port}\r\n\r\n`)
        socket.once("data", () => {
          socket.resetAndDestroy()
          resolve()
        })
      })
    })
    expect((await served.get("/api/runs")).status).toBe(200)
  })
})

describe("objectionTo", () => {
  it("accepts loopback in every form that a browser uses", () => {
    for (const host of ["127.0.0.1:80", "localhost", "[::1]:80"]) expect(objectionTo({ host }, 80)).toBe(undefined)
    for (const host of [undefined, "", ":80", "[::1", "127.0.0.1:080000", "localhost.evil.example:80"])
      expect(objectionTo({ host }, 80)).toMatch(/own address/)
  })
})

describe("isToken", () => {
  it("accepts the token and nothing similar", () => {
    expect(isToken("abc", "abc")).toBe(true)
    for (const given of [undefined, "", "ab", "abcd", "abd", "äbc"]) expect(isToken(given, "abc")).toBe(false)
  })
})

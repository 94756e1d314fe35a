/** Names on the Hub: their syntax and meaning, and that none resolves to a path elsewhere. */
import { describe, expect, it } from "vitest"
import { hubNameText, isHubName, parseHubName } from "../../schemas/hub-name.ts"

const model = { kind: "model", owner: "meta-llama", name: "Llama-3.2-1B", revision: "main", path: undefined }

describe("a name on the Hub", () => {
  it("has an owner and a name, and may have a kind, a revision and a path", () => {
    expect(parseHubName("hf:meta-llama/Llama-3.2-1B")).toEqual(model)
    expect(parseHubName("hf:models/meta-llama/Llama-3.2-1B@v1.0:sub/folder/")).toEqual({ ...model, revision: "v1.0", path: "sub/folder" })
    expect(parseHubName("hf:datasets/a/b@refs/convert/parquet:default/train/*.parquet")).toEqual({
      kind: "dataset",
      owner: "a",
      name: "b",
      revision: "refs/convert/parquet",
      path: "default/train/*.parquet"
    })
    expect(parseHubName("hf:a/b:what:ever@1.txt")).toEqual({
      kind: "model",
      owner: "a",
      name: "b",
      revision: "main",
      path: "what:ever@1.txt"
    })
  })

  it("may be spelled as in the Hub's own tools", () => {
    expect(parseHubName("hf://meta-llama/Llama-3.2-1B")).toEqual(model)
    expect(parseHubName("hf://meta-llama/Llama-3.2-1B/")).toEqual(model)
    expect(parseHubName("hf://datasets/a/b@refs/convert/parquet/default/x.parquet")).toEqual(
      parseHubName("hf:datasets/a/b@refs/convert/parquet:default/x.parquet")
    )
    expect(parseHubName("hf://a/b@my%2Fbranch/x.txt")).toEqual(parseHubName("hf:a/b@my/branch:x.txt"))
    expect(parseHubName("hf://a/b@v1/x.txt")).toEqual(parseHubName("hf:a/b@v1:x.txt"))
  })

  it("has one canonical spelling, which is read as the same", () => {
    for (const text of ["hf:a/b", "hf://datasets/a/b@v1/x/y.jsonl", "hf:datasets/a/b@refs/pr/3:x@y:z", "hf:a/b@my/branch"]) {
      const name = parseHubName(text)
      expect(parseHubName(hubNameText(name))).toEqual(name)
    }
    expect(hubNameText(parseHubName("hf://datasets/a/b/x.jsonl"))).toBe("hf:datasets/a/b@main:x.jsonl")
  })

  it("is distinguished from a path by its beginning", () => {
    expect(["hf:a/b", "hf:", "hf://x"].map(isHubName)).toEqual([true, true, true])
    expect(["./hf:a/b", "a/b", "HF:a/b", ""].map(isHubName)).toEqual([false, false, false, false])
  })

  it("that could lead out of the cache, or is invalid, is rejected with the reason", () => {
    const refused = (text: string) => {
      try {
        return JSON.stringify(parseHubName(text))
      } catch (cause) {
        return (cause as Error).message
      }
    }
    expect(refused("hf:gpt2")).toMatch(/"gpt2" has no owner/)
    expect(refused("hf:datasets/squad@main")).toMatch(/"squad" has no owner/)
    expect(refused("hf:spaces/a/b")).toMatch(/Spaces contain neither/)
    for (const text of ["hf:", "hf:a/b/c", "hf:a/", "hf:/b", "hf:///x"])
      expect(refused(text)).toMatch(/expected hf:owner\/name@revision:path/)
    for (const text of ["hf:../b", "hf:a/..", "hf:a/b--c", "hf:a--b/c", "hf:.a/b", "hf:a/b c", `hf:a/${"b".repeat(97)}`, "hf:a/b\n"])
      expect(refused(text)).toMatch(/is not a valid owner or repository name/)
    for (const text of [
      "hf:a/b@",
      "hf:a/b@..",
      "hf:a/b@../../x",
      "hf:a/b@x/../y",
      "hf:a/b@/x",
      "hf:a/b@x/",
      "hf:a/b@-x",
      "hf:a/b@x y",
      "hf:a/b@.x",
      "hf://a/b@%2e%2e%2fx"
    ])
      expect(refused(text)).toMatch(/is not a valid branch, tag or commit/)
    for (const text of [
      "hf:a/b:",
      "hf:a/b:../x",
      "hf:a/b:x/../../y",
      "hf:a/b:/etc/passwd",
      "hf:a/b:x//y",
      "hf:a/b:x\\y",
      "hf:a/b:.",
      "hf:a/b:x\0"
    ])
      expect(refused(text)).toMatch(/is not a path inside a repository/)
  })
})

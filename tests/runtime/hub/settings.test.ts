/** The Hub's address, the token and the cache, from the variables of Hugging Face's own tools (huggingface_hub's constants.py). */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { hubSettings } from "../../../runtime/hub/settings.ts"

const home = mkdtempSync(join(tmpdir(), "caravan-settings-"))
afterAll(() => rmSync(home, { recursive: true }))

describe("the settings of the Hub", () => {
  it("have the same cache as huggingface_hub", () => {
    const cacheOf = (environment: Readonly<Record<string, string>>) => hubSettings({ HOME: "/home/me", ...environment }).cache
    expect(cacheOf({})).toBe("/home/me/.cache/huggingface/hub")
    expect(cacheOf({ XDG_CACHE_HOME: "/var/cache" })).toBe("/var/cache/huggingface/hub")
    expect(cacheOf({ HF_HOME: "~/hf", XDG_CACHE_HOME: "/var/cache" })).toBe("/home/me/hf/hub")
    expect(cacheOf({ HF_HUB_CACHE: "/data/hub", HF_HOME: "/hf" })).toBe("/data/hub")
    expect(cacheOf({ HF_HUB_CACHE: "" })).toBe("/home/me/.cache/huggingface/hub")
  })

  it("use the token of the environment, otherwise of the file", () => {
    const tokenOf = (environment: Readonly<Record<string, string>>) => hubSettings({ HF_HOME: home, ...environment }).token()
    expect(tokenOf({})).toBeUndefined()
    writeFileSync(join(home, "token"), "hf_file\n")
    writeFileSync(join(home, "other"), "hf_other")
    expect(tokenOf({})).toBe("hf_file")
    expect(tokenOf({ HF_TOKEN_PATH: join(home, "other") })).toBe("hf_other")
    expect(tokenOf({ HF_TOKEN: " hf_variable\n" })).toBe("hf_variable")
    for (const token of ["two words", "hf_a\r\nX-Evil: 1"])
      expect(() => tokenOf({ HF_TOKEN: token })).toThrow(/expected a single word, found other characters/)
  })

  it("need an endpoint that is an address without a password, and never repeat an invalid one", () => {
    expect(hubSettings({}).endpoint).toBe("https://huggingface.co")
    expect(hubSettings({ HF_ENDPOINT: "https://hf-mirror.com/" }).endpoint).toBe("https://hf-mirror.com")
    for (const HF_ENDPOINT of ["hf-mirror.com", "ftp://x", "https://me:secret@x"]) {
      expect(() => hubSettings({ HF_ENDPOINT })).toThrow(/HF_ENDPOINT: expected a URL/)
      expect(() => hubSettings({ HF_ENDPOINT })).not.toThrow(/secret/)
    }
  })

  it("are offline for the values that Python's tools treat as true", () => {
    expect(["1", "ON", "yes", "True"].map((HF_HUB_OFFLINE) => hubSettings({ HF_HUB_OFFLINE }).isOffline)).toEqual([true, true, true, true])
    expect(["", "0", "no"].map((HF_HUB_OFFLINE) => hubSettings({ HF_HUB_OFFLINE }).isOffline)).toEqual([false, false, false])
    expect(hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: "5" }).patience).toBe(5000)
    expect(hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: "soon" }).patience).toBe(30_000)
  })
})

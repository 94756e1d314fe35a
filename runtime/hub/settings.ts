/** The Hub's address, token and cache folder, from the environment variables of Hugging Face's own tools. */
import { readFileSync } from "node:fs"
import { homedir } from "node:os"
import { join, resolve } from "node:path"
import { isAbsent, messageOf, PipelineError } from "../errors.ts"

export interface HubSettings {
  /** HF_ENDPOINT, without a trailing slash. */
  readonly endpoint: string
  /** Reads the token when it is needed; undefined if there is none. */
  readonly token: () => string | undefined
  /** HF_HUB_CACHE: one folder per repository, in the layout of huggingface_hub. */
  readonly cache: string
  /** HF_HUB_OFFLINE: make no requests. */
  readonly isOffline: boolean
  /** HF_HUB_DOWNLOAD_TIMEOUT: milliseconds without data after which a request is aborted and retried. */
  readonly patience: number
  /** Milliseconds to wait after the first, second, ... failure in a row. */
  readonly waits: ReadonlyArray<number>
}

export type Environment = Readonly<Record<string, string | undefined>>

const isTrue = (text: string | undefined): boolean => /^(1|on|yes|true)$/i.test(text ?? "")
const given = (environment: Environment, ...names: ReadonlyArray<string>): string | undefined =>
  names.map((name) => environment[name]?.trim()).find((value) => value !== undefined && value !== "")
const folder = (text: string, home: string): string => resolve(text.replace(/^~(?=$|\/)/, home))

const endpointOf = (environment: Environment): string => {
  const text = given(environment, "HF_ENDPOINT") ?? "https://huggingface.co"
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== "" || url.password !== "")
    throw new PipelineError({
      message:
        "HF_ENDPOINT: expected a URL such as https://huggingface.co without a user name or password; found something else. Correct it, or unset it."
    })
  return text.replace(/\/+$/, "")
}

/** Throws a PipelineError for an invalid address. */
export const hubSettings = (environment: Environment = process.env): HubSettings => {
  const user = given(environment, "HOME") ?? homedir()
  const home = folder(
    given(environment, "HF_HOME") ?? join(given(environment, "XDG_CACHE_HOME") ?? join(user, ".cache"), "huggingface"),
    user
  )
  const seconds = Number(given(environment, "HF_HUB_DOWNLOAD_TIMEOUT") ?? "30")
  return {
    endpoint: endpointOf(environment),
    token: () => {
      const token =
        given(environment, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") ?? tokenIn(given(environment, "HF_TOKEN_PATH") ?? join(home, "token"))
      if (token !== undefined && !/^[\x21-\x7e]+$/.test(token))
        throw new PipelineError({
          message:
            "The token of the Hub (HF_TOKEN, or the file that `hf auth login` wrote): expected a single word, found other characters. Set HF_TOKEN, or log in again (hf auth login)."
        })
      return token
    },
    cache: folder(given(environment, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") ?? join(home, "hub"), user),
    isOffline: isTrue(environment["HF_HUB_OFFLINE"]),
    patience: (seconds > 0 ? seconds : 30) * 1000,
    waits: [1000, 2000, 4000, 8000]
  }
}

const tokenIn = (path: string): string | undefined => {
  try {
    const text = readFileSync(path, "utf8").trim()
    return text === "" ? undefined : text
  } catch (cause) {
    if (isAbsent(cause)) return undefined
    throw new PipelineError({ message: `Reading the Hub's token: ${messageOf(cause)}. Make the file readable, or set HF_TOKEN.` })
  }
}

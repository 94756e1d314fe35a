/** `caravan export --push`: uploads a folder's files as one commit to a repository on the Hugging Face Hub, which is created if missing. */
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { messageOf, PipelineError, StoreError } from "../../runtime/errors.ts"
import { Hub, hubNameOf, type RepositoryNow } from "../../runtime/hub/hub.ts"
import { hubSettings } from "../../runtime/hub/settings.ts"
import { type HubName, isHubName, repositoryOf } from "../../schemas/hub-name.ts"
import { UsageError } from "../command.ts"
import { showReading } from "../display/reading.ts"
import type { Kind } from "./contents.ts"

/** The target of a push, after all checks have passed. */
export interface Push {
  readonly name: HubName
  readonly isPublic: boolean
  readonly token: string
  /** The repository's current content; undefined if it must be created. */
  readonly now: RepositoryNow | undefined
}

/** Weight files that an earlier export may have left in a repository: they would be loaded instead of the new ones. */
const weights = /^(model|adapter_model)(-\d+-of-\d+)?\.safetensors$|^model\.safetensors\.index\.json$/

/** Checks whether a result of this kind can be pushed there. Throws a UsageError, a PipelineError or a StoreError. */
export const pushTo = async (text: string, kind: Kind, isPublic: boolean): Promise<Push> => {
  const refuse = (what: string) => new UsageError(`Pushing to ${text}: ${what}`)
  if (!isHubName(text)) throw refuse("expected hf:owner/name, or hf:datasets/owner/name for a dataset.")
  const name = hubNameOf(text)
  if (name.path !== undefined || name.revision !== "main")
    throw refuse("a push goes to the main branch of the repository: remove the revision and path.")
  const { owner, name: last } = name
  if ((kind === "dataset") !== (name.kind === "dataset"))
    throw refuse(`this is a ${kind}. Use ${kind === "dataset" ? `hf:datasets/${owner}/${last}` : `hf:${owner}/${last}`}.`)
  const token = hubSettings().token()
  if (token === undefined) throw refuse("a token with write access is needed. Set HF_TOKEN, or log in (hf auth login).")
  const now = await new Hub().repository(text)
  if (now?.isPrivate === false && !isPublic) throw refuse("the repository is public. To push to it anyway, add --public.")
  if (now?.isPrivate === true && isPublic)
    throw refuse(
      "the repository is private, and a push does not change that. Remove --public, or first make the repository public on its page."
    )
  return { name, isPublic, token, now }
}

export interface Pushed {
  /** The page of the repository. */
  readonly url: string
  readonly commit: string
  /** Weight files of the previous version that the commit deletes. */
  readonly removed: ReadonlyArray<string>
}

/**
 * Pushes a folder's files; `stays`: whether the folder remains afterwards. The commit is visible only when it is complete. Throws a PipelineError or
 * a StoreError.
 */
export const push = async (
  { isPublic, name, now, token }: Push,
  folder: string,
  files: ReadonlyArray<{ readonly name: string; readonly bytes: number }>,
  { stays, title }: { readonly title: string; readonly stays: boolean }
): Promise<Pushed> => {
  const { endpoint } = hubSettings()
  const repository = repositoryOf(name)
  // Loaded only here: it is large, and no other command needs it.
  const { commitIter, createRepo } = await import("@huggingface/hub")
  const repo = { type: name.kind, name: `${name.owner}/${name.name}` } as const
  const removed = now?.paths.filter((path) => weights.test(path) && !files.some((file) => file.name === path)) ?? []
  const uploading = showReading(`Uploading to hf:${repository}`)
  uploading.start(files.reduce((sum, { bytes }) => sum + bytes, 0))
  const done = new Map<string, number>()
  const isMade = now === undefined
  try {
    if (isMade) await createRepo({ repo, hubUrl: endpoint, accessToken: token, visibility: isPublic ? "public" : "private" })
    const work = commitIter({
      ...{ repo, hubUrl: endpoint, accessToken: token, title },
      ...(now !== undefined && { parentCommit: now.commit }),
      ...(/^(1|on|yes|true)$/i.test(process.env["HF_HUB_DISABLE_XET"] ?? "") && { useXet: false }),
      operations: [
        ...files.map((file) => ({ operation: "addOrUpdate" as const, path: file.name, content: pathToFileURL(join(folder, file.name)) })),
        ...removed.map((path) => ({ operation: "delete" as const, path }))
      ]
    })
    let step = await work.next()
    for (; step.done !== true; step = await work.next()) {
      const event = step.value
      if (event.event !== "fileProgress" || event.state !== "uploading") continue
      const bytes = event.progress * (files.find((file) => file.name === event.path)?.bytes ?? 0)
      uploading.onBytes(bytes - (done.get(event.path) ?? 0))
      done.set(event.path, bytes)
    }
    const commit = step.value?.commit.oid
    if (commit === undefined) throw new StoreError({ message: "the Hub did not return the commit" })
    return { url: `${endpoint}/${repository}`, commit, removed }
  } catch (cause) {
    throw explained(cause, `Pushing to hf:${repository}`, token, stays ? ` The folder ${folder} is written.` : "")
  } finally {
    uploading.close()
  }
}

/** The library's error without a stack trace, and without the signatures in storage URLs. */
const explained = (cause: unknown, doing: string, token: string, left: string): Error => {
  const { cause: inner, statusCode } = (cause ?? {}) as { readonly cause?: unknown; readonly statusCode?: unknown }
  const said = messageOf(inner ?? cause)
    .replaceAll(/\?\S*/g, "")
    .replaceAll(token, "<token>")
  const isRefused = statusCode === 401 || statusCode === 403
  const advice = isRefused
    ? "Check that the token (HF_TOKEN) has write access."
    : statusCode === 409 || statusCode === 412
      ? "The repository changed in the meantime: push again."
      : "The repository is unchanged. Push again: files already uploaded are not sent again."
  const message = `${doing}: ${said.replace(/\.?$/, ".")} ${advice}${left}`
  return isRefused ? new PipelineError({ message }) : new StoreError({ message })
}

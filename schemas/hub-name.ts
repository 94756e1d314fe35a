/**
 * Names on the Hugging Face Hub, allowed wherever a path is: hf:owner/name@revision:path, for a dataset hf:datasets/owner/name. Revision and
 * path are optional. The Hub's own form, hf://datasets/owner/name@revision/path, is accepted too.
 */

export interface HubName {
  readonly kind: "model" | "dataset"
  readonly owner: string
  readonly name: string
  /** A branch, a tag or a commit; "main" by default. */
  readonly revision: string
  /** A file, a folder or a pattern inside the repository; undefined: the whole repository. */
  readonly path: string | undefined
}

export const isHubName = (text: string): boolean => text.startsWith("hf:")

/** Whether a revision is a full commit hash, which always refers to the same content. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision)

const part = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/
const isPart = (text: string): boolean => part.test(text) && !/--|\.\./.test(text) && text.length <= 96
/** The part of git's rules for branch and tag names that matters here: the name becomes a path in the cache. */
const isRevision = (text: string): boolean =>
  text.split("/").every((segment) => segment !== "" && !segment.startsWith(".") && !segment.endsWith(".lock")) &&
  !/[\0-\x20\x7f~^:?*[\\]|\.\.|@\{/.test(text) &&
  !text.startsWith("-") &&
  text.length <= 200

/** Whether a relative path stays inside its folder and is portable: no "..", no empty segment, no backslash. */
export const staysInside = (path: string): boolean =>
  path !== "" && !/[\0\\]/.test(path) && path.split("/").every((segment) => !["", ".", ".."].includes(segment))

const grammar = "hf:owner/name@revision:path, or hf:datasets/owner/name@revision:path for a dataset; @revision and :path are optional"
const plain = /^hf:(?:(datasets|models|spaces)\/)?([^/@:]+)\/([^/@:]+)(?:@([^:]*))?(?::(.*))?$/s
/** In front of a path, only the revisions of pull requests and conversions may contain a slash; in others it is written as %2F. */
const url = /^hf:\/\/(?:(datasets|models|spaces)\/)?([^/@:]+)\/([^/@:]+)(?:@(refs\/(?:pr|convert)\/[^/]+|[^/]*))?(?:\/(.*))?$/s

/** Parses a name; throws RangeError with the reason when it is invalid. */
export const parseHubName = (text: string): HubName => {
  const refuse = (found: string) => new RangeError(`Reading the name ${JSON.stringify(text)}: expected ${grammar}. ${found}`)
  const isUrl = text.startsWith("hf://")
  const found = (isUrl ? url : plain).exec(text)
  if (found === null) {
    const alone = /^hf:(?:\/\/)?(?:(?:datasets|models)\/)?([^/@:]+)(?:[@:].*)?$/.exec(text)?.[1]
    throw refuse(
      alone === undefined
        ? "The text does not have this form."
        : `${JSON.stringify(alone)} has no owner; the repository's page on the Hub shows it.`
    )
  }
  const [, prefix, owner = "", name = "", given, rest] = found
  if (prefix === undefined && /^(datasets|models|spaces)$/.test(owner))
    throw refuse(`${JSON.stringify(name)} has no owner; the repository's page on the Hub shows it.`)
  if (prefix === "spaces") throw refuse("Spaces contain neither models nor datasets.")
  const wrong = [owner, name].find((one) => !isPart(one))
  if (wrong !== undefined) throw refuse(`${JSON.stringify(wrong)} is not a valid owner or repository name.`)
  let revision = given
  try {
    if (isUrl && given !== undefined) revision = decodeURIComponent(given)
  } catch {
    // Left encoded: the check below refuses it if it is invalid for git.
  }
  if (revision !== undefined && !isRevision(revision)) throw refuse(`${JSON.stringify(revision)} is not a valid branch, tag or commit.`)
  const path = rest?.replace(/\/$/, "")
  if (path !== undefined && !(isUrl && path === "") && !staysInside(path))
    throw refuse(`${JSON.stringify(rest)} is not a path inside a repository.`)
  return {
    kind: prefix === "datasets" ? "dataset" : "model",
    owner,
    name,
    revision: revision ?? "main",
    path: path === "" ? undefined : path
  }
}

/** The repository without revision and path: "owner/name", "datasets/owner/name". */
export const repositoryOf = ({ kind, name, owner }: HubName): string => `${kind === "dataset" ? "datasets/" : ""}${owner}/${name}`

/** The canonical spelling of a name; without a revision, "main" is filled in. */
export const hubNameText = (name: HubName): string =>
  `hf:${repositoryOf(name)}@${name.revision}${name.path === undefined ? "" : `:${name.path}`}`

/**
 * Names of what is on the Hugging Face Hub, which may stand wherever a path may: hf:owner/name@revision:path, for a data set hf:datasets/owner/name. Revision and
 * path may be left out. The Hub's own spelling, hf://datasets/owner/name@revision/path, is read too.
 */

export interface HubName {
  readonly kind: "model" | "dataset"
  readonly owner: string
  readonly name: string
  /** A branch, a tag or a commit; "main" unless given. */
  readonly revision: string
  /** A file, a folder or a pattern inside of the repository; undefined: the repository. */
  readonly path: string | undefined
}

export const isHubName = (text: string): boolean => text.startsWith("hf:")

/** A commit by its whole hash: it never means anything else later. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision)

const part = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/
const isPart = (text: string): boolean => part.test(text) && !/--|\.\./.test(text) && text.length <= 96
/** What git allows in the name of a branch or tag, as far as it matters here: it becomes a path in the cache. */
const isRevision = (text: string): boolean =>
  text.split("/").every((segment) => segment !== "" && !segment.startsWith(".") && !segment.endsWith(".lock")) &&
  !/[\0-\x20\x7f~^:?*[\\]|\.\.|@\{/.test(text) &&
  !text.startsWith("-") &&
  text.length <= 200

/** Whether a path stays in the folder that it is relative to, and means the same everywhere: no "..", no empty part, no backslash. */
export const staysInside = (path: string): boolean =>
  path !== "" && !/[\0\\]/.test(path) && path.split("/").every((segment) => !["", ".", ".."].includes(segment))

const grammar = "hf:owner/name@revision:path, or hf:datasets/owner/name@revision:path for a data set; @revision and :path may be left out"
const plain = /^hf:(?:(datasets|models|spaces)\/)?([^/@:]+)\/([^/@:]+)(?:@([^:]*))?(?::(.*))?$/s
/** Where a revision is followed by a path, only those of pull requests and conversions have a slash of their own; others are written %2F. */
const url = /^hf:\/\/(?:(datasets|models|spaces)\/)?([^/@:]+)\/([^/@:]+)(?:@(refs\/(?:pr|convert)\/[^/]+|[^/]*))?(?:\/(.*))?$/s

/** Throws an error that says what is wrong with a name. */
export const parseHubName = (text: string): HubName => {
  const refuse = (found: string) => new RangeError(`Reading the name ${JSON.stringify(text)}: expected ${grammar}. ${found}`)
  const isUrl = text.startsWith("hf://")
  const found = (isUrl ? url : plain).exec(text)
  if (found === null) {
    const alone = /^hf:(?:\/\/)?(?:(?:datasets|models)\/)?([^/@:]+)(?:[@:].*)?$/.exec(text)?.[1]
    throw refuse(alone === undefined ? "This is something else." : `${JSON.stringify(alone)} has no owner: the Hub's page of it names one.`)
  }
  const [, prefix, owner = "", name = "", given, rest] = found
  if (prefix === undefined && /^(datasets|models|spaces)$/.test(owner))
    throw refuse(`${JSON.stringify(name)} has no owner: the Hub's page of it names one.`)
  if (prefix === "spaces") throw refuse("Spaces hold neither models nor data.")
  const wrong = [owner, name].find((one) => !isPart(one))
  if (wrong !== undefined) throw refuse(`${JSON.stringify(wrong)} can't be the name of an owner or a repository.`)
  let revision = given
  try {
    if (isUrl && given !== undefined) revision = decodeURIComponent(given)
  } catch {
    // Not encoded: it is refused below where git would refuse it.
  }
  if (revision !== undefined && !isRevision(revision)) throw refuse(`${JSON.stringify(revision)} can't be a branch, a tag or a commit.`)
  const path = rest?.replace(/\/$/, "")
  if (path !== undefined && !(isUrl && path === "") && !staysInside(path))
    throw refuse(`${JSON.stringify(rest)} is no path inside of a repository.`)
  return {
    kind: prefix === "datasets" ? "dataset" : "model",
    owner,
    name,
    revision: revision ?? "main",
    path: path === "" ? undefined : path
  }
}

/** The repository alone: "owner/name", "datasets/owner/name". */
export const repositoryOf = ({ kind, name, owner }: HubName): string => `${kind === "dataset" ? "datasets/" : ""}${owner}/${name}`

/** The one spelling of a name; of one without a revision, with "main". */
export const hubNameText = (name: HubName): string =>
  `hf:${repositoryOf(name)}@${name.revision}${name.path === undefined ? "" : `:${name.path}`}`

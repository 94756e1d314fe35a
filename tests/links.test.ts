/** Links between documents resolve: to files, and to headings within them. */
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync, statSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { navigation, pages, titleOf } from "../site/navigation.mjs"

const root = fileURLToPath(new URL("../", import.meta.url))
const documents = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "*.md"], { cwd: root, encoding: "utf8" })
  .split("\n")
  .filter((name) => name !== "" && existsSync(join(root, name)))

const withoutCode = (text: string): string => text.replaceAll(/^```[^]*?^```/gm, "").replaceAll(/`[^`\n]*`/g, "")

/** GitHub's anchor of a heading. */
const anchorOf = (heading: string): string =>
  heading
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(/\s/g, "-")
const anchorsIn = (text: string): ReadonlyArray<string> =>
  [...text.replaceAll(/^```[^]*?^```/gm, "").matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchorOf(heading!))

/** Broken links of a document. */
const deadLinks = (name: string, text: string): ReadonlyArray<string> =>
  [...withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link]) => {
    if (/^[a-z]+:/i.test(link!)) return []
    const [path, anchor] = link!.split("#", 2) as [string, string | undefined]
    const target = path === "" ? join(root, name) : join(root, dirname(name), path)
    if (relative(root, target).startsWith("..") || !existsSync(target)) return [link!]
    if (anchor === undefined || !statSync(target).isFile() || !target.endsWith(".md")) return []
    return anchorsIn(path === "" ? text : readFileSync(target, "utf8")).includes(anchor) ? [] : [link!]
  })

describe("documents", () => {
  it("are found", () => expect(documents).toContain("README.md"))
  it.each(documents)("%s links to existing targets", (name) => {
    expect(deadLinks(name, readFileSync(join(root, name), "utf8"))).toEqual([])
  })
  it("with broken links are detected", () => {
    const text =
      "# A heading, with `code`\n[a](docs/none.md) [b](#a-heading-with-code) [c](#none) [d](docs/architecture.md#terms) [e](../outside) `[f](none)` [g](https://h.example)"
    expect(deadLinks("README.md", text)).toEqual(["docs/none.md", "#none", "../outside"])
  })
})

describe("the site's sidebar", () => {
  it("has every document of docs/, the README and what contributors read, each once", () => {
    const wanted = documents.filter((name) => name.startsWith("docs/") || ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].includes(name))
    expect([...pages()].sort()).toEqual(wanted.sort())
  })
  it("has a title for each, in reading order", () => {
    expect(pages().filter((page) => titleOf(page) === page)).toEqual([])
    expect(navigation().map(({ text }) => text)).toEqual(["Start", "How-to", "The recipe", "Reference", "Internals"])
    expect(navigation().filter((section) => section.pages.length === 0)).toEqual([])
  })
})

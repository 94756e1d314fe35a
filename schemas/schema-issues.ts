/**
 * The message of a schema error as one line, each issue after its field: `sft.epochs: expected a value greater than or equal to 1, got 0; steps: missing key`.
 * Effect writes an issue and its path on separate lines, the path as `at ["sft"]["epochs"]`.
 */
export const schemaIssues = (message: string): string =>
  message
    .replaceAll(/^(.*)\n\s+at ((?:\[.*\])+)$/gm, (_, issue: string, path: string) => `${fieldAt(path)}: ${lowerFirst(issue)}`)
    .replaceAll("\n", "; ")

const fieldAt = (path: string): string => path.replaceAll(/\["((?:[^"\\]|\\.)*)"\]/g, ".$1").replace(/^\./, "")

const lowerFirst = (text: string): string => text.replace(/^(Expected|Missing|Unexpected)/, (word) => word.toLowerCase())

/** Recognises data files in a folder, on disk or on the Hub, by their names. */

/** File names of data files; a folder may hold other files (README.md, LICENSE, dataset_info.json), which are not data. */
const dataName = /\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|feather|ipc|txt)(\.(gz|zst))?$/i
/** Metadata files that the `datasets` library writes next to its rows. */
const sideFile = /^(dataset_infos?|dataset_dict|state|config|croissant)\.json$/

export const looksLikeData = (name: string): boolean => dataName.test(name)
/** Whether a file in a folder is read as rows. */
export const isDataFile = (name: string): boolean => dataName.test(name) && !sideFile.test(name)

/** Endings that decide how a single file is read, because its content alone does not: tables, plain text, and the code of scorers. */
const decisive = /\.(csv|tsv|txt|[cm]?[jt]s)$/
/** The ending of a file's name if it decides how the file is read ("csv"); undefined for formats that readers detect from the content. */
export const decisiveEnding = (name: string): string | undefined => decisive.exec(name.toLowerCase().replace(/\.(gz|zst)$/, ""))?.[1]

/** The split in a file's name, according to the Hub's naming convention. */
const splitOf = (name: string): string | undefined =>
  /(?:^|[-_./])(train|test|validation|valid|val|dev|eval)(?=$|[-_./])/i.exec(name)?.[1]?.toLowerCase()

/**
 * Detects files of several splits in one input: a model would train on its evaluation data. Returns the number of files per split, the first split, and a pattern
 * that matches the first split's files; undefined if there is at most one split.
 */
export const mixedSplits = (
  names: ReadonlyArray<string>
): { readonly found: string; readonly first: string; readonly pattern: string } | undefined => {
  const splits = [...Map.groupBy(names, splitOf)].filter(([split]) => split !== undefined)
  if (splits.length < 2) return undefined
  const [[first, example]] = splits as [[string, [string, ...Array<string>]]]
  const pattern = example[0].replace(/[^/]*$/, (name) =>
    name.replace(/(train|test|validation|valid|val|dev|eval).*(?=\.\w+(\.\w+)?$)/i, "$1*")
  )
  return { found: splits.map(([split, of]) => `${of.length} of ${split}`).join(", "), first, pattern }
}

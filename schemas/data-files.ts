/** Which files of a folder hold rows, by their names, on a disk or on the Hub. */

/** How data files are called; a folder may hold others (README.md, LICENSE, dataset_info.json), which are no data. */
const dataName = /\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|feather|ipc|txt)(\.(gz|zst))?$/i
/** What `datasets` writes beside its rows. */
const sideFile = /^(dataset_infos?|dataset_dict|state|config|croissant)\.json$/

export const looksLikeData = (name: string): boolean => dataName.test(name)
/** Whether a file in a folder is taken for rows. */
export const isDataFile = (name: string): boolean => dataName.test(name) && !sideFile.test(name)

/** The part of a file's name that says which split it is of, as the Hub names files. */
const splitOf = (name: string): string | undefined =>
  /(?:^|[-_./])(train|test|validation|valid|val|dev|eval)(?=$|[-_./])/i.exec(name)?.[1]?.toLowerCase()

/**
 * Files of which some are of one split and some of another: they would train on what they are judged by. How many of which, the first split, and a pattern
 * that stands for its files; undefined where there is one split at most.
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

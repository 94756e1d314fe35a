/** Files that a report may have in addition to report.json, for people: `caravan run` prints the text instead of the JSON, and prints the path of the page. */
export const textFile = "report.txt"
export const pageFile = "report.html"

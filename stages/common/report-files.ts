/** What a report may bring beside its report.json, for people: `caravan run` shows the text in place of the JSON, and says where the page is. */
export const textFile = "report.txt"
export const pageFile = "report.html"

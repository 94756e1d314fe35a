// Generates a module that exports every value of the package under a separate name, whose declarations need a name for every type.
import { writeFileSync } from "node:fs"

const lines: Array<string> = []
const add = (path: string, module: object): void => {
  for (const [name, value] of Object.entries(module)) {
    if (Object.prototype.toString.call(value) === "[object Module]") add(`${path}.${name}`, value as object)
    // A class can't be another class's name.
    else if (!String(value).startsWith("class ")) lines.push(`export const ${path.replaceAll(".", "_")}_${name} = ${path}.${name}`)
  }
}
for (const entry of ["caravan", "caravan/engine", "caravan/models", "caravan/stages"]) {
  const name = entry.replace("caravan/", "")
  lines.unshift(`import * as ${name} from "${entry}"`)
  add(name, (await import(entry)) as object)
}
writeFileSync("every.ts", `${lines.join("\n")}\n`)

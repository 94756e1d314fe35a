/** `caravan setup`: installs libtorch and a compiler if they are missing, and builds the tensor addon. */
import { buildAddon } from "../../engine/native/build.mjs"
import { ensureLibtorch } from "../../scripts/libtorch.mjs"
import { type Command, exitCodes } from "../command.ts"
import { tell } from "../output.ts"

export const command: Command = {
  name: "setup",
  summary:
    "Installs libtorch and a C++ compiler if they are missing, and builds the tensor addon. Does nothing if everything is installed.",
  positionals: [],
  flags: {},
  examples: ["caravan setup"],
  run: async () => {
    await ensureLibtorch()
    tell(`The tensor addon is built: ${buildAddon()}\n`)
    return exitCodes.ok
  }
}

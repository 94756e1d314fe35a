/** `caravan setup`: gets libtorch and a compiler where they are missing, and builds the tensor addon. Does nothing when all is there. */
import { buildAddon } from "../engine/native/build.mjs"
import { ensureLibtorch } from "../scripts/libtorch.mjs"

/** Resolves to the exit code; what is done, and what could not be, goes to standard error. */
export const setup = async (): Promise<number> => {
  try {
    await ensureLibtorch()
    process.stderr.write(`The tensor addon is built: ${buildAddon()}\n`)
    return 0
  } catch (error) {
    process.stderr.write(`Setup stopped: ${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  }
}

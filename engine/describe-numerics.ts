/** Prints a device's numerics as JSON. numerics.ts runs it in a separate process. */
import { describeNumerics } from "./device.ts"
import { prepare } from "./prepare.ts"

const [device, threads] = process.argv.slice(2) as ["cpu" | "cuda", string]
try {
  prepare(device, Number(threads))
  process.stdout.write(JSON.stringify(describeNumerics(device, Number(threads))))
} catch (cause) {
  process.stderr.write(cause instanceof Error ? cause.message : String(cause))
  process.exitCode = 1
}

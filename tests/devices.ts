import { hasCuda } from "../engine/device.ts"

/** Devices that a test runs on; a missing GPU shows as a skipped test. */
export const devices = [
  { device: "cpu" as const, skip: false },
  { device: "cuda" as const, skip: !hasCuda() }
]

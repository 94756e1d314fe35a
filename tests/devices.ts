import { hasCuda } from "../engine/device.ts"

/** Devices on which a test runs; a missing GPU appears as a skipped test. */
export const devices = [
  { device: "cpu" as const, skip: false },
  { device: "cuda" as const, skip: !hasCuda() }
]

/** Computes layouts in a worker, so that the page stays responsive. */
import { type Box, layout } from "./layout.ts"

addEventListener(
  "message",
  ({ data }: MessageEvent<{ readonly job: number; readonly boxes: ReadonlyArray<Box>; readonly direction: "LR" | "TB" }>) => {
    const { height, places, width } = layout(data.boxes, data.direction)
    postMessage({ job: data.job, height, width, places: [...places] })
  }
)

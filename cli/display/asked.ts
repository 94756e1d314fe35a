/** A run's options, in words. */
import type { Asked } from "../../runtime/store/asked.ts"
import { shown } from "./units.ts"

/** "times=2, seed 0, cpu, 1 thread" */
export const describeAsked = (asked: Asked): string =>
  [
    ...Object.entries(asked.params).map(([name, value]) => `${name}=${shown(value)}`),
    ...Object.entries(asked.settings).map(([name, value]) => `${name}=${value}`),
    ...Object.entries(asked.selection).map(([name, value]) => `--${name} ${[value].flat().join(", ")}`),
    `seed ${asked.seed}`,
    asked.device,
    `${asked.threads} thread${asked.threads === 1 ? "" : "s"}`,
    ...(asked.ranks === undefined ? [] : [`${asked.ranks} ranks, sharding ${asked.sharding}`])
  ].join(", ")

/** A run's graph: folded rounds, live states, keyboard navigation between neighbours. */
import type { Signal } from "@preact/signals"
import type { RefObject } from "preact"
import { useEffect, useMemo, useRef, useState } from "preact/hooks"
import { plain } from "./format.ts"
import { groupsOf, type Item, itemsOf } from "./fold.ts"
import type { Box, Layout, Place } from "./layout.ts"
import { stateWord } from "./parts.tsx"
import { go, link } from "./route.ts"
import { countsIn, type RunStore } from "./run-state.ts"

const height = { node: 24, group: 40 }
const longest = 26

const labelOf = (item: Item): string => {
  const text = plain(item.label)
  return text.length > longest ? `${text.slice(0, longest - 1)}…` : text
}
const boxOf = (item: Item): Box => ({
  id: item.id,
  inputs: item.inputs,
  width: item.isGroup ? Math.max(120, 46 + 6.6 * labelOf(item).length) : 30 + 6.6 * labelOf(item).length,
  height: item.isGroup ? height.group : height.node
})

/** Below this scale names are unreadable and are omitted. */
const legible = 0.35

let jobs = 0
const useLayout = (items: ReadonlyArray<Item>, direction: "LR" | "TB"): (Layout & { readonly of: ReadonlyArray<Item> }) | undefined => {
  const [made, set] = useState<Layout & { readonly of: ReadonlyArray<Item> }>()
  const worker = useRef<Worker | undefined>(undefined)
  useEffect(() => {
    worker.current = new Worker(new URL("./layout.worker.ts", import.meta.url), { type: "module" })
    return () => worker.current?.terminate()
  }, [])
  useEffect(() => {
    const job = ++jobs
    const hear = ({
      data
    }: MessageEvent<{
      readonly job: number
      readonly width: number
      readonly height: number
      readonly places: ReadonlyArray<[string, Place]>
    }>) => {
      if (data.job === job) set({ width: data.width, height: data.height, places: new Map(data.places), of: items })
    }
    worker.current?.addEventListener("message", hear)
    worker.current?.postMessage({ job, direction, boxes: items.map(boxOf) })
    return () => worker.current?.removeEventListener("message", hear)
  }, [items, direction])
  return made
}

interface Shown {
  readonly item: Item
  readonly box: Box
  readonly place: Place
}

const NodeMark = ({
  box,
  item,
  onPick,
  place,
  store,
  isChosen,
  isSmall
}: Shown & { readonly store: RunStore; readonly onPick: () => void; readonly isChosen: boolean; readonly isSmall: boolean }) => {
  const state = item.isFile ? "file" : (store.nodes.get(item.id)?.value.state ?? "waiting")
  const progress = store.nodes.get(item.id)?.value.progress
  const share =
    state === "running" && typeof progress?.step === "number" && typeof progress.total === "number"
      ? progress.step / Math.max(1, progress.total)
      : 0
  const [x, y] = [place.x - box.width / 2, place.y - box.height / 2]
  return (
    <g class={`node is-${state}${isChosen ? " chosen" : ""}`} transform={`translate(${x} ${y})`} onClick={onPick}>
      <title>{`${plain(item.id)}: ${stateWord(state)}`}</title>
      <rect width={box.width} height={box.height} rx="5" />
      {share > 0 ? <rect class="share" width={box.width * Math.min(1, share)} height="3" y={box.height - 3} rx="1.5" /> : null}
      <circle cx="12" cy={box.height / 2} r={isSmall ? 8 : 4} />
      {isSmall ? null : (
        <text x="22" y={box.height / 2}>
          {labelOf(item)}
        </text>
      )}
    </g>
  )
}

const order = ["failed", "ran", "hit", "running", "stopped", "skipped"]
const GroupMark = ({
  box,
  item,
  onPick,
  place,
  store,
  isChosen
}: Shown & { readonly store: RunStore; readonly onPick: () => void; readonly isChosen: boolean; readonly isSmall: boolean }) => {
  void store.tick.value
  const counts = countsIn(store, item.members)
  const [x, y] = [place.x - box.width / 2, place.y - box.height / 2]
  const inner = box.width - 20
  let from = 0
  const told = order.flatMap((state) => {
    const width = (inner * (counts[state] ?? 0)) / item.members.length
    const at = from
    from += width
    return width > 0 ? [{ state, width, at }] : []
  })
  const state = (counts.failed ?? 0) > 0 ? "failed" : (counts.running ?? 0) > 0 ? "running" : (counts.waiting ?? 0) > 0 ? "waiting" : "ran"
  return (
    <g class={`node group is-${state}${isChosen ? " chosen" : ""}`} transform={`translate(${x} ${y})`} onClick={onPick}>
      <title>{`${plain(item.label)}, ${item.members.length} nodes: ${order.flatMap((one) => (counts[one] ? [`${counts[one]} ${stateWord(one)}`] : [])).join(", ")}. Click to unfold.`}</title>
      <rect class="behind" x="3" y="3" width={box.width} height={box.height} rx="6" />
      <rect width={box.width} height={box.height} rx="6" />
      <text x="10" y="15">
        {labelOf(item)}
      </text>
      <text class="small" x={box.width - 10} y="15" text-anchor="end">
        {item.members.length}
      </text>
      <rect class="rest" x="10" y="27" width={inner} height="5" rx="2.5" />
      {told.map(({ at, state: of, width }) => (
        <rect key={of} class={`bar-${of}`} x={10 + at} y="27" width={width} height="5" />
      ))}
    </g>
  )
}

const curve = (a: Shown, b: Shown, direction: "LR" | "TB"): string => {
  if (direction === "LR") {
    const [x1, x2] = [a.place.x + a.box.width / 2, b.place.x - b.box.width / 2]
    const bend = Math.max(16, Math.abs(x2 - x1) / 2)
    return `M${x1} ${a.place.y}C${x1 + bend} ${a.place.y} ${x2 - bend} ${b.place.y} ${x2} ${b.place.y}`
  }
  const [y1, y2] = [a.place.y + a.box.height / 2, b.place.y - b.box.height / 2]
  const bend = Math.max(12, Math.abs(y2 - y1) / 2)
  return `M${a.place.x} ${y1}C${a.place.x} ${y1 + bend} ${b.place.x} ${y2 - bend} ${b.place.x} ${y2}`
}

/** The nearest item in the direction of an arrow key. */
const nearest = (shown: ReadonlyMap<string, Shown>, from: Shown, key: string): string | undefined => {
  const directions: Readonly<Record<string, readonly [number, number]>> = {
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, -1],
    ArrowDown: [0, 1]
  }
  const [dx, dy] = directions[key] ?? [0, 0]
  let best: readonly [number, string] | undefined
  for (const [id, { place }] of shown) {
    const [x, y] = [place.x - from.place.x, place.y - from.place.y]
    const ahead = x * dx + y * dy
    if (ahead <= 1) continue
    const score = ahead + 3 * Math.abs(x * dy + y * dx)
    if (best === undefined || score < best[0]) best = [score, id]
  }
  return best?.[1]
}

interface Area {
  readonly left: number
  readonly right: number
  readonly top: number
  readonly bottom: number
}
const around = (a: Shown, b: Shown): Area => ({
  left: Math.min(a.place.x - a.box.width / 2, b.place.x - b.box.width / 2),
  right: Math.max(a.place.x + a.box.width / 2, b.place.x + b.box.width / 2),
  top: Math.min(a.place.y - a.box.height / 2, b.place.y - b.box.height / 2),
  bottom: Math.max(a.place.y + a.box.height / 2, b.place.y + b.box.height / 2)
})
const isSeen = (area: Area, seen: Area): boolean =>
  area.left < seen.right && area.right > seen.left && area.top < seen.bottom && area.bottom > seen.top

/**
 * Up to this many items are always drawn. With more, only those near the visible area: a browser repaints the whole picture when anything in it
 * changes.
 */
const allAtOnce = 250
const block = 400

/** The visible area in graph coordinates, rounded to blocks: it changes once per block scrolled. */
const useSeen = (frame: RefObject<HTMLDivElement | null>, zoom: number, made: object | undefined): Area => {
  const [seen, set] = useState<Area>({ left: 0, right: 0, top: 0, bottom: 0 })
  useEffect(() => {
    const box = frame.current
    if (box === null) return
    const look = () => {
      const low = (value: number) => Math.floor(value / zoom / block) * block - block / 2
      const next = {
        left: low(box.scrollLeft),
        top: low(box.scrollTop),
        right: low(box.scrollLeft + box.clientWidth) + 2 * block,
        bottom: low(box.scrollTop + box.clientHeight) + 2 * block
      }
      set((before) =>
        before.left === next.left && before.top === next.top && before.right === next.right && before.bottom === next.bottom ? before : next
      )
    }
    look()
    box.addEventListener("scroll", look, { passive: true })
    const sized = new ResizeObserver(look)
    sized.observe(box)
    return () => {
      box.removeEventListener("scroll", look)
      sized.disconnect()
    }
  }, [zoom, made])
  return seen
}

export const Graph = ({
  chosen,
  store,
  scale,
  unfoldedSignal
}: {
  readonly store: RunStore
  readonly chosen: string | undefined
  readonly scale: Signal<number>
  readonly unfoldedSignal: Signal<ReadonlySet<string>>
}) => {
  const { graph } = store.view
  const frame = useRef<HTMLDivElement>(null)
  const [direction, setDirection] = useState<"LR" | "TB">(innerWidth < 700 ? "TB" : "LR")
  useEffect(() => {
    const size = () => setDirection(innerWidth < 700 ? "TB" : "LR")
    addEventListener("resize", size)
    return () => removeEventListener("resize", size)
  }, [])
  const groups = useMemo(() => groupsOf(graph), [graph])
  const unfolded = unfoldedSignal.value
  const items = useMemo(() => itemsOf(graph, groups.of, unfolded), [graph, groups, unfolded])
  const made = useLayout(items, direction)
  const shown = useMemo(() => {
    const all = new Map<string, Shown>()
    for (const item of made?.of ?? []) {
      const place = made!.places.get(item.id)
      if (place !== undefined) all.set(item.id, { item, place, box: boxOf(item) })
    }
    return all
  }, [made])
  const edges = useMemo(
    () =>
      [...shown.values()].flatMap((to) =>
        to.item.inputs.flatMap((id) => {
          const from = shown.get(id)
          return from === undefined ? [] : [{ from: id, to: to.item.id, path: curve(from, to, direction), around: around(from, to) }]
        })
      ),
    [shown, direction]
  )
  const seen = useSeen(frame, scale.value, made)
  const drawn = useMemo(() => [...shown.values()].filter((one) => shown.size <= allAtOnce || isSeen(around(one, one), seen)), [shown, seen])
  const all = useMemo(
    () =>
      edges
        .filter((edge) => shown.size <= allAtOnce || isSeen(edge.around, seen))
        .map(({ path }) => path)
        .join(""),
    [edges, seen]
  )
  const [active, setActive] = useState<string>()
  const folded = chosen === undefined ? undefined : `group:${groups.of.get(chosen)}`
  const focus = [active, chosen, folded].find((id) => id !== undefined && shown.has(id))
  const pick = (item: Item) => {
    setActive(item.id)
    if (item.isGroup) unfoldedSignal.value = new Set([...unfolded, item.label])
    else if (!item.isFile) go(link(["run", store.view.id, "graph"], { node: item.id }))
  }
  const scrollTo = (id: string, behavior: ScrollBehavior) => {
    const { place } = shown.get(id)!
    const box = frame.current!
    const zoom = scale.value
    box.scrollTo({ left: place.x * zoom - box.clientWidth / 2, top: place.y * zoom - box.clientHeight / 2, behavior })
  }
  const zoom = scale.value
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "+" || event.key === "=") scale.value = Math.min(2, zoom * 1.2)
    else if (event.key === "-") scale.value = Math.max(0.1, zoom / 1.2)
    else if (event.key === "Enter" && focus !== undefined) pick(shown.get(focus)!.item)
    else if (event.key.startsWith("Arrow")) {
      const from = focus === undefined ? undefined : shown.get(focus)
      const next = from === undefined ? shown.keys().next().value : nearest(shown, from, event.key)
      if (next === undefined) return
      setActive(next)
      scrollTo(next, "smooth")
    } else return
    event.preventDefault()
  }
  const isNear = (edge: { readonly from: string; readonly to: string }) => focus !== undefined && (edge.from === focus || edge.to === focus)
  const spoken =
    focus === undefined
      ? ""
      : shown.get(focus)!.item.isGroup
        ? `${focus.slice(6)}, folded`
        : `${focus}: ${stateWord(store.nodes.get(focus)?.value.state ?? "file")}`
  const fit = () => {
    if (made === undefined || frame.current === null) return
    scale.value = Math.max(
      0.62,
      Math.min(1, (frame.current.clientWidth - 4) / made.width, direction === "TB" ? 1 : (innerHeight * 0.7) / made.height)
    )
  }
  const isFitted = useRef("")
  useEffect(() => {
    const key = `${direction} ${store.view.id}`
    if (made === undefined || isFitted.current === key) return
    isFitted.current = key
    fit()
    // A large graph does not fit: begin where something runs or failed, else at the first node.
    const inState = (state: string) => {
      const id = [...store.nodes].find(([, node]) => node.value.state === state)?.[0]
      return id === undefined || shown.has(id) ? id : `group:${groups.of.get(id)}`
    }
    const start = [focus, inState("running"), inState("failed"), shown.keys().next().value].find((id) => id !== undefined && shown.has(id))
    if (start !== undefined) requestAnimationFrame(() => frame.current !== null && scrollTo(start, "instant"))
  }, [made, direction])
  return (
    <div class="graph">
      <div class="graph-tools">
        {[...unfolded].map((name) => (
          <button
            key={name}
            type="button"
            class="chip"
            onClick={() => (unfoldedSignal.value = new Set([...unfolded].filter((other) => other !== name)))}
          >
            {plain(name)} <span aria-hidden="true">×</span>
            <span class="hidden">fold</span>
          </button>
        ))}
        <span class="grow" />
        {groups.labels.size === 0 ? null : unfolded.size < groups.labels.size ? (
          <button type="button" onClick={() => (unfoldedSignal.value = new Set(groups.labels.keys()))}>
            Unfold all
          </button>
        ) : (
          <button type="button" onClick={() => (unfoldedSignal.value = new Set())}>
            Fold all
          </button>
        )}
        <button type="button" aria-label="Smaller" onClick={() => (scale.value = Math.max(0.1, zoom / 1.2))}>
          −
        </button>
        <button type="button" aria-label="Larger" onClick={() => (scale.value = Math.min(2, zoom * 1.2))}>
          +
        </button>
        <button type="button" onClick={fit}>
          Fit
        </button>
      </div>
      <div
        class="graph-frame"
        ref={frame}
        tabIndex={0}
        role="application"
        aria-label="Graph of the run. Arrow keys go from node to node, Enter opens one or unfolds a round, + and - change its size. The tab Nodes has the same as a table."
        onKeyDown={onKey}
      >
        {made === undefined ? (
          <p class="quiet">Laying out {items.length} items.</p>
        ) : (
          <svg width={made.width * zoom} height={made.height * zoom} viewBox={`0 0 ${made.width} ${made.height}`} aria-hidden="true">
            <path class="edge" d={all} />
            <path
              class="edge near"
              d={edges
                .filter(isNear)
                .map(({ path }) => path)
                .join("")}
            />
            {drawn.map((one) => {
              const Mark = one.item.isGroup ? GroupMark : NodeMark
              return (
                <Mark
                  key={one.item.id}
                  {...one}
                  store={store}
                  isChosen={one.item.id === focus}
                  isSmall={zoom < legible}
                  onPick={() => pick(one.item)}
                />
              )
            })}
          </svg>
        )}
      </div>
      <p class="hidden" role="status">
        {plain(spoken)}
      </p>
    </div>
  )
}

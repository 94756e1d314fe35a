/** The frame of every page, and routing. */
import { lazy } from "./lazy.tsx"
import { about } from "./api.ts"
import { mayControl, setToken } from "./control.tsx"
import { connection } from "./live.ts"
import { go, link, route } from "./route.ts"
import { RunList } from "./run-list.tsx"

const RunPage = lazy(() => import("./run-page.tsx").then((module) => module.RunPage))

const RowsPage = lazy(() => import("./rows-page.tsx").then((module) => module.RowsPage))

const ComparePage = lazy(() => import("./compare-page.tsx").then((module) => module.ComparePage))
const TablePage = lazy(() => import("./table-page.tsx").then((module) => module.TablePage))
const LineagePage = lazy(() => import("./lineage-page.tsx").then((module) => module.LineagePage))

const LabelPage = lazy(() => import("./label-page.tsx").then((module) => module.LabelPage))

/** The printed address contains the token; remove it from the page's address. */
const takeToken = () => {
  const given = route.value.query.get("token")
  if (given === null) return
  setToken(given)
  go(link([]), true)
}
takeToken()

const Page = () => {
  const { path, query } = route.value
  const [first, id] = path
  if (first === "run" && id !== undefined)
    return <RunPage key={id} id={id} tab={path[2] ?? "graph"} node={query.get("node") ?? undefined} />
  if (first === "rows" && id !== undefined)
    return <RowsPage key={id} digest={id} run={query.get("run") ?? undefined} node={query.get("node") ?? undefined} />
  if (first === "compare" && id !== undefined && path[2] !== undefined) return <ComparePage key={path.join()} before={id} after={path[2]} />
  if (first === "table" && id !== undefined) return <TablePage key={id} ids={id} />
  if (first === "lineage" && id !== undefined) return <LineagePage key={id} digest={id} />
  if (first === "label") return <LabelPage task={id} annotator={path[2]} />
  return <RunList />
}

const Connection = () => {
  const state = connection.value
  if (state === "idle") return null
  const words = { connecting: "connecting", live: "live", lost: "reconnecting" }[state]
  return (
    <span class={`connection ${state}`} role="status">
      <i aria-hidden="true" />
      {words}
    </span>
  )
}

export const App = () => (
  <>
    <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
      Skip to content
    </a>
    <header class="top">
      <a class="mark" href={link([])}>
        Caravan
      </a>
      <nav aria-label="Pages">
        <a href={link([])} aria-current={route.value.path.length === 0 ? "page" : undefined}>
          Runs
        </a>
        {mayControl() ? (
          <a href={link(["label"])} aria-current={route.value.path[0] === "label" ? "page" : undefined}>
            Label
          </a>
        ) : null}
      </nav>
      <span class="home" title={about.value?.home}>
        <bdi>{about.value?.home}</bdi>
      </span>
      <Connection />
    </header>
    <main id="main" tabIndex={-1}>
      <Page />
    </main>
  </>
)

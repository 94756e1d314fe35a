/** An artifact's origin and uses. */
import { useEffect, useState } from "preact/hooks"
import type { Lineage } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { count, duration, moment, plain, short, shortRun, shown } from "./format.ts"
import { Copy, Trouble } from "./parts.tsx"
import { link } from "./route.ts"

const Tree = ({ entries, nothing, title }: { readonly title: string; readonly entries: Lineage["from"]; readonly nothing: string }) => (
  <section class="block">
    <h3>{title}</h3>
    {entries.length === 0 ? <p class="quiet">{nothing}</p> : null}
    <ul class="tree">
      {entries.map((entry, i) => (
        <li key={i} style={{ paddingLeft: `${(entry.depth - 1) * 18}px` }}>
          <span class="quiet">{plain(entry.port)}</span>{" "}
          {entry.digest === null ? <span>{plain(entry.name)}</span> : <a href={link(["lineage", entry.digest])}>{plain(entry.name)}</a>}{" "}
          <span class="quiet small">
            {entry.kind === "file" ? "your file" : plain(entry.type)}
            {entry.isRepeated ? ", see above" : ""}
          </span>
        </li>
      ))}
    </ul>
  </section>
)

export const LineagePage = ({ digest }: { readonly digest: string }) => {
  const [found, set] = useState<Lineage>()
  const [error, setError] = useState<unknown>()
  useEffect(() => {
    ask("lineage", { digest }).then(set, setError)
  }, [digest])
  if (found === undefined) return <div class="page">{error === undefined ? <p class="quiet">Loading …</p> : <Trouble error={error} />}</div>
  return (
    <div class="page">
      <div class="page-head wrap">
        <h1>
          {plain(found.artifact.name)} <span class="mono quiet">{plain(found.artifact.type)}</span>
        </h1>
        <Copy text={digest} label={short(digest)} />
        <span class="quiet">{found.isThere ? "in the store" : "no longer in the store; a run that needs it recomputes it"}</span>
        {found.isThere && found.artifact.type.startsWith("dataset:") ? (
          <a href={link(["rows", digest], { run: found.made[0]?.run, node: found.artifact.name })}>rows</a>
        ) : null}
      </div>
      {found.made.slice(0, 1).map((made) => (
        <section key={made.run} class="block">
          <h3>Made by</h3>
          <p>
            run{" "}
            <a class="mono" href={link(["run", made.run, "graph"], { node: made.node })}>
              {shortRun(made.run)}
            </a>{" "}
            of {plain(made.pipeline)}, node {plain(made.node)} (stage {plain(made.stage)}), {moment(made.at)}, in{" "}
            {duration(made.milliseconds)}
            {found.made.length > 1 ? `; recomputed with the same result ${count(found.made.length - 1, "time")}` : ""}
          </p>
          <p class="quiet small">
            {Object.entries(made.config)
              .map(([name, value]) => `${name} ${shown(value)}`)
              .map(plain)
              .join(", ")}
          </p>
          <details>
            <summary>{count(made.code.length, "file")} of code</summary>
            <p class="quiet small">{made.code.map(plain).join(", ")}</p>
          </details>
        </section>
      ))}
      <div class="two">
        <Tree title="Made from" entries={found.from} nothing="Nothing: it was generated." />
        <Tree title="Used to make" entries={found.into} nothing="Nothing was made from it." />
      </div>
    </div>
  )
}

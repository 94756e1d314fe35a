/** Whether a run matches its lock file. */
import { useEffect, useState } from "preact/hooks"
import type { LockState } from "../../cli/ui/api.ts"
import { ask } from "./api.ts"
import { plain, short, shown } from "./format.ts"
import { Trouble } from "./parts.tsx"

const brief = (value: unknown): string =>
  typeof value === "string" && /^[0-9a-f]{64}$/.test(value) ? short(value) : value === null ? "–" : plain(shown(value))

export const Lock = ({ run }: { readonly run: string }) => {
  const [found, set] = useState<LockState>()
  const [error, setError] = useState<unknown>()
  useEffect(() => {
    ask("lock", { run }).then(set, setError)
  }, [run])
  return (
    <section class="block">
      <h3>Lock file</h3>
      {error === undefined ? null : <Trouble error={error} />}
      {found === undefined ? null : (
        <>
          <p class={found.state === "differs" || found.state === "unreadable" ? "warning" : ""}>
            {plain(found.message)} <span class="quiet small">{plain(found.path)}</span>
          </p>
          {found.differences.length === 0 ? null : (
            <table class="changes-table">
              <tbody>
                {found.differences.slice(0, 200).map(({ after, before, node, what }, i) => (
                  <tr key={i}>
                    <th scope="row">
                      {plain(node)} <span class="quiet">{plain(what)}</span>
                    </th>
                    <td>{brief(before)}</td>
                    <td>{brief(after)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </>
      )}
    </section>
  )
}

/** A component that is loaded when it is first shown. */
import type { ComponentType, FunctionComponent } from "preact"
import { useEffect, useState } from "preact/hooks"

export const lazy = <Props extends object>(load: () => Promise<ComponentType<Props>>): FunctionComponent<Props> => {
  let loaded: ComponentType<Props> | undefined
  return (props) => {
    const [Component, set] = useState(() => loaded)
    useEffect(() => {
      if (Component === undefined) void load().then((module) => set(() => (loaded = module)))
    }, [Component])
    return Component === undefined ? <p class="quiet">Loading …</p> : <Component {...props} />
  }
}

import { render } from "preact"
import { about, ask } from "./api.ts"
import { App } from "./app.tsx"
import "./style.css"

void ask("about").then((answer) => (about.value = answer))
render(<App />, document.getElementById("page")!)

/** A run's tags and note. */
import { useState } from "preact/hooks"
import { Doing, mayControl, tell, token } from "./control.tsx"
import { plain } from "./format.ts"
import type { RunStore } from "./run-state.ts"

export const Note = ({ store }: { readonly store: RunStore }) => {
  const { id, note, tags } = store.view
  const [text, setText] = useState(note)
  const [words, setWords] = useState(tags.join(", "))
  if (!mayControl() || token.value === "")
    return note === "" && tags.length === 0 ? null : (
      <section class="block">
        <h3>Note</h3>
        <p class="text">{plain(note)}</p>
        <p>
          {tags.map((tag) => (
            <span key={tag} class="tag">
              {plain(tag)}
            </span>
          ))}
        </p>
      </section>
    )
  return (
    <section class="block note-form">
      <h3>Note</h3>
      <label>
        <span class="hidden">Note</span>
        <textarea
          rows={3}
          maxLength={4000}
          value={text}
          placeholder="Purpose and outcome of this run"
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <label>
        tags, separated by commas
        <input type="text" value={words} onInput={(event) => setWords(event.currentTarget.value)} />
      </label>
      <Doing
        act={() =>
          tell("note", {
            run: id,
            note: text,
            tags: words
              .split(",")
              .map((tag) => tag.trim())
              .filter((tag) => tag !== "")
          })
        }
      >
        Save
      </Doing>
    </section>
  )
}

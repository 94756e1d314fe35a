/** The JSON object in a model's answer, with or without a code fence around it; an empty object if there is none. */
export const jsonIn = (said: string): Readonly<Record<string, unknown>> => {
  try {
    const found: unknown = JSON.parse(said.trim().replace(/^```(?:json)?\s*|\s*```$/g, ""))
    return typeof found === "object" && found !== null ? (found as Readonly<Record<string, unknown>>) : {}
  } catch {
    return {}
  }
}

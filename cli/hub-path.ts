/** Fetches a folder or file named on the Hugging Face Hub, with progress on stderr. */
import { Hub } from "../runtime/hub/hub.ts"
import type { Wanted } from "../runtime/hub/choose.ts"
import { showReading } from "./display/reading.ts"

/** `wanted`: all files needed to run a model, or only its tokenizer. Rejects with a PipelineError or a StoreError. */
export const hubPath = async (text: string, wanted: Wanted, hub = new Hub()): Promise<string> => {
  const remote = await hub.resolve(text, { wanted })
  const reading = showReading(`Downloading ${remote.name}`)
  reading.start(remote.bytes)
  await remote.fetch({ onBytes: reading.onBytes }).finally(reading.close)
  return remote.path
}

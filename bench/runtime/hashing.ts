/** Speed of the store's hashing compared with sha256sum, on a file in the page cache: `node bench/runtime/hashing.ts [MiB] [rounds]`. */
import { spawnSync } from "node:child_process"
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { sha256File } from "../../runtime/key/file-digest.ts"

const [mebibytes, rounds] = [Number(process.argv[2] ?? 1024), Number(process.argv[3] ?? 5)]
const folder = mkdtempSync(join(process.env.FOLDER ?? tmpdir(), "hashing-"))
try {
  const path = join(folder, "bytes")
  const file = openSync(path, "wx")
  const piece = Buffer.alloc(1 << 20, "caravan ")
  for (let i = 0; i < mebibytes; i++) writeSync(file, piece)
  closeSync(file)
  for (let round = 0; round < rounds; round++) {
    const started = performance.now()
    const ours = await sha256File(path)
    const between = performance.now()
    const peer = spawnSync("sha256sum", [path], { encoding: "utf8" }).stdout.slice(0, 64)
    const ended = performance.now()
    if (ours !== peer) throw new Error(`ours is ${ours}, sha256sum's ${peer}`)
    const speed = (milliseconds: number) => `${((mebibytes * 1.048576) / milliseconds).toFixed(2)} GB/s`
    process.stdout.write(`ours ${speed(between - started)}, sha256sum ${speed(ended - between)}\n`)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}

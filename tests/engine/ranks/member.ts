/** A process of ranks.test.ts: joins its group using torchrun's variables, does what it is told, and prints its values as JSON. */
import { setTimeout as sleep } from "node:timers/promises"
import { agree, allGather, allReduce_, gatherAll, joinRanks, rank, ranks, reduceScatter, sumOver } from "../../../engine/ranks.ts"
import { arange, tensor, zeros } from "../../../engine/tensor.ts"

const [what, device, joining, deadline] = process.argv.slice(2) as [string, "cpu" | "cuda", string, string]
const { MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE } = process.env as Record<string, string>
const say = (value: unknown) => process.stdout.write(`${JSON.stringify(value)}\n`)

const exercises: Record<string, () => unknown> = {
  collectives: () => {
    const [me, size] = [rank(), ranks()]
    const sum = allReduce_(tensor([1, 10, 100], { device }).mul(me + 1), "summing").toNumbers()
    // Gloo can't sum bfloat16, which is not needed here: 1 + rank / 128 is exact.
    const shard = tensor([1 + me / 128, me], { dtype: "bfloat16", device })
    const gathered = zeros([2 * size], { dtype: "bfloat16", device })
    allGather(gathered, shard, "gathering")()
    const mine = zeros([2], { device })
    reduceScatter(
      mine,
      arange(0, 2 * size, { device })
        .to({ dtype: "float32" })
        .mul(me + 1),
      "scattering"
    )()
    return {
      sum,
      gathered: gathered.toNumbers(),
      mine: mine.toNumbers(),
      said: gatherAll({ rank: me, text: "é".repeat(me + 1) }, "saying"),
      agreed: agree(me === 0 ? "zero" : "another", "agreeing"),
      numbers: sumOver([me, 0.1, me === 1 ? NaN : 0], "adding").map(String)
    }
  },
  // Two pending gathers, waited for in reverse order.
  overlapped: () => {
    const whole = [0, 1].map(() => zeros([ranks()], { device }))
    const waits = whole.map((x, i) => allGather(x, tensor([10 * i + rank()], { device }), `gathering ${i}`))
    for (const wait of waits.toReversed()) wait()
    return whole.map((x) => x.toNumbers())
  }
}

try {
  if (what === "late" && RANK === "1") await sleep(20_000)
  joinRanks(
    {
      rank: Number(RANK),
      size: Number(WORLD_SIZE),
      host: MASTER_ADDR!,
      port: Number(MASTER_PORT),
      joining: Number(joining),
      deadline: Number(deadline),
      sharding: "weights"
    },
    device
  )
  if (what === "hang") {
    sumOver([1], "the first sum")
    if (rank() === 1) for (;;) await sleep(1000)
    sumOver([1], "the second sum")
  } else if (what === "die") {
    sumOver([1], "the first sum")
    if (rank() === 1) process.kill(process.pid, "SIGKILL")
    sumOver([1], "the second sum")
  } else say(exercises[what]!())
  process.exit(0)
} catch (error) {
  say({ error: (error as Error).message })
  process.exit(1)
}

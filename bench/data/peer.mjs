/** DuckDB doing the work of bench/data/main.ts: node peer.mjs all|parquet|copy <folder>. One thread, 500 MB, spilling to the folder. */
import { readFileSync } from "node:fs"
import { DuckDBInstance } from "@duckdb/node-api"

const [what, folder] = process.argv.slice(2)
const database = await DuckDBInstance.create(":memory:", { threads: "1", memory_limit: "500MB", temp_directory: `${folder}/duckdb` })
const connection = await database.connect()
const run = (sql) => connection.run(sql)
const columns = "columns = {prompt: 'VARCHAR', chosen: 'VARCHAR', rejected: 'VARCHAR', rating: 'INTEGER', source: 'VARCHAR'}"
const json = `read_json('${folder}/pairs.jsonl', format = 'newline_delimited', ${columns})`
const write = "(FORMAT parquet, COMPRESSION uncompressed, ROW_GROUP_SIZE 20000)"
const count = async (from) => Number((await connection.runAndReadAll(`SELECT count(*) FROM ${from}`)).getRows()[0][0])

let rows
if (what === "all") {
  await run(
    `CREATE TABLE pairs AS SELECT * FROM ${json} WHERE trim(chosen) <> trim(rejected) AND trim(chosen) <> '' AND trim(rejected) <> '' AND rating BETWEEN 0 AND 3`
  )
  // Removes duplicates by digest, keeping the first; orders by a hash of the row's number.
  await run(`CREATE TABLE kept AS SELECT min(rowid) AS place FROM pairs GROUP BY md5(prompt || chr(0) || chosen || chr(0) || rejected)`)
  const mixed = `SELECT pairs.*, hash(kept.place, 1) AS place, hash(prompt, 1) % 20 = 0 AS test FROM kept JOIN pairs ON kept.place = pairs.rowid ORDER BY hash(kept.place, 1)`
  await run(`CREATE TABLE mixed AS ${mixed}`)
  await run(`COPY (SELECT prompt, chosen, rejected, rating, source FROM mixed WHERE NOT test) TO '${folder}/duckdb-train.parquet' ${write}`)
  await run(`COPY (SELECT prompt, chosen, rejected, rating, source FROM mixed WHERE test) TO '${folder}/duckdb-test.parquet' ${write}`)
  rows = await count(`read_json('${folder}/pairs.jsonl', format = 'newline_delimited', columns = {source: 'VARCHAR'})`)
} else if (what === "parquet") {
  await run(`COPY (SELECT * FROM ${json}) TO '${folder}/pairs.parquet' (FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE 20000)`)
  rows = await count(`'${folder}/pairs.parquet'`)
} else {
  await run(`COPY (SELECT * FROM '${folder}/pairs.parquet') TO '${folder}/copy.parquet' ${write}`)
  rows = await count(`'${folder}/copy.parquet'`)
}
const { system, user } = process.cpuUsage()
const peak = Math.round(Number(/VmHWM:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) / 1024)
console.log(JSON.stringify({ cpu: (user + system) / 1e6, peak, rows }))

"""Arrow and Parquet files written by pyarrow: python3 make.py, in this folder."""
import json
from decimal import Decimal
import pyarrow as pa, pyarrow.feather as feather, pyarrow.parquet as pq

small = pa.table({"a": pa.array(["x" * 100, None]), "b": pa.array([[1, 2], []], pa.list_(pa.int32()))})
feather.write_feather(small, "lz4.arrow", compression="lz4")
feather.write_feather(small, "zstd.arrow", compression="zstd")

rows = [
    {"prompt": "é ✓ 𝄞", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}], "score": 0.25, "kind": "b", "id": 1 << 60, "price": Decimal("-12.25")},
    {"prompt": None, "messages": [], "score": None, "kind": "a", "id": 2, "price": Decimal("0.5")},
    {"prompt": "", "messages": None, "score": -1.0, "kind": None, "id": None, "price": None},
]
schema = pa.schema([
    ("prompt", pa.large_string()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("score", pa.float32()),
    ("kind", pa.dictionary(pa.int8(), pa.string())),
    ("id", pa.int64()),
    ("price", pa.decimal128(9, 2)),
])
table = pa.Table.from_pylist(rows * 3, schema)
# Two batches with different dictionaries: the stream replaces one by the other.
kinds = [pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int8()), pa.array(["a", "b"])), pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["b", "a"]))]
batches = [pa.RecordBatch.from_arrays([*table.slice(3 * i, 3).combine_chunks().to_batches()[0].columns[:3], kinds[i % 2], *table.slice(3 * i, 3).combine_chunks().to_batches()[0].columns[4:]], schema=schema) for i in range(3)]
with pa.OSFile("stream.arrow", "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
    for batch in batches: writer.write_batch(batch)
for codec in ("snappy", "gzip", "zstd", "brotli", "lz4", "none"):
    pq.write_table(table, f"{codec}.parquet", compression=codec, row_group_size=4, data_page_version="2.0" if codec == "zstd" else "1.0")
json.dump(rows * 3, open("rows.json", "w"), ensure_ascii=False, default=float)

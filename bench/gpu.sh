#!/usr/bin/env bash
# Everything that needs a GPU, in one run: the tests on CUDA, checkpoints to and from transformers, training speed compared with PyTorch.
# Usage: bench/gpu.sh [steps...]   (build tests interop train pipeline; default: all)
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-.caravan/gpu}; mkdir -p "$out"
steps=${*:-build tests interop train pipeline}
has() { [[ " $steps " == *" $1 "* ]]; }

if has build; then
  echo "== build"; time node -e 'import("./engine/native/build.mjs").then((build) => console.log(build.buildAddon()))'
  node -e 'import("./engine/device.ts").then((device) => console.log(JSON.stringify({ ...device.environment(), config: undefined })))'
fi
if has tests; then
  echo "== tests"; node node_modules/vitest/vitest.mjs run tests/engine tests/models tests/stages --reporter=default 2>&1 | tee "$out/tests.log" | tail -40
fi
if has pipeline; then
  echo "== pipeline on cuda"
  time CARAVAN_HOME=/tmp/caravan-gpu node cli/caravan.js run pipelines/demo.ts --device cuda --json > "$out/demo.json"
  node -e 'const run = JSON.parse(require("fs").readFileSync(process.argv[1])); console.log(run.status); console.log(require("fs").readFileSync(run.outputs.summary.path + "/report.json", "utf8").slice(0, 3000))' "$out/demo.json"
  echo "again:"; time CARAVAN_HOME=/tmp/caravan-gpu node cli/caravan.js run pipelines/demo.ts --device cuda --json | node -e 'let text = ""; process.stdin.on("data", (chunk) => (text += chunk)).on("end", () => { const run = JSON.parse(text); console.log(run.nodes.filter((node) => node.status === "hit").length, "hits of", run.nodes.length) })'
fi
if has interop; then
  echo "== to and from transformers"
  ids='[[1, 400, 500, 300, 260, 270, 333], [1, 290, 310], [1, 265, 271, 401, 402, 403, 404, 405, 406, 407, 300, 301, 302]]'
  echo "$ids" > /tmp/ids.json
  policy=$(node -p 'JSON.parse(require("fs").readFileSync(process.argv[1])).outputs.policy.path' "$out/demo.json")
  reward=$(node -p 'JSON.parse(require("fs").readFileSync(process.argv[1])).outputs.helpfulness.path' "$out/demo.json")
  node cli/caravan.js logprobs "$policy" --ids /tmp/ids.json --json > /tmp/ours.json && python3 tests/peers/transformers_interop.py check "$policy" /tmp/ids.json /tmp/ours.json
  python3 tests/peers/transformers_interop.py reward "$reward"
  rm -rf /tmp/theirs && mkdir /tmp/theirs && python3 tests/peers/transformers_interop.py save /tmp/theirs /tmp/ids.json /tmp/expected.json && ls /tmp/theirs
  node cli/caravan.js logprobs /tmp/theirs --ids /tmp/ids.json --json > /tmp/ours2.json
  node cli/caravan.js logprobs /tmp/theirs --ids /tmp/ids.json --device cuda --json > /tmp/ours3.json
  node -e 'const fs = require("fs"); const read = (path) => JSON.parse(fs.readFileSync(path)).flat(); const expected = read("/tmp/expected.json"); for (const path of ["/tmp/ours2.json", "/tmp/ours3.json"]) { const worst = Math.max(...read(path).map((x, i) => Math.abs(x - expected[i]))); console.log(path, "largest difference", worst.toExponential(2)); if (!(worst < 1e-4)) process.exitCode = 1 }'
  lines='["Hello world", "  two  spaces 123", "tabs\\tand emoji 🦙", "[INST] x [/INST] 2023", ""]'
  node -e 'process.stdout.write(JSON.parse(process.argv[1]).join("\n") + "\n")' "$lines" | node cli/caravan.js tokenize "$policy" --json > /tmp/tok.json
  echo "$lines" > /tmp/lines.json; python3 tests/peers/transformers_interop.py tokenizer "$policy" /tmp/lines.json /tmp/tok.json
fi
if has train; then
  echo "== training, alternating with PyTorch"
  for mode in "dtype=float32" "dtype=float32 tf32=on" "dtype=bfloat16"; do
    for pair in $(seq "${PAIRS:-5}"); do
      if (( pair % 2 )); then node bench/train-gpu.ts $mode; python3 bench/peers/torch_train_gpu.py $mode; else python3 bench/peers/torch_train_gpu.py $mode; node bench/train-gpu.ts $mode; fi
    done
  done 2>&1 | tee "$out/train.jsonl"
fi

#!/usr/bin/env bash
# Everything that needs two GPUs of one machine: the tests over NCCL, then speed and losses beside FSDP2, in the same run.
# Usage: bench/two-gpus.sh [steps...]   (build tests train sample losses; all unless named)
# Needs torch with CUDA (and transformers, for the peer) in the Python that is found first; TOKENIZER names a Llama 2 tokenizer.model for sample and losses. About half an hour on two H200s.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-.caravan/two-gpus}; mkdir -p "$out"
steps=${*:-build tests train sample losses}
work=${WORK:-/tmp/caravan-two-gpus}; mkdir -p "$work"
has() { [[ " $steps " == *" $1 "* ]]; }
# Multicast over NVLink is not available in every virtual machine.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} PATH=$PWD/node_modules/.bin:$PATH
model() { [ -f "$work/$1/model/model.safetensors" ] || node bench/fits/make.ts "$1" "${TOKENIZER:?names a tokenizer.model}" "$work/$1"; }

if has build; then
  echo "== build"; time node -e 'import("./engine/ranks/build.mjs").then((build) => console.log(build.backendOf(), build.ranksMissing() ?? "", build.buildRanks()))' 2>&1 | tee "$out/build.log"
fi
if has tests; then
  echo "== tests"; FAULTS=all vitest run tests/engine/ranks.test.ts tests/stages/ranks.test.ts --reporter=verbose 2>&1 | tee "$out/tests.log" | tail -60
  # What a rank says that finds no way to the others.
  NCCL_SOCKET_IFNAME==nosuch0 node bench/on-ranks.ts 2 bench/train-gpu.ts size=134m steps=1 2>&1 | tee "$out/no-way.log" | tail -5
fi
if has train; then
  echo "== training beside FSDP2"
  {
    node bench/train-gpu.ts size=1.1b batch=4 length=4096 steps=10
    for sharding in weights optimizer none; do node bench/on-ranks.ts 2 bench/train-gpu.ts size=1.1b batch=4 length=4096 steps=10 sharding=$sharding; done
    torchrun --nproc-per-node 1 bench/peers/fsdp2.py 1.1b 4 4096
    for compiled in "" compile; do torchrun --nproc-per-node 2 bench/peers/fsdp2.py 1.1b 4 4096 $compiled; done
    for recompute in 32 0; do node bench/on-ranks.ts 2 bench/train-gpu.ts size=7b batch=2 length=4096 steps=5 recompute=$recompute; done
    for compiled in "" compile; do torchrun --nproc-per-node 2 bench/peers/fsdp2.py 7b 2 4096 checkpointing $compiled; done
  } 2>&1 | tee "$out/train.log"
fi
if has sample; then
  echo "== sampling and PPO on one and two GPUs"; model 1.1b
  for ranks in 1 2; do
    CARAVAN_HOME=$work/home-$ranks node cli/caravan.js run bench/fits/pipeline.ts --set folder="$work/1.1b" --device cuda --ranks $ranks --until ppo --json > "$out/ppo-$ranks.json"
    CARAVAN_HOME=$work/home-$ranks node cli/caravan.js show latest
  done 2>&1 | tee "$out/sample.log"
  # The same samples from the same checkpoint: equal digests.
  node -e 'const [one, two] = [1, 2].map((ranks) => JSON.parse(require("fs").readFileSync(`${process.argv[1]}/ppo-${ranks}.json`)).nodes); for (const { id, digest } of one) console.log(id, digest === two.find((node) => node.id === id).digest ? "same" : "other")' "$out"
fi
if has losses; then
  echo "== 7B, all weights, twenty steps: losses beside FSDP2's"; model 7b
  node bench/on-ranks.ts 2 bench/losses.ts "$work/7b/model" steps=20 batch=2 length=4096 recompute=32 2>&1 | tee "$out/losses.txt"
  torchrun --nproc-per-node 2 bench/peers/fsdp2_losses.py "$work/7b/model" steps=20 batch=2 length=4096 2>&1 | tee "$out/losses-fsdp2.txt"
  paste "$out/losses.txt" "$out/losses-fsdp2.txt"
fi

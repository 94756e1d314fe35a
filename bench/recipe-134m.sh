#!/usr/bin/env bash
# The part of docs/how-to/public-1b.md that needs no network: pipelines/rlhf.ts on a random Llama of 134M parameters, with all weights and with adapters.
#
#     bench/recipe-134m.sh <tokenizer.model of 32,000 pieces> <pairs> <folder> [cuda|cpu]
#
# Creates <folder>: model/ (0.3 GB) and a store (about 8 GB). On the CPU it uses the smallest possible sizes.
set -euo pipefail
[ $# -ge 3 ] || { sed -n 2,6p "$0"; exit 2; }
tokenizer=$1 pairs=$2 folder=$3 device=${4:-cuda}
cd "$(dirname "$0")/.."
node=node_modules/.bin/node
[ -e "$folder/model/config.json" ] || $node bench/fits/make.ts 134m "$tokenizer" "$folder" "$device"
if [ "$device" = cuda ]; then
  sizes=(precision=bfloat16 batchSize=64 rewardBatch=64 promptCount=400 k=8 maxNewTokens=128 tuneSteps=20 ppoIterations=10 ppoBatch=128 evaluationPrompts=100 inferenceBatch=256)
else
  sizes=(sequenceLength=256 batchSize=2 sftEpochs=0.05 rewardBatch=2 rewardEpochs=0.05 promptCount=10 k=2 maxNewTokens=8 tuneSteps=1 ppoIterations=1 ppoBatch=4 evaluationPrompts=2 inferenceBatch=4)
fi
args=()
for size in "${sizes[@]}"; do args+=(--set "$size"); done
export CARAVAN_HOME="$folder/store"
for rank in 0 16; do
  echo "loraRank=$rank"
  time $node cli/caravan.js run pipelines/rlhf.ts --device "$device" --max-skipped 1 --set "model=$folder/model" --set "preferences=$pairs" --set "loraRank=$rank" \
    "${args[@]}"
done

#!/usr/bin/env bash
# Runs a pipeline with several seeds at the same time, on one GPU: a small model leaves most of a GPU idle.
#
#     bench/seeds.sh [--workers n] <folder> "<seeds>" <pipeline> [flags of caravan run]
#     bench/seeds.sh .caravan/study "0 1 2" pipelines/study.ts --device cuda
#     bench/seeds.sh .caravan/a "0 1 2 3 4" pipelines/studies/policy-optimisation.ts --device cuda --set judgingSeed=10{seed}
#
# {seed} in a flag stands for the seed. Writes <folder>/<seed>.json (the document of --json), <seed>.log, and a line per finished seed to <folder>/done. Start it again after an interruption: the runs resume.
# --workers n: n processes per seed, which share its nodes through the store: a process waits for a node that another one is computing, and takes the next. <seed>-worker2.json and so on are theirs.
# Where NVIDIA's MPS is installed, it runs during this command: otherwise the processes take turns on the GPU.
set -uo pipefail
workers=1
[ "${1-}" != --workers ] || { workers=${2-}; shift $(($# > 1 ? 2 : 1)); }
[[ $# -ge 3 && $workers =~ ^[1-9][0-9]?$ ]] || { sed -n 2,10p "$0" | sed 's/^# \{0,1\}//'; exit 2; }
mkdir -p "$1" && folder=$(cd "$1" && pwd) || exit 1
seeds=$2; shift 2
cd "$(dirname "$0")/.."
export PATH=$PWD/node_modules/.bin:$PATH

mps=$(command -v nvidia-cuda-mps-control || ls /usr/local/nvidia/bin/nvidia-cuda-mps-control 2>/dev/null)
if [[ " $* " == *" cuda "* && -n "$mps" ]]; then
  export CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d) CUDA_MPS_LOG_DIRECTORY=$folder
  "$mps" -d && echo "MPS is running"
else mps=
fi
pids=()
stop() { for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null; done; wait; exit 130; }
trap stop INT TERM
trap '[ -z "$mps" ] || echo quit | timeout 20 "$mps"' EXIT

failed=0; : > "$folder/done"
# Runs one seed; the arguments are the seed, the name of its files, and the pipeline with its flags.
run() {
  local seed=$1 name=$2 started=$SECONDS pid code; shift 2
  node cli/caravan.js run "${@//\{seed\}/$seed}" --seed "$seed" --json > "$folder/$name.json" 2> "$folder/$name.log" & pid=$!
  trap "kill -INT $pid 2>/dev/null" INT
  wait $pid; code=$?
  [ $code -lt 128 ] || { wait $pid; code=$?; }
  echo "seed $name: exit code $code after $((SECONDS - started)) s" | tee -a "$folder/done"
  return $code
}
for seed in $seeds; do
  for ((worker = 1; worker <= workers; worker++)); do
    name=$seed; [ $worker = 1 ] || name=$seed-worker$worker
    ( run "$seed" "$name" "$@" ) & pids+=($!)
  done
done
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
sed -n 's/^seed \(.*\): exit code [1-9].*/\1/p' "$folder/done" | while read -r seed; do tail -n 3 "$folder/$seed.log"; done
exit $failed

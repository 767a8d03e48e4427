#!/usr/bin/env bash
# Builds, tests and measures on a GPU machine in 510 seconds: $1/gpu.json and $1/logs.tar.gz (default: gpu_session).
# What is worth most comes first, and a stage that hangs or breaks costs its own rows alone. The status is 0 only where
# the build and all tests passed. `python -m benchmarks.gpu.rows $1/gpu.json >> benchmarks/results/gpu.jsonl` keeps the
# rows, a line each. DEVICE=cpu BUILD=true: to see the script run, on what is installed.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu_session}" && cd "${1:-gpu_session}" && pwd)
result=$out/gpu.json total=${TOTAL_SECONDS:-510} device=${DEVICE:-cuda} red=""
rm -f "$result"
source benchmarks/stages.sh

measure() { # measure NAME SECONDS OPTION...: rows of benchmarks.gpu, added to $result as they come
  local name=$1 limit=$2
  shift 2
  if ((limit > total - SECONDS)); then limit=$((total - SECONDS)); fi
  # It begins and ends in the 10 seconds that its sections are not given.
  stage "$name" "$limit" python3 -m benchmarks.gpu --device "$device" --out "$result" --add --within $((limit - 10)) "$@"
}

# The ceilings need no kernels, so that they are there even where the build fails.
stage ceilings 60 python3 -m benchmarks.gpu --device "$device" --out "$result" --only &
prepare 150 || { red+=" build"; tail -n 20 "$work/build.log"; }
wait $!
stage info 30 python3 -m asose_fast.info

tests=()
for file in tests/ops/test_cuda.py tests/ops/test_triton_gpu.py tests/engine/step/test_steps_on_cuda.py; do
  if [ -f "$file" ]; then tests+=("$file"); fi
done
workers=()
if python3 -c "import xdist" 2>/dev/null; then workers=(-n 8); fi
stage tests 100 python3 -m pytest -vv -p no:cacheprovider "${workers[@]}" "${tests[@]}" || red+=" tests"
tail -n 15 "$work/tests.log"

measure steps 100 --compile --only steps
measure graphs 40 --compile --only graphs launches waits
measure operators 90 --compile --only mixing convolving sampling
measure kernels 60 --compile --only kernels memory
measure tf32 40 --compile --tf32 --only steps --variants ours eager
measure compiled 120 --compile default reduce-overhead --only steps --variants ours compile
measure sanitizer 60 --compile --only sanitizer
[ -z "$red" ] || echo "RED:$red. No figure counts."
[ -z "$red" ]

#!/usr/bin/env bash
# Builds, tests and measures on a GPU machine in 510 seconds: $1/gpu.json and $1/logs.tar.gz (default: gpu_session).
# What is worth most comes first, and a stage that hangs or breaks costs its own rows alone. The status is 0 only where
# the build and all tests passed. `python -m benchmarks.gpu.rows $1/gpu.json >> benchmarks/results/gpu.jsonl` keeps the
# rows, a line each. DEVICE=cpu BUILD=true: to see the script run, on what is installed.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu_session}" && cd "${1:-gpu_session}" && pwd)
result=$out/gpu.json total=${TOTAL_SECONDS:-510} device=${DEVICE:-cuda} red=""
rm -f "$result" "$result.now"
source benchmarks/stages.sh

measure() { # measure NAME SECONDS OPTION...: rows of benchmarks.gpu, added to $result as they come
  local name=$1 end=$((SECONDS + $2)) now=""
  shift 2
  if ((end > total)); then end=$total; fi
  # It begins and ends in the 10 seconds that its sections are not given. What breaks or hangs so that its process cannot
  # go on is named in $result.now: another process takes up the rest, for which it must have the time.
  until stage "$name" $((end - SECONDS)) python3 -m benchmarks.gpu --device "$device" --out "$result" --add \
    --stage "$name" --within $((end - SECONDS - 10)) "$@"; do
    # One that did not get so far as to take the name up leaves it as it was.
    if [ ! -s "$result.now" ] || [ "$(<"$result.now")" = "$now" ] || ((end - SECONDS < 25)); then break; fi
    now=$(<"$result.now")
  done
}

# Ceilings need no kernels, and Triton compiles while the others are built: both are there even where the build fails.
{
  measure ceilings 60 --only
  measure first 110 --only first
} &
beside=$!
prepare 150 || { red+=" build"; tail -n 20 "$work/build.log"; }
wait $beside
stage info 30 python3 -m asose_fast.info

tests=()
for file in tests/ops/test_cuda.py tests/ops/test_triton_gpu.py tests/engine/step/test_steps_on_cuda.py; do
  if [ -f "$file" ]; then tests+=("$file"); fi
done
options=(-vv -p no:cacheprovider)
if python3 -c "import xdist" 2>/dev/null; then options+=(-n 8); fi
# By a thread: a test that waits for the GPU hears no signal. Its process ends, and xdist begins another.
if python3 -c "import pytest_timeout" 2>/dev/null; then options+=(--timeout 40 --timeout-method thread); fi
stage tests 100 python3 -m pytest "${options[@]}" "${tests[@]}" || red+=" tests"
if [ "$device" = cuda ] && ! grep -q " passed" "$work/tests.log"; then red+=" no-test-passed"; fi
tail -n 15 "$work/tests.log"

measure steps 100 --compile --only steps
measure graphs 40 --compile --only graphs launches waits
measure operators 90 --compile --only mixing convolving sampling
measure kernels 60 --compile --only kernels memory
measure counters 60 --compile --only counters
measure compiled 120 --compile default reduce-overhead --only steps --variants ours compile
measure tf32 40 --compile --tf32 --only steps --variants ours eager
measure sanitizer 60 --compile --only sanitizer
[ -z "$red" ] || echo "RED:$red. No figure counts."
[ -z "$red" ]

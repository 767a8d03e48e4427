#!/usr/bin/env bash
# Builds, tests and measures on a GPU machine in under 10 minutes: $1/gpu.json and $1/table.txt (default: gpu_session).
# $1/gpu.jsonl has the same rows, a line each with GPU, versions and commit, to be kept by
# `cat $1/gpu.jsonl >> benchmarks/results/gpu.jsonl`.
# Each part has a time of its own, and none stops the others; the status is 0 only where the build and all tests passed.
# It installs nothing from a registry: torch, triton, pybind11, cmake and ninja must be there, and what else is missing
# of pure Python (pytest, hypothesis, rich, ...) is taken from the wheels in the folder ASOSE_WHEELS, where that is set.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu_session}" && cd "${1:-gpu_session}" && pwd)
device=${DEVICE:-cuda} # cpu: to see the script run
total=${TOTAL_SECONDS:-580}
SECONDS=0 red=""

part() { # part NAME SECONDS COMMAND...: within its time and what is left of the whole; says how it ended
  local name=$1 seconds=$2 status
  shift 2
  if ((seconds > total - SECONDS)); then seconds=$((total - SECONDS)); fi
  if ((seconds < 5)); then
    echo "== $name: left out, no time is left" | tee -a "$out/parts.txt"
    return 1
  fi
  timeout -k 5 "$seconds" "$@" >"$out/$name.log" 2>&1
  status=$?
  echo "== $name: status $status after $SECONDS s in all" | tee -a "$out/parts.txt"
  return $status
}

measure() { # measure NAME SECONDS SECTION...
  local name=$1 seconds=$2
  shift 2
  part "bench-$name" "$seconds" python3 -m benchmarks.gpu --device "$device" --out "$out/bench-$name.json" --only "$@"
  grep -v "^USDT" "$out/bench-$name.log"
}

rm -f "$out"/parts.txt "$out"/bench-*.json
if [ -n "${ASOSE_WHEELS:-}" ]; then
  part wheels 60 python3 -m pip install --no-index --no-deps "$ASOSE_WHEELS"/*.whl
fi
python3 - <<'PYTHON'
from importlib.util import find_spec

needed = "torch triton numpy sklearn rich yaml jinja2 jsonargparse safetensors PIL pybind11 cmake ninja pytest hypothesis"
missing = [name for name in needed.split() if find_spec(name) is None]
print("missing Python modules:", ", ".join(missing) or "none")
PYTHON

# For the GPU that is here alone, and required, not "where it can".
if [ "$device" = cuda ]; then
  architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  export ASOSE_CUDA=1 ASOSE_CUDA_ARCHS="${ASOSE_CUDA_ARCHS:-$architecture}"
fi
part build 150 python3 -m pip install --no-build-isolation --no-deps . || { red+=" build"; tail -n 20 "$out/build.log"; }
part info 30 python3 -m asose_fast.info
cat "$out/info.log"

tests=()
for file in tests/ops/test_cuda.py tests/ops/test_triton_gpu.py tests/engine/step/test_steps_on_cuda.py; do
  if [ -f "$file" ]; then tests+=("$file"); fi
done
part tests 110 python3 -m pytest -p no:cacheprovider "${tests[@]}" || red+=" tests"
part tests-of-data 40 python3 -m pytest -p no:cacheprovider tests/data/test_split.py -k cuda || [ $? = 5 ] || red+=" tests-of-data"
tail -n 15 "$out/tests.log"

measure operators 115 mixing sampling convolving | tee "$out/table.txt"
measure steps 110 steps | tee -a "$out/table.txt"
measure counts 80 launches waits memory graphs kernels | tee -a "$out/table.txt"
measure sanitizer 60 sanitizer | tee -a "$out/table.txt"
if [ -n "$red" ]; then echo "RED:$red. No figure above counts." | tee -a "$out/table.txt"; fi

python3 - "$out" "$red" <<'PYTHON'
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
figures = {"red": sys.argv[2].split(), "parts": (out / "parts.txt").read_text().splitlines(), "hardware": None, "rows": []}
for file in sorted(out.glob("bench-*.json")):
    found = json.loads(file.read_text())
    figures["hardware"] = figures["hardware"] or found["hardware"]
    figures["rows"] += found["rows"]
(out / "gpu.json").write_text(json.dumps(figures, indent=2))
hardware = figures["hardware"] or {}
here = {name: hardware.get(name) for name in ("gpu", "driver", "cuda", "cudnn", "commit", "changes")}
here |= {"versions": hardware.get("info", {}).get("versions"), "red": figures["red"]}
(out / "gpu.jsonl").write_text("".join(f"{json.dumps(here | row)}\n" for row in figures["rows"]))
print(f"{len(figures['rows'])} rows in {out / 'gpu.json'}")
PYTHON
echo "done after $SECONDS s"
[ -z "$red" ]

#!/usr/bin/env bash
# Builds, tests and measures on a GPU machine in under 10 minutes: one JSON and one table in $1 (default: gpu_session).
# It installs nothing from a registry: torch, triton, pybind11, cmake, ninja and the test dependencies must be there.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu_session}" && cd "${1:-gpu_session}" && pwd)

ASOSE_CUDA=1 python3 -m pip install --no-build-isolation --no-deps . >"$out/build.log" 2>&1 || { tail -n 40 "$out/build.log"; exit 1; }
python3 -m asose_fast.info | tee "$out/info.txt"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/gpu.txt"

# No speed is reported on red.
python3 -m pytest tests/ops/test_cuda.py tests/data/test_split.py -k "cuda or Cuda" 2>&1 | tee "$out/tests.log"
if command -v compute-sanitizer >/dev/null; then
  compute-sanitizer --tool memcheck --error-exitcode 9 python3 -m pytest -x tests/ops/test_cuda.py -k "Cuda and not elements" 2>&1 |
    tail -n 5 | tee "$out/memcheck.log"
fi

python3 -m benchmarks.gpu --out "$out/gpu.json" | tee "$out/table.txt"

#!/usr/bin/env bash
# The tests of the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, once for each instruction set that
# runs here. Needs g++.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/sanitized_kernels.sh

# Left out: what does not run these kernels, what runs the same tests in processes, and what compiles with torch.
# Only Python's output is captured, because a report that is captured with the process's is lost when that aborts.
for_each_isa python -m pytest -x --capture=sys tests/ops \
  --ignore tests/ops/test_cuda.py --ignore tests/ops/test_cuda_emulation.py --ignore tests/ops/test_triton.py \
  -k "not (every_instruction_set or compiles or [reference or -reference)"

#!/usr/bin/env bash
# The tests of the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, once for each instruction set that
# runs here. Needs g++.
set -euo pipefail
cd "$(dirname "$0")/.."
export CXX=${CXX:-g++}

# In a folder of their own: the installed kernels stay as they are.
kernels=$PWD/build/sanitize
ASOSE_SANITIZE=address,undefined ASOSE_CUDA=0 \
  python -m pip install --quiet -c constraints.txt --no-deps --upgrade --target "$kernels" .
export PYTHONPATH=$kernels${PYTHONPATH:+:$PYTHONPATH}

# Python is not sanitized, so ASan's runtime must be loaded before all else, and C++'s with it: ASan looks there, at
# once, for what throws exceptions.
libraries=$("$CXX" -print-file-name=libasan.so):$("$CXX" -print-file-name=libstdc++.so)
sanitized() {
  # CPython leaks. Aborting, rather than exiting, lets pytest name the test. Threads that wait sleep, because tests that
  # spin take five times as long where cores are shared.
  LD_PRELOAD=$libraries OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
    UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1 "$@"
}

for isa in generic avx2 avx512; do
  export ASOSE_ISA=$isa
  missing=$(sanitized python -c "from asose_fast import _native; print(_native.kernels_missing('cpu') or '')")
  if [[ $missing == *"not one of the instruction sets that run here"* ]]; then
    echo "$missing"
    continue
  fi
  echo "ASOSE_ISA=$isa"
  # Left out: what does not run these kernels, what runs the same tests in processes, and what compiles with torch.
  # Only Python's output is captured, because a report that is captured with the process's is lost when that aborts.
  sanitized python -m pytest -x --capture=sys tests/sanitizers.py tests/ops \
    --ignore tests/ops/test_cuda.py --ignore tests/ops/test_cuda_emulation.py --ignore tests/ops/test_triton.py \
    -k "not (every_instruction_set or compiles or [reference or -reference)"
done

# Sourced in the repository's root: the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer. Needs g++.
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

# Runs a command once for each instruction set that runs here, after a test that the sanitizers watch its kernels.
for_each_isa() {
  local isa missing
  for isa in generic avx2 avx512; do
    export ASOSE_ISA=$isa
    missing=$(sanitized python -c "from asose_fast import _native; print(_native.kernels_missing('cpu') or '')")
    if [[ $missing == *"not one of the instruction sets that run here"* ]]; then
      echo "$missing"
      continue
    fi
    echo "ASOSE_ISA=$isa"
    sanitized python -m pytest -q tests/sanitizers.py
    sanitized "$@"
  done
}

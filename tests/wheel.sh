#!/usr/bin/env bash
# The source distribution and the wheel: what they hold, that the one builds from itself (`python -m build` makes the
# wheel from it), and that the other installs and runs where there is neither a compiler nor a source tree.
# TORCH=2.14.1 tests beside that version instead of the pinned one; DIST=FOLDER takes what was built there before, of
# several wheels that of this Python.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

work=$(mktemp -d)
trap '/bin/rm -rf "$work"' EXIT
dist=${DIST:-$work/dist}

if [ ! -d "$dist" ]; then
  python3 -m venv "$work/build"
  "$work/build/bin/pip" install --quiet -c constraints.txt build
  "$work/build/bin/python" -m build --outdir "$dist" .
fi
sdist=$(ls "$dist"/asose_fast-*.tar.gz)
wheel=$(ls "$dist"/asose_fast-*-"$(python3 -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"-*.whl)
ls -l "$sdist" "$wheel"

tar -tzf "$sdist" >"$work/sources"
for file in CMakeLists.txt setup.py pyproject.toml csrc/bindings/module.cpp csrc/cpu/mixed_sum.cpp csrc/cuda/mixed_sum.cu \
  asose_fast/report/templates; do
  grep -q "^[^/]*/$file" "$work/sources" || { echo "the source distribution lacks $file"; exit 1; }
done
python3 -m zipfile -l "$wheel" >"$work/files"
for file in 'asose_fast_kernels/cpu\.' 'asose_fast/report/templates/'; do
  grep -q "^$file" "$work/files" || { echo "the wheel lacks $file"; exit 1; }
done
if grep -E '^(tests|benchmarks|csrc)/' "$work/files"; then echo "the wheel holds more than the package"; exit 1; fi
grep '^asose_fast_kernels/' "$work/files"

python3 -m venv "$work/run"
if [ -n "${TORCH:-}" ]; then
  "$work/run/bin/pip" install --quiet "torch==$TORCH" "$wheel" pytest hypothesis
else
  "$work/run/bin/pip" install --quiet -c constraints.txt "$wheel" pytest hypothesis
fi

# The tests without the sources beside them, and no program but those of the environment on PATH.
mkdir "$work/elsewhere"
cp -r "$root/tests" "$root/benchmarks" "$root/pyproject.toml" "$work/elsewhere/"
cd "$work/elsewhere"
export PATH=$work/run/bin
for compiler in cc c++ gcc g++ clang nvcc cmake; do
  if command -v "$compiler"; then echo "there is a compiler"; exit 1; fi
done
asose-fast info
for isa in generic avx2 avx512; do
  said=$(ASOSE_ISA=$isa python -c 'from asose_fast import _native; print(_native.kernels("cpu").isa(), "runs")' 2>&1) ||
    [[ $said == *KernelsMissing* ]] || { echo "$said"; exit 1; }
  echo "${said##*$'\n'}"
done
# torch.compile needs a compiler.
python -m pytest -q -p no:cacheprovider tests/ops tests/test_install.py \
  -k "not (compiles_without_a_graph_break or stale_kernels_are_noticed)"

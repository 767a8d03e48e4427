# Sourced by the sessions on a GPU machine, with $out (a folder), $result (a JSON file in it) and $total (seconds) set.
# What is measured in a session is kept whatever becomes of it: each stage is a process with a time limit of its own,
# and none stops the others. In the end, and when the session itself is ended, `pack` leaves two files: $result with the
# stages in it, and $out/logs.tar.gz.
SECONDS=0
work=$out/logs
mkdir -p "$work"
: >"$work/stages.txt"

stage() { # stage NAME SECONDS COMMAND...: within its time and what is left of the whole; says how it ended
  local name=$1 limit=$2 began=$SECONDS status=0
  shift 2
  if ((limit > total - SECONDS)); then limit=$((total - SECONDS)); fi
  if ((limit < 2)); then
    echo "$name: left out, no time is left" | tee -a "$work/stages.txt"
    return 1
  fi
  # TERM first: a search keeps a checkpoint then.
  timeout -k "${PATIENCE:-10}" "$limit" "$@" >"$work/$name.log" 2>&1 || status=$?
  case $status in
    0) echo "$name: done in $((SECONDS - began)) s" ;;
    124 | 137) echo "$name: ended after $limit s" ;;
    *) echo "$name: failed with status $status after $((SECONDS - began)) s" ;;
  esac | tee -a "$work/stages.txt"
  return $status
}

prepare() { # prepare SECONDS: what the machine lacks, and the package with kernels for its GPU alone
  # Nothing comes from a registry: torch, triton, pybind11, cmake and ninja must be there, and what else is missing of
  # pure Python is taken from the wheels in the folder ASOSE_WHEELS.
  if [ -n "${ASOSE_WHEELS:-}" ]; then
    stage wheels 60 python3 -m pip install --no-index --no-deps "$ASOSE_WHEELS"/*.whl
  fi
  if [ "${DEVICE:-cuda}" = cuda ]; then
    local found
    found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    export ASOSE_CUDA=1 ASOSE_CUDA_ARCHS="${ASOSE_CUDA_ARCHS:-$found}" # required, not "where it can"
  fi
  stage build "$1" ${BUILD:-python3 -m pip install --no-build-isolation --no-deps .}
}

pack() { # writes the stages into $result and packs the logs
  trap - EXIT
  python3 - "$result" "$work/stages.txt" <<'PYTHON'
import json, pathlib, sys

result, stages = map(pathlib.Path, sys.argv[1:])
figures = json.loads(result.read_text()) if result.exists() else {}
figures["stages"] = stages.read_text().splitlines()
new = result.with_suffix(".new")
new.write_text(json.dumps(figures, indent=2) + "\n")
new.replace(result)
PYTHON
  tar -czf "$out/logs.tar.gz" -C "$out" logs
  echo "$result and $out/logs.tar.gz after $SECONDS s"
}
trap pack EXIT
trap 'exit 143' TERM INT

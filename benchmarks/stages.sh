# Sourced by the sessions on a GPU machine, with $out (a folder), $result (a JSON file in it) and $total (seconds) set.
# What is measured in a session is kept whatever becomes of it: each stage is a process with a time limit of its own,
# and none stops the others. In the end, and when the session itself is ended, `pack` leaves two files and no more, as
# few may come back from the machine: $result with the stages in it, and $out/logs.tar.gz.
SECONDS=0
elsewhere=$(mktemp -d)
work=$elsewhere/logs
mkdir "$work"
: >"$work/stages.txt"

stage() { # stage NAME SECONDS COMMAND...: within its time and what is left of the whole; says how it ended
  local name=$1 limit=$2 began=$SECONDS status=0 took
  shift 2
  if ((limit > total - SECONDS)); then limit=$((total - SECONDS)); fi
  if ((limit < 2)); then
    say "$name: left out, no time is left"
    return 1
  fi
  # TERM first: a search keeps a checkpoint then. In the background, as bash heeds no signal while a command runs.
  timeout -k "${PATIENCE:-10}" "$limit" "$@" >>"$work/$name.log" 2>&1 &
  trap stop TERM INT # in a stage of the background too
  wait $! || status=$?
  took=$((SECONDS - began))
  case $status in
    0) say "$name: done in $took s" ;;
    124 | 137) if ((took < limit)); then say "$name: killed after $took s"; else say "$name: ended after $took s"; fi ;;
    *) say "$name: failed with status $status after $took s" ;;
  esac
  return $status
}

say() { # how a stage ended; the logs are packed at once, in case that nothing follows
  echo "$1" | tee -a "$work/stages.txt"
  tar -czf "$elsewhere/$BASHPID.tar.gz" -C "$elsewhere" logs
  (($? < 2)) && mv "$elsewhere/$BASHPID.tar.gz" "$out/logs.tar.gz" # 1: a log has grown meanwhile
}

stop() { # ends the session: first its stages, which may keep what they have
  trap '' TERM INT
  kill $(jobs -p) 2>/dev/null
  wait
  exit 143
}

prepare() { # prepare SECONDS: what the machine lacks, and the package with kernels for its GPU alone
  # Nothing comes from a registry: torch, triton, pybind11, cmake and ninja must be there, and what else is missing of
  # pure Python is taken from the wheels in the folder ASOSE_WHEELS, each by itself: one may be of no use here.
  if [ -n "${ASOSE_WHEELS:-}" ]; then
    stage wheels 60 bash -c 'for wheel; do python3 -m pip install --no-index --no-deps "$wheel" || bad=1; done; exit ${bad:-0}' \
      wheels "$ASOSE_WHEELS"/*.whl
  fi
  if [ "${DEVICE:-cuda}" = cuda ]; then
    local found
    found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    export ASOSE_CUDA=1 ASOSE_CUDA_ARCHS="${ASOSE_CUDA_ARCHS:-$found}" # required, not "where it can"
  fi
  if [ -z "${BUILD:-}" ] && timeout 60 python3 -c "
import sys
from asose_fast._native import kernels_missing
sys.exit(any(kernels_missing(device) for device in {'cpu', '${DEVICE:-cuda}'}))" >"$work/build.log" 2>&1; then
    say "build: left out, the kernels of these sources are there"
    return
  fi
  stage build "$1" ${BUILD:-python3 -m pip install --no-build-isolation --no-deps .}
}

collect() { :; } # what a session still has to put into $result, replaced by it

pack() { # writes the stages into $result and packs the logs
  trap - EXIT
  collect
  if [ -s "$result.now" ]; then # what was being measured when the last process was ended
    say "ended in $(cat "$result.now")"
    rm "$result.now"
  fi
  python3 - "$result" "$work/stages.txt" <<'PYTHON'
import json, pathlib, sys

result, stages = map(pathlib.Path, sys.argv[1:])
figures = json.loads(result.read_text()) if result.exists() else {}
figures["stages"] = stages.read_text().splitlines()
new = result.with_suffix(".new")
new.write_text(json.dumps(figures, indent=2) + "\n")
new.replace(result)
PYTHON
  say "$result and $out/logs.tar.gz after $SECONDS s"
  rm -rf "$elsewhere"
}
trap pack EXIT
trap stop TERM INT

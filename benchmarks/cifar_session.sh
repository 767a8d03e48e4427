#!/usr/bin/env bash
# CIFAR-10 from the first batch to a test accuracy on one GPU, for one call of ten minutes a seed:
#   bash benchmarks/cifar_session.sh cifar10|imagefolder:PATH [OUT] [SEED]
# PATH may also be an archive of that folder, as tar reads it. Builds, searches with configs/cifar10.yaml, trains the
# network found from scratch: OUT/cifar.json and OUT/logs.tar.gz. Whole runs are left in RUNS (default: a temporary folder).
# Everything ends in TOTAL_SECONDS. The search plans its epochs for SEARCH_SECONDS, and the training for what is left. A
# search that has not ended after a quarter more is stopped, and the network taken from its last checkpoint. OPTIONS adds
# options to both commands (--precision bf16, say), SEARCH_OPTIONS to the search alone (--graphs auto). DEVICE=cpu
# BUILD=true: to see the script run.
set -uo pipefail
cd "$(dirname "$0")/.."
data=$1 seed=${3:-0}
out=$(mkdir -p "${2:-cifar_session}" && cd "${2:-cifar_session}" && pwd)
result=$out/cifar.json total=${TOTAL_SECONDS:-570}
runs=${RUNS:-$(mktemp -d)}
search=$runs/search-$seed derived=$runs/derived-$seed final=$runs/final-$seed
rm -f "$result"
source benchmarks/stages.sh

collect() { # puts what the runs have come to into $result and the logs
  python3 - "$result" "$search" "$final" "$work" <<'PYTHON'
import json, pathlib, shutil, sys

result, *folders, logs = map(pathlib.Path, sys.argv[1:])
figures = {}
for name, folder in zip(("search", "final"), folders):
    for file in ("summary.json", "metrics.jsonl", "genotype.json", "config.yaml"):
        if (folder / file).exists():
            shutil.copy(folder / file, logs / f"{name}-{file}")
    epochs = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else None
    figures[name] = {"summary": summary, "last epoch": json.loads(epochs[-1]) if epochs else None}
result.write_text(json.dumps(figures, indent=2) + "\n")
search, final = (figures[name]["summary"] or {} for name in ("search", "final"))
for item in search.get("health", []):
    print(f"{item['name']}: {item['value']:.4g} ({item['bound']}, {'ok' if item['ok'] else 'BREACHED'})")
if final:
    print(f"operations: {', '.join(final['operations'])}")
    print(f"test accuracy {final['test_accuracy']:.2%} with {final['parameters']:,} parameters")
else:
    print("no test accuracy: the training has not ended")
PYTHON
}

archive=${data#imagefolder:}
if [ -f "$archive" ]; then
  data=imagefolder:$runs/images
  mkdir -p "$runs/images"
  stage images 60 tar -xf "$archive" -C "$runs/images"
fi
prepare 150

options=(--dataset "$data" --seed "$seed" ${OPTIONS:-})
network=$search planned=${SEARCH_SECONDS:-$((total * 35 / 100))}
stage search $((planned + planned / 4)) python3 -m asose_fast.train --config "${CONFIG:-configs/cifar10.yaml}" \
  "${options[@]}" ${SEARCH_OPTIONS:-} --seconds "$planned" --out "$search"
collect # a session that is killed has this at least
if [ ! -f "$search/genotype.json" ]; then
  stage derive 60 python3 -m asose_fast.derive "$search" --out "$derived" && network=$derived
fi
left=$((total - SECONDS - 30)) # its start, and what it is late by
stage final "$total" python3 -m asose_fast.retrain "$network" "${options[@]}" --seconds $((left > 1 ? left : 1)) \
  --batch_size 128 --learning_rate 0.1 --cutout 16 --label_smoothing 0.1 --out "$final"

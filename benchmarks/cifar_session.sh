#!/usr/bin/env bash
# CIFAR-10 from the first batch to a test accuracy on one GPU, for one call of ten minutes a seed:
#   bash benchmarks/cifar_session.sh cifar10|imagefolder:PATH [OUT] [SEED]
# Searches with configs/cifar10.yaml, derives, trains the architecture from scratch, reports. SEARCH_EPOCHS and EPOCHS are
# to be set so that the time is used up; OPTIONS adds options to both commands (--precision bf16, say), SEARCH_OPTIONS to
# the search alone (--graphs auto).
set -euo pipefail
cd "$(dirname "$0")/.."
data=$1 out=${2:-cifar_session} seed=${3:-0}
options=(--dataset "$data" --seed "$seed" ${OPTIONS:-})

SECONDS=0
python3 -m asose_fast.train --config configs/cifar10.yaml "${options[@]}" ${SEARCH_OPTIONS:-} \
  --epochs "${SEARCH_EPOCHS:-40}" --out "$out/search-$seed"
echo "searched after $SECONDS s"
python3 -m asose_fast.retrain "$out/search-$seed" "${options[@]}" --epochs "${EPOCHS:-40}" --batch_size 128 \
  --learning_rate 0.1 --cutout 16 --label_smoothing 0.1 --out "$out/final-$seed"
echo "trained after $SECONDS s"
python3 - "$out/search-$seed/summary.json" "$out/final-$seed/summary.json" <<'PYTHON'
import json, sys

search, final = (json.load(open(path)) for path in sys.argv[1:])
for item in search["health"]:
    print(f"{item['name']}: {item['value']:.4g} ({item['bound']}, {'ok' if item['ok'] else 'BREACHED'})")
print(f"operations: {', '.join(final['operations'])}")
print(f"test accuracy {final['test_accuracy']:.2%} with {final['parameters']:,} parameters")
PYTHON

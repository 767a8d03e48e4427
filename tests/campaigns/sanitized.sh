#!/usr/bin/env bash
# `tests/campaigns/sanitized.sh [EXAMPLES] [SEED]`: the public and the registered operators with random and hostile
# arguments under AddressSanitizer and UndefinedBehaviorSanitizer, once for each instruction set that runs here. So many
# inputs for each operator; the 450 of the default are 31,050 in all where there are three sets. Needs g++.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/sanitized_kernels.sh
for_each_isa python -m tests.campaigns.fuzz --only ops. --seconds 0 --examples "${1:-450}" --seed "${2:-0}"

#!/usr/bin/env bash
# Seeds of the simulated cluster (docs/guides/simulation.md): SEEDS, FROM, SEED and TRACE say which, and how much is told.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo test --locked --quiet -p postern-chaos --test sim every_law_holds_for_every_seed -- --nocapture

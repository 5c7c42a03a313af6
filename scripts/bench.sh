#!/usr/bin/env bash
# Load through Postern beside direct and pgbouncer, in one run on one machine; writes docs/benchmarks.md.
# ROUNDS (3) and SECONDS_EACH (5) set how long; SMOKE=1 only proves that it runs, and writes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${SMOKE:-}" ]; then
    cargo build --locked -p postern -p postern-benches
    export ROUNDS=1 SECONDS_EACH=1 OUTPUT=/dev/stdout
    binary=debug
else
    cargo build --locked --release -p postern
    cargo build --locked -p postern-benches
    binary=release
fi
target=${CARGO_TARGET_DIR:-target}
POSTERN_BIN="$PWD/$target/$binary/postern"
case $target in /*) POSTERN_BIN="$target/$binary/postern" ;; esac
export POSTERN_BIN
"$target/debug/load"
if [ -z "${SMOKE:-}" ] && [ -z "${LOAD_ONLY:-}" ]; then
    cargo bench --locked -p postern-benches --bench micro -- --quiet | tee "$target/criterion.txt"
    "$target/debug/load" --append-micro "$target/criterion.txt"
fi

#!/usr/bin/env bash
# Every test. With cargo-nextest when it is installed (each test a process of its own), else with cargo's own runner.
set -euo pipefail
cd "$(dirname "$0")/.."

# The whole-system tests run the binary, as a user does.
cargo build --locked -p postern
if command -v cargo-nextest >/dev/null 2>&1; then
    exec cargo nextest run --locked --workspace "$@"
fi
echo "test: cargo-nextest is not installed; using cargo test (the same tests, somewhat slower)"
exec cargo test --locked --workspace --lib --bins --tests "$@" -- --test-threads=2

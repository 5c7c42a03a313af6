#!/usr/bin/env bash
# Every test. With cargo-nextest when it is installed (each test a process of its own), else with cargo's own runner.
set -euo pipefail
cd "$(dirname "$0")/.."

# The whole-system tests run the binary, as a user does, and the next release's beside it.
cargo build --locked -p postern --bins --examples
if command -v cargo-nextest >/dev/null 2>&1; then
    cargo nextest run --locked --workspace "$@"
    # The simulation has to find bugs that are built in for it. A run of its own: the feature must not get into the binary above.
    exec cargo nextest run --locked -p postern-chaos --features planted-bugs --test sim planted
fi
echo "test: cargo-nextest is not installed; using cargo test (the same tests, somewhat slower)"
cargo test --locked --workspace --lib --bins --tests "$@" -- --test-threads=2
exec cargo test --locked -p postern-chaos --features planted-bugs --test sim planted

#!/usr/bin/env bash
# Fuzz targets by coverage (chaos/src/fuzz), each for so many seconds: FUZZ_SECONDS and FUZZ_TARGET say how long and which; all of them without.
# libFuzzer comes with its crate; the instrumentation is LLVM's own, so that a stable compiler does. What is found lies in fuzz/artifacts:
# mend it, and move the file to fuzz/regressions/<target>/, where `make test` replays it.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${FUZZ_SECONDS:-60}"
targets="${FUZZ_TARGET:-entries restore messages files policy tunnel tokens bearers answers saml}"
host="$(rustc -vV | sed -n 's/^host: //p')"
built="${CARGO_TARGET_DIR:-fuzz/target}"

mkdir -p fuzz/corpus fuzz/artifacts
POSTERN_FUZZ_SEEDS="$PWD/fuzz/corpus" cargo test --locked --quiet -p postern-chaos --test fuzz write_seeds -- --ignored

# A target, also where it is the host's: what is built for the build itself is not instrumented.
CARGO_TARGET_DIR="$built" RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --locked --quiet --manifest-path fuzz/Cargo.toml --target "$host"

for target in $targets; do
    echo "fuzz: $target, $seconds s"
    mkdir -p "fuzz/artifacts/$target"
    POSTERN_FUZZ_TARGET="$target" "$built/$host/debug/postern-fuzz" "fuzz/corpus/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -max_len=16384 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1
done

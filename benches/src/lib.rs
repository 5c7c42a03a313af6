//! Benches alone: `benches/micro.rs` by criterion, and the whole-system load in `src/bin/load`, which `make bench` runs.

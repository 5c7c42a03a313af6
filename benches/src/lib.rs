//! Criterion benches of the hot path and the whole-system load beside its peers.

//! The replicated state machine: commands, state, effects, snapshots. Pure and deterministic.

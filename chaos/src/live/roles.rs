//! The three roles as three processes.

/// A control plane, a gateway and an agent, each a process of its own.
#[derive(Debug)]
pub struct ThreeProcesses;

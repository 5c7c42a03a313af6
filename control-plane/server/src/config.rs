//! What an operator says about a control-plane node.

use std::net::SocketAddr;
use std::path::PathBuf;

use postern_core::Name;
use serde::Deserialize;

/// Configuration of a control-plane node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Where log, recordings and keys lie.
    pub data_dir: PathBuf,
    /// Where the gRPC API listens.
    pub listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` listen; nowhere when it is not given.
    #[serde(default)]
    pub ops_listen: Option<SocketAddr>,
    /// The node's name, in its certificate.
    #[serde(default)]
    pub node_name: Option<Name>,
    /// DNS names and addresses, beside the node's own, that clients reach it by.
    #[serde(default)]
    pub alt_names: Vec<String>,
    /// Members of any of these may do everything.
    #[serde(default)]
    pub admin_groups: Vec<String>,
    /// Members of any of these may read everything.
    #[serde(default)]
    pub auditor_groups: Vec<String>,
    /// The key-encryption key, 64 hexadecimal digits; `kek` in the data directory when it is not given.
    #[serde(default)]
    pub kek_file: Option<PathBuf>,
}

impl ControlConfig {
    /// Faults that the form alone does not show.
    pub(crate) fn faults(&self) -> Option<String> {
        for (field, groups) in [("admin_groups", &self.admin_groups), ("auditor_groups", &self.auditor_groups)] {
            if groups.iter().any(|group| group == "*" || group.is_empty()) {
                // In policies `*` stands for every verified principal: here it would make everybody an administrator.
                return Some(format!("{field}: must name groups, not \"*\" or nothing"));
            }
        }
        None
    }
}

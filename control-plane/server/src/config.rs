//! What an operator says about a control-plane node.

use std::net::SocketAddr;
use std::path::PathBuf;

use postern_core::Name;
use serde::Deserialize;

use crate::keys::config::KekConfig;

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
    /// Where the key-encryption keys are; or the key itself: for the environment (`POSTERN_CONTROL__KEK`), where no file shall hold it.
    #[serde(default)]
    pub kek: Option<KekConfig>,
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
        if self.kek.is_some() && self.kek_file.is_some() {
            return Some("kek and kek_file: one of them is enough".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str, value: serde_json::Value) -> ControlConfig {
        let mut json = serde_json::json!({"data_dir": "d", "listen": "127.0.0.1:0"});
        json[extra] = value;
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn nobody_makes_everybody_an_administrator() {
        assert!(config("admin_groups", serde_json::json!(["*"])).faults().is_some());
        assert!(config("auditor_groups", serde_json::json!([""])).faults().is_some());
        assert!(config("admin_groups", serde_json::json!(["admins"])).faults().is_none());
    }

    #[test]
    fn the_key_is_never_shown() {
        let config = config("kek", serde_json::json!("deadbeef"));
        assert!(config.kek.is_some());
        let shown = format!("{config:?}");
        assert!(!shown.contains("deadbeef") && !shown.contains("100, 101"), "{shown}");
    }
}

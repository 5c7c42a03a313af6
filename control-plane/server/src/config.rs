//! What an operator says about a control-plane node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_core::Name;
use postern_runtime::config::{ByteSize, HumanDuration};
use serde::Deserialize;

use crate::keys::config::KekConfig;
use crate::raft::NodeConfig;
use crate::recordings::archive::config::StoreConfig;
use crate::recordings::log::witness;
use crate::web::WebConfig;

/// Twice as many members as a cluster should have.
const MAX_SEEDS: usize = 16;

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
    /// Where other members reach this one; without it the node stays alone. A listener of its own: only members' certificates are let in
    /// there, and traffic of clients cannot hold up what keeps the cluster together.
    #[serde(default)]
    pub peer_listen: Option<SocketAddr>,
    /// `host:port` by which other members reach `peer_listen`, when it is not the address itself.
    #[serde(default)]
    pub advertise_peer: Option<String>,
    /// `host:port` of `peer_listen` of other members: where to look for those that are not where they were. Members find each other by
    /// themselves as long as one that stays up, or comes back where it was, is reached by the others.
    #[serde(default)]
    pub peer_seeds: Vec<String>,
    /// `host:port` by which clients and gateways reach `listen`, when it is not the address itself.
    #[serde(default)]
    pub advertise_api: Option<String>,
    /// The node's name, in its certificate.
    #[serde(default)]
    pub node_name: Option<Name>,
    /// DNS names and addresses, beside the node's own, that clients reach it by.
    #[serde(default)]
    pub alt_names: Vec<String>,
    /// How long certificates are good for; each node renews its own after two thirds of it.
    #[serde(default = "certificate_lifetime")]
    pub certificate_lifetime: HumanDuration,
    /// How the keys that sign session tokens are changed; the leader's word counts.
    #[serde(default)]
    pub signing_keys: SigningKeysConfig,
    /// Holds the cluster's feature level back, so that a version can still be taken back. Absent: it is raised once every member can.
    #[serde(default)]
    pub max_feature_level: Option<u32>,
    /// Writes after which the log is compacted into a snapshot. More of them cost disk, and time at the start.
    #[serde(default = "compact_after")]
    pub compact_after: u64,
    /// Bytes of writes after which it is compacted at the latest.
    #[serde(default = "compact_bytes")]
    pub compact_bytes: ByteSize,
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
    /// Recordings.
    #[serde(default)]
    pub recordings: RecordingsConfig,
    /// Whether proofs of possession (DPoP) must have a nonce of the member that they are shown to: then none can be shown to another, nor be made ahead.
    #[serde(default)]
    pub dpop_nonces: bool,
    /// The listener for browsers; there is none without it.
    #[serde(default)]
    pub web: Option<WebConfig>,
    /// An empty data directory becomes a cluster at the start, with an administrator's credential in it: for `postern dev` and tests, never
    /// from a file.
    #[serde(skip)]
    pub dev: bool,
}

/// What becomes of recordings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingsConfig {
    /// Where sealed ones are kept. In a cluster all members say the same.
    #[serde(default)]
    pub store: StoreConfig,
    /// Who signs the heads of the log of recordings, beside the cluster. In a cluster all members say the same.
    #[serde(default)]
    pub witnesses: Vec<WitnessConfig>,
}

/// A witness of the log of recordings, as of C2SP's tlog-witness.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// What its signatures are verified by: `NAME+HASH+KEY`.
    pub key: String,
    /// What `/add-checkpoint` follows: `https`, or `http` on this machine.
    pub url: String,
    /// The authority of its certificate, PEM; the public ones without it.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// How the keys that sign session tokens are changed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigningKeysConfig {
    /// How long a key signs before another takes its place; 0s: until somebody asks for it.
    pub rotate_every: HumanDuration,
    /// How long a key is known to all before it signs: longer than others keep a JWKS, and than gateways should be away.
    pub publish_for: HumanDuration,
}

impl Default for SigningKeysConfig {
    fn default() -> Self {
        let days = |days: u64| HumanDuration(Duration::from_secs(days * 86_400));
        Self { rotate_every: days(90), publish_for: HumanDuration(Duration::from_secs(600)) }
    }
}

impl SigningKeysConfig {
    fn faults(&self) -> Option<String> {
        let (every, publish) = (self.rotate_every.0, self.publish_for.0);
        if publish < Duration::from_secs(1) || publish > Duration::from_secs(7 * 86_400) {
            return Some("signing_keys.publish_for: must be from 1s to 7d".to_owned());
        }
        // More keys than are kept would be made within the life of a token.
        if !every.is_zero() && (every < Duration::from_secs(3_600) || every < publish.saturating_mul(2)) {
            return Some("signing_keys.rotate_every: must be 0s, or an hour at least and twice publish_for".to_owned());
        }
        None
    }
}

/// Each renewal is a write, and has to be done in the last third.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(10);

/// A month: a node that is away longer is let in anew.
const fn certificate_lifetime() -> HumanDuration {
    HumanDuration(Duration::from_secs(30 * 86_400))
}

fn compact_after() -> u64 {
    NodeConfig::new(0).compact_after
}

fn compact_bytes() -> ByteSize {
    ByteSize(NodeConfig::new(0).compact_bytes)
}

impl ControlConfig {
    /// Who the node is to Raft.
    pub(crate) fn raft(&self, id: u64) -> NodeConfig {
        let default = NodeConfig::new(id);
        // What is kept for those that lag a little stays well below what is compacted.
        let keep_entries = default.keep_entries.min(self.compact_after / 4);
        NodeConfig { compact_after: self.compact_after, compact_bytes: self.compact_bytes.0, keep_entries, ..default }
    }

    /// Faults that the form alone does not show.
    pub(crate) fn faults(&self) -> Option<String> {
        for (field, groups) in [("admin_groups", &self.admin_groups), ("auditor_groups", &self.auditor_groups)] {
            if groups.iter().any(|group| group == "*" || group.is_empty()) {
                // In policies `*` stands for every verified principal: here it would make everybody an administrator.
                return Some(format!("{field}: must name groups, not \"*\" or nothing"));
            }
        }
        let lifetime = self.certificate_lifetime.0;
        if lifetime < SHORTEST_LIFETIME || lifetime > Duration::from_secs(5 * 366 * 86_400) {
            return Some("certificate_lifetime: must be from 10s to five years".to_owned());
        }
        if let Some(fault) = self.recordings.store.faults() {
            return Some(fault);
        }
        if let Some(fault) = witness::faults(&self.recordings.witnesses) {
            return Some(fault);
        }
        if let Some(fault) = self.signing_keys.faults() {
            return Some(fault);
        }
        if self.compact_after < 100 || self.compact_bytes.0 < 1 << 20 {
            return Some("compact_after, compact_bytes: must be at least 100 and 1MiB".to_owned());
        }
        if self.advertise_peer.is_some() && self.peer_listen.is_none() {
            return Some("advertise_peer: goes with peer_listen".to_owned());
        }
        if !self.peer_seeds.is_empty() && self.peer_listen.is_none() {
            return Some("peer_seeds: goes with peer_listen".to_owned());
        }
        if self.peer_seeds.len() > MAX_SEEDS {
            return Some(format!("peer_seeds: at most {MAX_SEEDS}"));
        }
        if let Some(seed) = self.peer_seeds.iter().find(|seed| !is_host_and_port(seed)) {
            return Some(format!("peer_seeds: {seed:?} is not HOST:PORT"));
        }
        if let Some(fault) = self.web.as_ref().and_then(WebConfig::faults) {
            return Some(fault);
        }
        if self.kek.is_some() && self.kek_file.is_some() {
            return Some("kek and kek_file: one of them is enough".to_owned());
        }
        None
    }

    /// Its name: the founder's has a default.
    pub(crate) fn name(&self) -> Option<Name> {
        self.node_name.clone().or_else(|| "control-1".parse().ok())
    }

    /// `host:port` for other members, when the node listens for them at `bound`; empty for a node that stays alone.
    pub(crate) fn peer_address(&self, bound: Option<SocketAddr>) -> Result<String, String> {
        match (bound, &self.advertise_peer) {
            (None, _) => Ok(String::new()),
            (Some(_), Some(address)) => Ok(address.clone()),
            (Some(listen), None) => self.reachable(listen, "advertise_peer"),
        }
    }

    /// `host:port` for clients, when the node listens for them at `bound`.
    pub(crate) fn api_address(&self, bound: SocketAddr) -> Result<String, String> {
        match &self.advertise_api {
            Some(address) => Ok(address.clone()),
            None => self.reachable(bound, "advertise_api"),
        }
    }

    fn reachable(&self, listen: SocketAddr, field: &str) -> Result<String, String> {
        if !listen.ip().is_unspecified() {
            return Ok(listen.to_string());
        }
        match self.alt_names.first() {
            Some(name) if name.contains(':') => Ok(format!("[{name}]:{}", listen.port())),
            Some(name) => Ok(format!("{name}:{}", listen.port())),
            None => Err(format!("{field}: {listen} says not how others reach this node: set it, or alt_names")),
        }
    }

    /// Names and addresses for this node's own certificate, beside those that its role gives.
    pub(crate) fn certificate_names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let mut add = |name: String| {
            if !names.contains(&name) {
                names.push(name);
            }
        };
        for listen in [Some(self.listen), self.peer_listen].into_iter().flatten() {
            if !listen.ip().is_unspecified() {
                add(listen.ip().to_string());
            }
        }
        self.alt_names.iter().cloned().for_each(add);
        names
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
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
    fn signing_keys_are_changed_in_time_or_by_hand() {
        let fault = |every: &str, publish: &str| {
            config("signing_keys", serde_json::json!({"rotate_every": every, "publish_for": publish})).faults()
        };
        assert_eq!([fault("0s", "10m"), fault("90d", "10m"), fault("1h", "30m")], [None, None, None]);
        for (every, publish) in [("59m", "1m"), ("2h", "61m"), ("0s", "500ms"), ("90d", "8d")] {
            assert!(fault(every, publish).unwrap().starts_with("signing_keys."), "{every} {publish}");
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        let config = config("kek", serde_json::json!("deadbeef"));
        assert!(config.kek.is_some());
        let shown = format!("{config:?}");
        assert!(!shown.contains("deadbeef") && !shown.contains("100, 101"), "{shown}");
    }

    #[test]
    fn seeds_are_addresses_and_go_with_a_listener() {
        let seeds = |seeds: &[&str]| {
            let mut config = config("peer_listen", serde_json::json!("127.0.0.1:0"));
            config.peer_seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
            config.faults()
        };
        assert_eq!(seeds(&["c1.example.internal:7481", "10.0.0.2:7481", "[fd00::1]:7481"]), None);
        for bad in ["c1.example.internal", ":7481", "c1:0", "c1:peers"] {
            assert!(seeds(&[bad]).unwrap().contains(bad), "{bad}");
        }
        assert!(seeds(&["a:1"; MAX_SEEDS + 1]).is_some());
        assert!(config("peer_seeds", serde_json::json!(["a:1"])).faults().is_some());
    }
}

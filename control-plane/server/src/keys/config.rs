//! What an operator says about the cluster's key-encryption keys.

use std::fmt;
use std::path::{Path, PathBuf};

use postern_core::secret::SecretBytes;
use postern_runtime::vault::VaultConfig;
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

/// Where the key-encryption key is: what new secrets are sealed under, and what older ones may still be sealed under.
#[derive(Clone, Debug)]
pub struct KekConfig {
    pub(crate) current: KekSource,
    pub(crate) previous: Vec<KekSource>,
}

/// Where one key is.
#[derive(Clone, Debug)]
pub(crate) enum KekSource {
    /// The key itself: `POSTERN_CONTROL__KEK`.
    Inline(SecretBytes),
    File(PathBuf),
    Variable(String),
    Vault(Box<VaultKey>),
}

/// A key of Vault's transit engine.
#[derive(Clone, Debug)]
pub(crate) struct VaultKey {
    /// Its id in what it seals.
    pub(crate) id: String,
    pub(crate) vault: VaultConfig,
    pub(crate) mount: String,
    pub(crate) key: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Env,
    Vault,
}

/// As it is written: `[control.kek]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    source: Kind,
    #[serde(default)]
    path: Option<PathBuf>,
    #[serde(default)]
    variable: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    mount: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    vault: Option<VaultConfig>,
    #[serde(default)]
    previous: Vec<Table>,
}

/// Most keys that are configured at once.
const MAX_PREVIOUS: usize = 8;

impl KekConfig {
    /// A file alone, as `kek_file` says it.
    pub(crate) fn file(path: &Path) -> Self {
        Self { current: KekSource::File(path.to_owned()), previous: Vec::new() }
    }
}

impl TryFrom<Table> for KekConfig {
    type Error = String;

    fn try_from(mut table: Table) -> Result<Self, String> {
        let previous = std::mem::take(&mut table.previous);
        if previous.len() > MAX_PREVIOUS {
            return Err(format!("previous: {MAX_PREVIOUS} at most"));
        }
        let current = source(table)?;
        let previous = previous.into_iter().enumerate().map(|(place, table)| {
            let fault = |why: String| format!("previous[{place}]: {why}");
            if !table.previous.is_empty() {
                return Err(fault("has no previous of its own".to_owned()));
            }
            source(table).map_err(fault)
        });
        Ok(Self { current, previous: previous.collect::<Result<_, _>>()? })
    }
}

fn source(table: Table) -> Result<KekSource, String> {
    let Table { source, path, variable, name, mount, key, vault, previous: _ } = table;
    let foreign: &[(&str, bool)] = match source {
        Kind::File => &[("variable", variable.is_some()), ("vault", vault.is_some()), ("key", key.is_some())],
        Kind::Env => &[("path", path.is_some()), ("vault", vault.is_some()), ("key", key.is_some())],
        Kind::Vault => &[("path", path.is_some()), ("variable", variable.is_some())],
    };
    if let Some((field, _)) = foreign.iter().find(|(_, given)| *given) {
        return Err(format!("{field}: does not go with this source"));
    }
    if !matches!(source, Kind::Vault) && (mount.is_some() || name.is_some()) {
        return Err("mount, name: go with source = \"vault\"".to_owned());
    }
    match source {
        Kind::File => path.map(KekSource::File).ok_or_else(|| "path: is missing".to_owned()),
        Kind::Env => variable.map(KekSource::Variable).ok_or_else(|| "variable: is missing".to_owned()),
        Kind::Vault => {
            let vault = vault.ok_or("vault: is missing")?;
            let key = key.filter(|key| !key.is_empty()).ok_or("key: is missing")?;
            let mount = mount.unwrap_or_else(|| "transit".to_owned());
            let namespace = vault.namespace.as_deref().map(|name| format!("{}/", name.trim_matches('/')));
            let id = name.unwrap_or_else(|| format!("vault:{}{mount}/{key}", namespace.unwrap_or_default()));
            if id.is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
                return Err("name: must have 1 to 128 bytes".to_owned());
            }
            Ok(KekSource::Vault(Box::new(VaultKey { id, vault, mount, key })))
        }
    }
}

impl<'de> Deserialize<'de> for KekConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrTable)
    }
}

/// The key itself, as text; or where it is, as a table.
struct TextOrTable;

impl<'de> Visitor<'de> for TextOrTable {
    type Value = KekConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table with `source`, or the key as 64 hexadecimal digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<KekConfig, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<KekConfig, E> {
        Ok(KekConfig { current: KekSource::Inline(SecretBytes::new(text.into_bytes())), previous: Vec::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KekConfig, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        KekConfig::try_from(table).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<KekConfig, String> {
        serde_json::from_value(json).map_err(|error| error.to_string())
    }

    #[test]
    fn says_where_keys_are() {
        let vault = serde_json::json!({"address": "https://vault:8200", "namespace": "team/"});
        let config = read(serde_json::json!({
            "source": "vault", "key": "postern", "vault": vault,
            "previous": [{"source": "file", "path": "kek"}, {"source": "env", "variable": "OLD_KEK"}],
        }));
        let config = config.unwrap();
        assert!(matches!(&config.current, KekSource::Vault(key) if key.id == "vault:team/transit/postern"));
        assert!(matches!(&config.previous[..], [KekSource::File(_), KekSource::Variable(_)]));
        assert!(matches!(read("ab".into()).unwrap().current, KekSource::Inline(_)));
    }

    #[test]
    fn says_what_does_not_fit() {
        let of = |json| read(json).unwrap_err();
        assert!(of(serde_json::json!({"source": "file"})).contains("path: is missing"));
        assert!(of(serde_json::json!({"source": "file", "path": "x", "key": "y"})).contains("key: does not go"));
        assert!(of(serde_json::json!({"source": "vault", "key": "y"})).contains("vault: is missing"));
        assert!(of(serde_json::json!({"source": "what"})).contains("unknown variant"));
        assert!(of(serde_json::json!({"source": "file", "paht": "x"})).contains("unknown field"));
        let nested = serde_json::json!({"source": "file", "path": "x", "previous": [
            {"source": "file", "path": "y", "previous": [{"source": "file", "path": "z"}]}]});
        assert!(of(nested).contains("no previous of its own"));
    }

    #[test]
    fn the_key_is_never_shown() {
        let shown = format!("{:?}", read("deadbeef".into()).unwrap());
        assert!(!shown.contains("deadbeef") && !shown.contains("100, 101"), "{shown}");
    }
}

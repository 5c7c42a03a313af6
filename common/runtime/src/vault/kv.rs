//! The key-value store, version 2.

use std::collections::BTreeMap;

use hyper::Method;
use postern_core::secret::SecretBytes;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroize as _;

use super::{Vault, VaultError, part};

/// One field of a secret.
#[derive(Clone, Debug)]
pub struct KvSecret {
    /// Its value.
    pub value: SecretBytes,
    /// The secret's version that it is of.
    pub version: u32,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    version: u32,
}

impl Vault {
    /// The field `field` of the secret at `path` in the store at `mount`; the newest version when `version` is 0.
    ///
    /// # Errors
    /// When Vault does not give it; [`VaultError::NotFound`] when there is none, or that version was deleted.
    pub async fn kv_field(&self, mount: &str, path: &str, field: &str, version: u32) -> Result<KvSecret, VaultError> {
        let (mount, path) = (part("mount", mount)?, part("path", path)?);
        let asked = format!("{mount}/data/{path}");
        let url = if version == 0 { asked.clone() } else { format!("{asked}?version={version}") };
        let (answer, _) = self.call::<Answer>(Method::GET, &url, None::<&()>).await?;
        let missing = |detail| VaultError::NotFound { path: asked.clone(), detail };
        let answer = answer.data.ok_or_else(|| missing(""))?;
        let mut fields = answer.data.ok_or_else(|| missing(": that version was deleted"))?;
        let found = fields.remove(field);
        fields.values_mut().for_each(wipe);
        let text = match found {
            Some(Value::String(text)) => text,
            // A number may stand there without quotes.
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(VaultError::Form { path: asked, what: "the field is no text" }),
            None => return Err(missing(": it lacks the field that the target names")),
        };
        Ok(KvSecret { value: SecretBytes::new(text.into_bytes()), version: answer.metadata.version })
    }
}

fn wipe(value: &mut Value) {
    if let Value::String(text) = value {
        text.zeroize();
    }
}

//! The key-value store, version 2.

use serde_json::{Value, json};

use super::state::State;
use super::{Answer, Vault};

/// Of one secret; `None` for a version that was deleted.
pub(super) type Versions = Vec<Option<Value>>;

impl State {
    pub(super) fn read_kv(&self, mount: &str, path: &str, query: &str) -> Answer {
        let nothing = || Answer::errors(404, &[]);
        let Some(versions) = self.kv.get(&format!("{mount}/{path}")) else { return nothing() };
        let asked = query.split('&').find_map(|part| part.strip_prefix("version="));
        let version = match asked.map(str::parse::<usize>) {
            None | Some(Ok(0)) => versions.len(),
            Some(Ok(version)) => version,
            Some(Err(_)) => {
                return Answer::errors(400, &["Field validation failed: error converting input for field \"version\""]);
            }
        };
        let Some(found) = version.checked_sub(1).and_then(|place| versions.get(place)) else { return nothing() };
        let deleted = if found.is_none() { "2026-01-01T00:00:00.000000000Z" } else { "" };
        let metadata = json!({
            "created_time": "2026-01-01T00:00:00.000000000Z", "custom_metadata": null, "deletion_time": deleted, "destroyed": false,
            "version": version,
        });
        let mut answer = Answer::data(json!({"data": found, "metadata": metadata}));
        if found.is_none() {
            answer.status = axum::http::StatusCode::NOT_FOUND;
        }
        answer
    }
}

impl Vault {
    /// Writes a new version of a secret.
    pub fn put_kv(&self, mount: &str, path: &str, data: Value) {
        self.state().kv.entry(format!("{mount}/{path}")).or_default().push(Some(data));
    }

    /// Deletes the newest version.
    pub fn delete_kv(&self, mount: &str, path: &str) {
        if let Some(newest) =
            self.state().kv.get_mut(&format!("{mount}/{path}")).and_then(|versions| versions.last_mut())
        {
            *newest = None;
        }
    }
}

//! What a login reads of an identity provider and of whoever comes to the redirect, for whoever tries to break it: the fuzz targets.

use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::provider::{Metadata, OAuthError, read_tokens};
use super::{device, redirect};
use crate::output::printable;

/// The parsers of logins.
#[derive(Debug)]
pub struct LoginProbe;

impl LoginProbe {
    /// The issuer of a discovery document, when it is taken for one of `url`.
    #[must_use]
    pub fn metadata(document: &[u8], url: &str) -> Option<String> {
        let metadata: Metadata = serde_json::from_slice(document).ok()?;
        metadata.check(url).ok()?;
        Some(metadata.issuer().to_owned())
    }

    /// Whom a token endpoint's answer is of, and the ID token in it.
    #[must_use]
    pub fn tokens(document: &[u8], issuer: &str, client_id: &str) -> Option<(String, String)> {
        let document: Value = serde_json::from_slice(document).ok()?;
        let _ = OAuthError::read(&document).map(|error| error.to_string());
        let tokens = read_tokens(document, issuer, client_id).ok()?;
        Some((tokens.subject, tokens.id_token.expose_secret().to_owned()))
    }

    /// What people are shown of a device authorization endpoint's answer.
    #[must_use]
    pub fn device(document: &[u8]) -> Option<String> {
        let text = device::told(&serde_json::from_slice(document).ok()?).ok()?;
        Some(text.join("\n"))
    }

    /// The code in the head of a request to the redirect, where it is the answer to `state`.
    #[must_use]
    pub fn redirected(head: &str, state: &str) -> Option<String> {
        redirect::read(head, state).ok()?.outcome.ok()
    }

    /// Text that is safe to show.
    #[must_use]
    pub fn printable(text: &str) -> String {
        printable(text)
    }
}

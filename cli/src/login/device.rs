//! A login on another device: RFC 8628.

use std::time::{Duration, Instant};

use postern_runtime::http::check_url;
use serde::Deserialize;

use super::Wanted;
use super::provider::{GrantError, Provider, Tokens, ask};
use crate::failure::Failure;
use crate::output::{self, printable};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Section 3.5: without a word of the provider's, and what `slow_down` adds.
const INTERVAL: Duration = Duration::from_secs(5);
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Section 3.2.
#[derive(Deserialize)]
pub(super) struct Authorization {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// Tells where to log in, and asks until somebody has.
pub(super) async fn log_in(provider: &Provider, wanted: &Wanted, limit: Duration) -> Result<Tokens, Failure> {
    let Some(endpoint) = &provider.metadata.device_authorization_endpoint else {
        return Err(Failure::failed("the identity provider has no logins by device code"));
    };
    let scope = provider.scope();
    let mut form = vec![("client_id", provider.login.client_id.as_str()), ("scope", &scope)];
    form.extend(wanted.step_up());
    let answer = ask(&provider.http, endpoint, &form).await?;
    let asked: Authorization =
        serde_json::from_value(answer).map_err(|_| GrantError::Answer("there is no device code in it"))?;
    told(&asked)?.iter().for_each(output::note);
    let ends = Instant::now().checked_add(limit.min(Duration::from_secs(asked.expires_in)));
    let mut interval = asked.interval.map_or(INTERVAL, Duration::from_secs).clamp(Duration::from_secs(1), MAX_INTERVAL);
    loop {
        if ends.is_none_or(|ends| Instant::now() >= ends) {
            return Err(Failure::failed("nobody logged in in time: begin again"));
        }
        tokio::time::sleep(interval).await;
        let form = [("grant_type", GRANT), ("device_code", &asked.device_code)];
        match provider.grant(&form).await {
            Ok(tokens) => return Ok(tokens),
            Err(error) => match next(&error, interval) {
                Some(after) => interval = after,
                None => return Err(in_words(error)),
            },
        }
    }
}

/// How long to wait before the next question; `None`: there is none.
fn next(error: &GrantError, interval: Duration) -> Option<Duration> {
    match error {
        GrantError::Refused(refusal) => match refusal.code.as_str() {
            "authorization_pending" => Some(interval),
            "slow_down" => Some(interval.saturating_add(INTERVAL).min(MAX_INTERVAL)),
            _ => None,
        },
        // Section 3.5: as much again.
        GrantError::Unreachable(_) => Some(interval.saturating_mul(2).min(MAX_INTERVAL)),
        GrantError::Answer(_) => None,
    }
}

fn in_words(error: GrantError) -> Failure {
    let code = match &error {
        GrantError::Refused(refusal) => refusal.code.as_str(),
        _ => "",
    };
    match code {
        "access_denied" => Failure::failed("the login was denied"),
        "expired_token" => Failure::failed("the code has expired: begin again"),
        _ => error.into(),
    }
}

/// What people are told.
pub(super) fn told(asked: &Authorization) -> Result<Vec<String>, GrantError> {
    check_url(&asked.verification_uri).map_err(|_| GrantError::Answer("it names no page to log in at"))?;
    let mut notes = vec![format!(
        "On any device, open\n\n    {}\n\nand enter the code\n\n    {}\n",
        printable(&asked.verification_uri),
        printable(&asked.user_code)
    )];
    if let Some(complete) = asked.verification_uri_complete.as_ref().filter(|url| check_url(url).is_ok()) {
        notes.push(format!("Or open this, and compare the code:\n\n    {}\n", printable(complete)));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login::provider::OAuthError;

    #[test]
    fn it_asks_no_faster_than_it_is_told() {
        let after = |code: &str, interval| next(&GrantError::Refused(OAuthError::new(code, "")), interval);
        assert_eq!(after("authorization_pending", INTERVAL), Some(INTERVAL));
        assert_eq!(after("slow_down", INTERVAL), Some(Duration::from_secs(10)));
        assert_eq!(after("slow_down", MAX_INTERVAL), Some(MAX_INTERVAL));
        for end in ["access_denied", "expired_token", "invalid_client", ""] {
            assert_eq!(after(end, INTERVAL), None, "{end}");
        }
        assert_eq!(next(&GrantError::Unreachable(String::new()), INTERVAL), Some(INTERVAL * 2));
        assert_eq!(next(&GrantError::Answer("x"), INTERVAL), None);
        let said = in_words(GrantError::Refused(OAuthError::new("expired_token", ""))).to_string();
        assert!(said.contains("has expired"), "{said}");
    }

    #[test]
    fn people_are_sent_to_no_odd_place() {
        let asked = |uri: &str| Authorization {
            device_code: "d".into(),
            user_code: "ABCD".into(),
            verification_uri: uri.into(),
            verification_uri_complete: None,
            expires_in: 60,
            interval: None,
        };
        assert!(told(&asked("https://id.example/device")).is_ok());
        for odd in ["http://id.example/device", "javascript:x", "", "file:///etc/passwd"] {
            assert!(told(&asked(odd)).is_err(), "{odd}");
        }
    }
}

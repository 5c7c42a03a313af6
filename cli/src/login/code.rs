//! A login in a browser: authorization code with PKCE (RFC 6749, section 4.1; RFC 7636; RFC 8252).

use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use postern_runtime::http::form_encoded;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::provider::{GrantError, Provider, Tokens, claims};
use super::redirect::{Answer, Redirect, Waiting};
use super::{Wanted, challenge, secret};
use crate::failure::Failure;
use crate::output;

/// Sends a browser there, and waits for it. The browser waits in turn, to be told how it ended.
pub(super) async fn log_in(
    provider: &Provider,
    wanted: &Wanted,
    limit: Duration,
) -> Result<(Result<Tokens, Failure>, Waiting), Failure> {
    let Some(endpoint) = &provider.metadata.authorization_endpoint else {
        return Err(Failure::failed("the identity provider has no logins in a browser; try --device"));
    };
    let redirect = Redirect::listen(wanted.port).await?;
    let (state, nonce, verifier) = (secret(), secret(), secret());
    let (uri, scope, challenge) = (redirect.uri(), provider.scope(), challenge(&verifier));
    let mut query = vec![
        ("response_type", "code"),
        ("client_id", &provider.login.client_id),
        ("redirect_uri", &uri),
        ("scope", &scope),
        ("state", state.expose_secret()),
        ("nonce", nonce.expose_secret()),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    // OpenID Connect Core 1.0, section 11: a refresh token is given with consent only.
    if provider.login.scopes.iter().any(|scope| scope == "offline_access") {
        query.push(("prompt", "consent"));
    }
    query.extend(wanted.step_up());
    let joint = if endpoint.contains('?') { '&' } else { '?' };
    let url = format!("{endpoint}{joint}{}", form_encoded(&query));
    open(&url, wanted.browser).await;
    let late = || Failure::failed(format!("nobody logged in within {} s", limit.as_secs()));
    let answered = tokio::time::timeout(limit, redirect.answer(state.expose_secret())).await;
    let (answer, waiting) = answered.map_err(|_| late())??;
    let tokens = redeem(provider, answer, (&uri, &verifier, &nonce)).await;
    Ok((tokens, waiting))
}

async fn redeem(
    provider: &Provider,
    answer: Answer,
    (uri, verifier, nonce): (&str, &SecretString, &SecretString),
) -> Result<Tokens, Failure> {
    // RFC 9207, section 2.4: or the code of another provider would be taken to this one.
    match &answer.issuer {
        Some(issuer) if *issuer != provider.login.url => {
            return Err(Failure::failed("the answer is of another identity provider"));
        }
        None if provider.metadata.authorization_response_iss_parameter_supported => {
            return Err(Failure::failed("the answer does not say of which identity provider it is"));
        }
        _ => {}
    }
    let code = answer.outcome.map_err(GrantError::Refused)?;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", uri),
        ("code_verifier", verifier.expose_secret()),
    ];
    let tokens = provider.grant(&form).await?;
    let claims = claims(tokens.id_token.expose_secret()).unwrap_or_default();
    let given = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
    verify_slices_are_equal(given.as_bytes(), nonce.expose_secret().as_bytes())
        .map_err(|_| Failure::failed("the ID token is of another login"))?;
    Ok(tokens)
}

/// Tells where to log in, and opens it where there is a browser.
async fn open(url: &str, browser: bool) {
    output::note(format!("Log in in a browser:\n\n    {url}\n"));
    let Some(program) = program().filter(|_| browser) else { return };
    // The URL is no secret: whoever reads it in the list of processes has neither the verifier nor the answer.
    let mut command = tokio::process::Command::new(&program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.spawn() {
        output::note(format!("{program} does not start ({error}): open it yourself"));
    }
}

fn program() -> Option<String> {
    if let Ok(browser) = std::env::var("BROWSER") {
        return Some(browser).filter(|program| !program.is_empty());
    }
    if cfg!(target_os = "macos") {
        return Some("open".to_owned());
    }
    let display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|it| !it.is_empty()));
    display.then(|| "xdg-open".to_owned())
}

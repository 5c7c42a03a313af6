//! Web single sign-on by SAML: `/saml/ISSUER/metadata`, `/saml/ISSUER/login`, `/saml/ISSUER/acs`.
//!
//! No token is ever in a page or a URL. The browser is told a code that is good for a minute, once, and for whoever knows what the challenge was
//! made of that the login began with.

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Form, Path, Query, State};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use postern_core::audit::AuditRecord;
use postern_core::{Name, Timestamp};
use serde::Deserialize;
use tracing::{debug, info, warn};

use super::pages::{POST_SCRIPT, message, page, posts, redirect, with};
use super::{ClientAddress, Parts};
use crate::identity::saml::{Challenge, LoginError, Outbound, SamlError, decode, escaped};

/// `S256` of RFC 7636, section 4.2: 32 bytes in base64url.
const CHALLENGE_LENGTH: usize = 43;

pub(super) fn routes(parts: &Parts) -> Router {
    Router::new()
        .route("/saml/{issuer}/metadata", get(metadata))
        .route("/saml/{issuer}/login", get(login))
        .route("/saml/{issuer}/acs", post(acs))
        .route(POST_SCRIPT, get(async || with(StatusCode::OK, "text/javascript", "document.forms[0].submit();\n")))
        .with_state(parts.clone())
}

async fn metadata(State(parts): State<Parts>, Path(issuer): Path<String>) -> Response<Body> {
    let Ok(name) = issuer.parse() else { return refused(&issuer, &LoginError::NoIssuer) };
    match parts.saml.metadata(name).await {
        Ok(xml) => with(StatusCode::OK, "application/samlmetadata+xml", xml),
        Err(error) => refused(&issuer, &error),
    }
}

#[derive(Deserialize)]
struct LoginQuery {
    #[serde(default)]
    challenge: String,
    #[serde(default)]
    binding: String,
}

async fn login(
    State(parts): State<Parts>,
    Path(issuer): Path<String>,
    query: Result<Query<LoginQuery>, axum::extract::rejection::QueryRejection>,
) -> Response<Body> {
    let query = query.map(|Query(query)| query).ok();
    let Some((challenge, query)) = query.and_then(|query| Some((challenge(&query.challenge)?, query))) else {
        return message(StatusCode::BAD_REQUEST, "A login begins in a terminal: postern login --saml ISSUER.");
    };
    let Ok(name) = issuer.parse() else { return refused(&issuer, &LoginError::NoIssuer) };
    match parts.saml.begin(name, &challenge, query.binding == "post").await {
        Ok(Outbound::Redirect(url)) => redirect(&url),
        Ok(Outbound::Post { url, request }) => posts(&url, &[("SAMLRequest", &request)]),
        Err(error) => refused(&issuer, &error),
    }
}

fn challenge(text: &str) -> Option<Challenge> {
    if text.len() != CHALLENGE_LENGTH {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[derive(Deserialize)]
struct Posted {
    #[serde(rename = "SAMLResponse")]
    response: String,
}

async fn acs(
    State(parts): State<Parts>,
    Path(issuer): Path<String>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    form: Result<Form<Posted>, axum::extract::rejection::FormRejection>,
) -> Response<Body> {
    let Ok(Form(posted)) = form else {
        return message(StatusCode::BAD_REQUEST, "This is no answer of an identity provider.");
    };
    let Ok(name) = issuer.parse::<Name>() else { return refused(&issuer, &LoginError::NoIssuer) };
    let record = AuditRecord {
        sequence: 0,
        at: Timestamp::default(),
        principal: None,
        certificate: String::new(),
        client_address: address.ip().to_string(),
        node: parts.saml.node().to_owned(),
        method: "/saml/acs".to_owned(),
        objects: vec![format!("Issuer/{name}")],
        code: "OK".to_owned(),
        reason: String::new(),
        request_id: String::new(),
        dry_run: false,
        count: 1,
        hash: [0; 32],
    };
    let finished = match decode(&posted.response) {
        Some(xml) => parts.saml.finish(name, &xml, record.clone()).await,
        None => Err(SamlError::Base64.into()),
    };
    match finished {
        Ok((principal, code)) => {
            info!(%principal, "logged in by SAML; a code waits for its client");
            told(&principal.to_string(), &code)
        }
        Err(error) => {
            let record = match &error {
                // Its entry is in the log already, with its record.
                LoginError::Refused(_) => None,
                LoginError::Saml(refusal) => {
                    metrics::counter!("postern_control_auth_failures_total", "code" => refusal.code().as_str())
                        .increment(1);
                    Some(AuditRecord { code: "UNAUTHENTICATED".to_owned(), reason: error.to_string(), ..record })
                }
                _ => None,
            };
            if let Some(record) = record
                && parts.audit.record(record).await.is_err()
            {
                return message(StatusCode::SERVICE_UNAVAILABLE, "The control plane is not available. Try again.");
            }
            refused(&issuer, &error)
        }
    }
}

fn told(principal: &str, code: &str) -> Response<Body> {
    page(
        StatusCode::OK,
        &format!(
            "<h1>Logged in</h1><p>You are {}.</p><p>Type this code where you began the login, within a minute:</p><p><code id=\"code\">{}</code></p><p>Give it to nobody. \
             If you began no login in a terminal, close this page.</p>",
            escaped(principal),
            escaped(code)
        ),
    )
}

/// What a person is told. What is wrong with the issuer's declaration is for the operator.
fn refused(issuer: &str, error: &LoginError) -> Response<Body> {
    match error {
        LoginError::Saml(refusal) => {
            debug!(issuer, error = %refusal, "a login by SAML was refused");
            message(StatusCode::FORBIDDEN, &format!("The login was not accepted: {refusal}."))
        }
        LoginError::Refused(postern_state::Refusal::Spent) => {
            debug!(issuer, "an assertion was presented again");
            message(StatusCode::FORBIDDEN, "The login was not accepted: it was presented before. Begin again.")
        }
        LoginError::NoIssuer => message(StatusCode::NOT_FOUND, "There is nothing here."),
        LoginError::Read(_) | LoginError::Propose(_) | LoginError::Sealed(_) => {
            debug!(issuer, %error, "no login");
            message(StatusCode::SERVICE_UNAVAILABLE, "The control plane is not available. Try again.")
        }
        LoginError::NoWeb
        | LoginError::Metadata(_)
        | LoginError::NoKey(_)
        | LoginError::Key(_)
        | LoginError::Binding
        | LoginError::Refused(_) => {
            warn!(issuer, %error, "logins by SAML do not work");
            message(StatusCode::SERVICE_UNAVAILABLE, "Logins by this issuer do not work now. Tell your administrator.")
        }
    }
}

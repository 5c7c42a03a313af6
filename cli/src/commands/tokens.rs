//! `postern token` and `postern whoami`.

use postern_proto::admin::v1::{ExchangeTokenRequest, WhoAmIRequest};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::principal;
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, Settings, refused};
use crate::failure::Failure;
use crate::output;

/// Prints the session token and nothing else: it is meant for `$(...)`.
pub(crate) async fn exchange(
    targets: &[String],
    ttl: std::time::Duration,
    connection: &ConnectionArgs,
) -> Result<(), Failure> {
    let mut settings = Settings::resolve(connection)?;
    let Some(token) = settings.token.take() else {
        return Err(Failure::usage("which token to exchange? set POSTERN_TOKEN or give --token-file"));
    };
    let client = Client::connect(&settings).await?;
    let request = ExchangeTokenRequest {
        subject_token: token.expose_secret().to_owned(),
        targets: targets.to_vec(),
        ttl_seconds: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
    };
    let answer = client.tokens().exchange_token(request).await.map_err(refused)?.into_inner();
    output::line(answer.token)
}

pub(crate) async fn whoami(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let settings = Settings::resolve(connection)?;
    let client = Client::connect(&settings).await?;
    let answer = client.tokens().who_am_i(WhoAmIRequest {}).await.map_err(refused)?.into_inner();
    let groups = answer.principal.as_ref().map(|principal| principal.groups.clone()).unwrap_or_default();
    // Who comes with a certificate is no principal; its name stands there.
    let certificate = || settings.credential.as_ref().and_then(|credential| credential.identity().ok());
    let name = match &answer.principal {
        Some(_) => principal(answer.principal.as_ref()),
        None => certificate().map(|identity| format!("{identity} (certificate)")).unwrap_or_default(),
    };
    let expires = super::when(answer.principal.as_ref().and_then(|principal| principal.expires_at.as_ref()));
    let value = json!({
        "principal": name, "groups": groups, "expiresAt": expires, "admin": answer.admin, "auditor": answer.auditor,
        "roles": answer.roles,
    });
    match format.unwrap_or_default() {
        Format::Json => output::json(&value),
        Format::Yaml => output::yaml(&[value]),
        Format::Table => {
            let heading = ["PRINCIPAL", "GROUPS", "ROLES", "EXPIRES"];
            output::table(&heading, &[vec![name, groups.join(","), answer.roles.join(","), expires]])
        }
    }
}

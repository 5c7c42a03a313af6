//! `postern whoami`.

use postern_proto::admin::v1::{WhoAmIRequest, WhoAmIResponse};
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::principal;
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, Settings, refused};
use crate::failure::Failure;
use crate::output;

/// Whom the control plane takes the caller for, and by what.
pub(crate) async fn run(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let settings = Settings::acting(connection).await?;
    let client = Client::connect(&settings).await?;
    let answer = client.tokens().who_am_i(WhoAmIRequest {}).await.map_err(refused)?.into_inner();
    // Who comes with a certificate is no principal; its name stands there.
    let certificate = || settings.credential.as_ref().and_then(|credential| credential.identity().ok());
    let name = match &answer.principal {
        Some(_) => principal(answer.principal.as_ref()),
        None => certificate().map(|identity| format!("{identity} (certificate)")).unwrap_or_default(),
    };
    let value = shown(&answer, &name, settings.by());
    match format.unwrap_or_default() {
        Format::Json => output::json(&value),
        Format::Yaml => output::yaml(&[value]),
        Format::Table => {
            let heading = ["PRINCIPAL", "GROUPS", "ROLES", "EXPIRES", "BY"];
            let groups = answer.principal.map(|principal| principal.groups.join(",")).unwrap_or_default();
            let expires = value.get("expiresAt").and_then(Value::as_str).unwrap_or_default().to_owned();
            output::table(&heading, &[vec![name, groups, answer.roles.join(","), expires, settings.by().to_owned()]])
        }
    }
}

fn shown(answer: &WhoAmIResponse, name: &str, by: &str) -> Value {
    let none = pb::Principal::default();
    let who = answer.principal.as_ref().unwrap_or(&none);
    let actors = who.chain.iter().filter(|link| !link.subject.is_empty()).map(|link| match link.issuer.as_str() {
        "" => link.subject.clone(),
        issuer => format!("{issuer}/{}", link.subject),
    });
    let claims: serde_json::Map<_, _> = who.claims.iter().map(|it| (it.name.clone(), json!(it.values))).collect();
    json!({
        "principal": name, "issuer": who.issuer, "subject": who.subject, "actors": actors.collect::<Vec<_>>(), "groups": who.groups,
        "claims": claims, "token": who.token_id, "expiresAt": super::when(who.expires_at.as_ref()), "by": by,
        "admin": answer.admin, "auditor": answer.auditor, "roles": answer.roles,
    })
}

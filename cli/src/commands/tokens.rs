//! `postern token`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::Timestamp;
use postern_core::token::{LINK_SEPARATOR, LinkClaims, SessionClaims};
use postern_core::wire::identity::scope_to_proto;
use postern_proto::admin::v1::ExchangeTokenRequest;
use postern_runtime::clock;
use postern_runtime::jwt::{DelegationKey, NewLink, is_actor};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::args::{ConnectionArgs, Format};
use crate::client::{self, Client, Settings, refused};
use crate::failure::Failure;
use crate::output;
use crate::token_args::{NewTokenArgs, TokenArgs, TokenCommand};

pub(crate) async fn run(args: &TokenArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    match &args.command {
        None => exchange(&args.new, connection).await,
        Some(TokenCommand::Child { key, new }) => child(key, new, connection),
        Some(TokenCommand::Show { output }) => show(output.format, connection),
    }
}

/// Prints the session token and nothing else: it is meant for `$(...)`.
async fn exchange(new: &NewTokenArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let mut settings = Settings::acting(connection).await?;
    let Some(token) = settings.token.take() else {
        return Err(Failure::usage(
            "which token to exchange? log in by `postern login`, set POSTERN_TOKEN or give --token-file",
        ));
    };
    let key = new.delegate.as_deref().map(new_key).transpose()?;
    let client = Client::connect(&settings).await?;
    let request = ExchangeTokenRequest {
        subject_token: token.expose_secret().to_owned(),
        targets: Vec::new(),
        ttl_seconds: u32::try_from(new.ttl.as_secs()).unwrap_or(u32::MAX),
        scope: Some(scope_to_proto(&new.scope())),
        actor: new.actor.clone().unwrap_or_default(),
        delegation_key: key.as_ref().map(|key| key.public().to_vec()).unwrap_or_default(),
        delegation_depth: if key.is_some() { new.depth.into() } else { 0 },
        ..Default::default()
    };
    let answer = client.tokens().exchange_token(request).await.map_err(refused)?.into_inner();
    if let (Some(key), Some(file)) = (key, &new.delegate) {
        write_key(file, &key)?;
    }
    output::line(answer.token)
}

/// Prints the child and nothing else.
fn child(key: &Path, new: &NewTokenArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let parent = parent(connection)?;
    let key_pem = SecretString::from(client::read(key)?);
    let signer =
        DelegationKey::from_pem(&key_pem).map_err(|error| Failure::failed(format!("{}: {error}", key.display())))?;
    if new.actor.as_deref().is_some_and(|name| !is_actor(name)) {
        return Err(Failure::usage("--as: a name has 1 to 128 bytes, none of them a control character"));
    }
    let scope = new.scope();
    scope.check().map_err(|fault| Failure::usage(fault.to_string()))?;
    let own = new.delegate.as_deref().map(new_key).transpose()?;
    let now = clock::now();
    let link = NewLink {
        name: new.actor.clone(),
        scope,
        expires_at: now.plus(new.ttl),
        delegation: own.as_ref().map(|key| key.delegation(new.depth)),
        confirmation: None,
    };
    let token =
        signer.hand_on(parent.expose_secret(), link, now).map_err(|error| Failure::failed(error.to_string()))?;
    if let (Some(key), Some(file)) = (own, &new.delegate) {
        write_key(file, &key)?;
    }
    output::line(token)
}

fn parent(connection: &ConnectionArgs) -> Result<SecretString, Failure> {
    let none = || Failure::usage("which token? set POSTERN_TOKEN or give --token-file");
    client::token(connection)?.ok_or_else(none)
}

/// A key for a file that is not there yet: another may still be needed.
fn new_key(file: &Path) -> Result<DelegationKey, Failure> {
    if file.exists() {
        return Err(Failure::failed(format!("{} is there already", file.display())));
    }
    DelegationKey::generate().map_err(|error| Failure::failed(error.to_string()))
}

fn write_key(file: &Path, key: &DelegationKey) -> Result<(), Failure> {
    let pem = key.to_pem();
    postern_runtime::pki::write_private(file, pem.expose_secret().as_bytes())
        .map_err(|error| Failure::failed(error.to_string()))
}

/// What a token and its links say: nobody has checked whether they are right.
fn show(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let token = parent(connection)?;
    let mut parts = token.expose_secret().split(LINK_SEPARATOR);
    let root: SessionClaims =
        claims(parts.next().unwrap_or_default()).ok_or_else(|| Failure::failed("not a session token"))?;
    let handed_on = |dlg: Option<u8>| dlg.map(|depth| format!("{depth} times")).unwrap_or_default();
    let mut end = root.exp;
    let chain = &root.principal.chain;
    let mut all = vec![json!({
        "token": root.jti, "actor": chain.last().and_then(|link| link.actor.as_ref()).map(ToString::to_string),
        "scope": chain.iter().map(|link| link.scope.to_string()).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "),
        "expiresAt": Timestamp::from_secs(root.exp).to_string(), "mayBeHandedOn": handed_on(root.dlg.map(|dlg| dlg.depth)),
    })];
    for part in parts {
        let link: LinkClaims = claims(part).ok_or_else(|| Failure::failed("what follows the token is no link"))?;
        end = end.min(link.exp);
        all.push(json!({
            "token": "", "actor": link.name, "scope": link.scope.to_string(),
            "expiresAt": Timestamp::from_secs(link.exp).to_string(), "mayBeHandedOn": handed_on(link.dlg.map(|dlg| dlg.depth)),
        }));
    }
    let value = json!({
        "principal": root.principal.id.to_string(), "expiresAt": Timestamp::from_secs(end).to_string(), "chain": all,
    });
    match format.unwrap_or_default() {
        Format::Json => output::json(&value),
        Format::Yaml => output::yaml(&[value]),
        Format::Table => {
            output::line(format!("{}, until {}", root.principal.id, Timestamp::from_secs(end)))?;
            let cell = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let columns = ["token", "actor", "scope", "expiresAt", "mayBeHandedOn"];
            let rows: Vec<Vec<String>> =
                all.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
            output::table(&["TOKEN", "ACTOR", "SCOPE", "EXPIRES", "MAY BE HANDED ON"], &rows)
        }
    }
}

fn claims<T: serde::de::DeserializeOwned>(jwt: &str) -> Option<T> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

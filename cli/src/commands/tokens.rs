//! `postern token`.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::node::CONTROL_PLANE_NAME;
use postern_core::token::{Confirmation, LINK_SEPARATOR, LinkClaims, SESSION_TOKEN_DEFAULT_TTL, SessionClaims};
use postern_core::wire::identity::scope_to_proto;
use postern_core::{Name, Timestamp, Ttl};
use postern_proto::admin::v1::ExchangeTokenRequest;
use postern_runtime::clock;
use postern_runtime::jwt::{DelegationKey, NewLink, is_actor};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::args::{ConnectionArgs, Format};
use crate::client::{self, Client, Settings, refused};
use crate::failure::Failure;
use crate::output;
use crate::reach::seconds;
use crate::token_args::{NewTokenArgs, TokenArgs, TokenCommand};

/// RFC 7523, section 2.2.
const CLIENT_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(crate) async fn run(args: &TokenArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    match &args.command {
        None => exchange(args, connection).await,
        Some(TokenCommand::Child { key, new }) => child(key, new, connection),
        Some(TokenCommand::Show { output }) => show(output.format, connection),
    }
}

/// Prints the session token and nothing else: it is meant for `$(...)`.
async fn exchange(args: &TokenArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let new = &args.new;
    let (settings, subject) = match (&args.service_account, &args.key) {
        (Some(account), Some(key)) => (Settings::resolve(connection)?, Subject::of_account(account, key)?),
        _ => {
            let mut settings = Settings::acting(connection).await?;
            let Some(token) = settings.token.take() else {
                return Err(Failure::usage(
                    "which token to exchange? log in by `postern login`, set POSTERN_TOKEN or give --token-file",
                ));
            };
            (settings, Subject { token, kind: String::new() })
        }
    };
    // Who asks is proven by the request itself.
    let settings = Settings { token: None, credential: None, ..settings };
    let key = new.delegate.as_deref().map(new_key).transpose()?;
    let client = Client::connect(&settings).await?;
    let request = ExchangeTokenRequest {
        subject_token: subject.token.expose_secret().to_owned(),
        subject_token_type: subject.kind,
        // 0: as is usual.
        ttl_seconds: new.ttl.map_or(0, seconds),
        certificate_sha256: new.certificate.as_deref().map(certificate).transpose()?.unwrap_or_default(),
        scope: Some(scope_to_proto(&new.narrow.scope())),
        actor: new.narrow.actor.clone().unwrap_or_default(),
        job: args.tied.to_proto(),
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

/// Whom a session token is asked for.
struct Subject {
    token: SecretString,
    kind: String,
}

impl Subject {
    /// A service account by its own word.
    fn of_account(account: &Name, key: &Path) -> Result<Self, Failure> {
        let key = client::client_key(key)?;
        let audience = format!("https://{CONTROL_PLANE_NAME}");
        let assertion = key.assertion(account.as_str(), &audience, clock::now());
        let token = assertion.map_err(|error| Failure::failed(error.to_string()))?.into();
        Ok(Self { token, kind: CLIENT_ASSERTION.to_owned() })
    }
}

/// The SHA-256 of the first certificate in a file.
fn certificate(file: &Path) -> Result<Vec<u8>, Failure> {
    let der = CertificateDer::from_pem_slice(client::read(file)?.as_bytes())
        .map_err(|_| Failure::failed(format!("{}: no certificate in PEM", file.display())))?;
    Ok(digest(&SHA256, &der).as_ref().to_vec())
}

/// Prints the child and nothing else.
fn child(key: &Path, new: &NewTokenArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let parent = parent(connection)?;
    let key_pem = SecretString::from(client::read(key)?);
    let signer =
        DelegationKey::from_pem(&key_pem).map_err(|error| Failure::failed(format!("{}: {error}", key.display())))?;
    if new.narrow.actor.as_deref().is_some_and(|name| !is_actor(name)) {
        return Err(Failure::usage("--as: a name has 1 to 128 bytes, none of them a control character"));
    }
    let scope = new.narrow.scope();
    scope.check().map_err(|fault| Failure::usage(fault.to_string()))?;
    let own = new.delegate.as_deref().map(new_key).transpose()?;
    let now = clock::now();
    let link = NewLink {
        name: new.narrow.actor.clone(),
        scope,
        expires_at: now.plus(new.ttl.unwrap_or(Ttl(SESSION_TOKEN_DEFAULT_TTL).duration())),
        delegation: own.as_ref().map(|key| key.delegation(new.depth)),
        confirmation: new.certificate.as_deref().map(certificate).transpose()?.map(|it| Confirmation::certificate(&it)),
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

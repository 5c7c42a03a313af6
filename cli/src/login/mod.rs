//! `postern login`: at the issuer that the control plane names, in a browser or on another device; what comes of it is exchanged for a session
//! token and kept.

mod code;
mod device;
mod probe;
mod provider;
mod redirect;
mod saml;

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1::login::Protocol;
use postern_proto::admin::v1::{ExchangeTokenRequest, ListLoginsRequest, Login, WhoAmIRequest};
use postern_proto::resource::v1::Principal;
use postern_runtime::clock;
use secrecy::{ExposeSecret as _, SecretString};

pub use self::probe::LoginProbe;
use self::provider::{GrantError, Provider, Tokens};
use crate::args::ConnectionArgs;
use crate::client::{Client, Settings, refused};
use crate::credentials::{Kept, Renewal, Store};
use crate::failure::Failure;
use crate::output;
use crate::reach::{HOUR, seconds};
use crate::token_args::LoginArgs;

const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// How to log in.
struct Wanted {
    port: u16,
    browser: bool,
    acr: String,
    max_age: Option<String>,
}

impl Wanted {
    fn new(args: &LoginArgs) -> Self {
        Self {
            port: args.port,
            browser: !args.no_browser,
            acr: args.acr.join(" "),
            max_age: args.max_age.map(|age| age.as_secs().to_string()),
        }
    }

    /// What is asked of the provider beside a login (OpenID Connect Core 1.0, section 3.1.2.1).
    fn step_up(&self) -> Vec<(&str, &str)> {
        let acr = Some(("acr_values", self.acr.as_str())).filter(|(_, acr)| !acr.is_empty());
        let age = self.max_age.as_deref().map(|age| ("max_age", age));
        acr.into_iter().chain(age).collect()
    }
}

/// What a session token is made of.
struct Subject {
    token: SecretString,
    kind: &'static str,
    verifier: Option<SecretString>,
}

/// A session token, and who has it.
struct Session {
    token: SecretString,
    expires_at: u64,
    principal: Principal,
}

/// Logs in, keeps the session token, and tells who one is. With `--print`, prints the token and nothing else.
pub(crate) async fn run(args: &LoginArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let mut settings = Settings::resolve(connection)?;
    // Whoever logs in is nobody yet.
    (settings.token, settings.credential) = (None, None);
    let client = Client::connect(&settings).await?;
    // Before anybody is sent to a browser.
    let store = Store::of(&settings)?;
    let login = choose(&client, args).await?;
    let issuer = login.issuer.clone();
    let (session, renewal, waiting) = match login.protocol {
        Some(Protocol::Oidc(oidc)) => {
            let provider = Provider::discover(oidc).await?;
            let wanted = Wanted::new(args);
            let (tokens, waiting) = if args.device {
                (device::log_in(&provider, &wanted, args.timeout).await, None)
            } else {
                let (tokens, waiting) = code::log_in(&provider, &wanted, args.timeout).await?;
                (tokens, Some(waiting))
            };
            let done = match tokens {
                Ok(tokens) => begin(&client, args, tokens, &provider).await,
                Err(failure) => Err(failure),
            };
            match done {
                Ok((session, renewal)) => (session, renewal, waiting),
                Err(failure) => {
                    if let Some(waiting) = waiting {
                        waiting.tell(Err(&failure)).await;
                    }
                    return Err(failure);
                }
            }
        }
        Some(Protocol::Saml(at)) => {
            if args.device || !args.acr.is_empty() || args.max_age.is_some() {
                return Err(Failure::usage("--device, --acr and --max-age are for issuers of OpenID Connect"));
            }
            let web = args.web.clone().unwrap_or(at.web_url);
            let subject = saml::log_in(&issuer, &web).await?;
            (exchange(&client, subject, &args.target, args.ttl).await?, None, None)
        }
        None => return Err(Failure::failed("the control plane names a way to log in that this program does not know")),
    };
    let who = crate::commands::principal(Some(&session.principal));
    if args.print {
        if let Some(waiting) = waiting {
            waiting.tell(Ok(&who)).await;
        }
        return output::line(session.token.expose_secret());
    }
    let renewable = renewal.is_some();
    let kept = Kept {
        principal: who.clone(),
        issuer,
        token: session.token,
        expires_at: session.expires_at,
        ttl: args.ttl.unwrap_or(HOUR).as_secs(),
        targets: args.target.clone(),
        renewal,
    };
    let saved = store.save(&kept).await;
    if let Some(waiting) = waiting {
        waiting.tell(saved.as_ref().map(|()| who.as_str())).await;
    }
    saved?;
    settings.remember(connection)?;
    let until = crate::commands::when_exactly(postern_core::Timestamp::from_secs(session.expires_at));
    let then = if renewable { "renewed by itself after that" } else { "log in again after that" };
    output::note(format!("Logged in as {who} until {until}, {then}. Kept in {}.", store.place()));
    Ok(())
}

/// The session token, and by what it is renewed.
async fn begin(
    client: &Client,
    args: &LoginArgs,
    tokens: Tokens,
    provider: &Provider,
) -> Result<(Session, Option<Renewal>), Failure> {
    let Tokens { id_token, refresh_token, subject } = tokens;
    let session = exchange(client, Subject::id_token(id_token), &args.target, args.ttl).await?;
    let renewal = refresh_token.map(|refresh_token| Renewal {
        refresh_token,
        url: provider.login.url.clone(),
        client_id: provider.login.client_id.clone(),
        ca_pem: provider.login.ca_pem.clone(),
        token_endpoint: provider.metadata.token_endpoint.clone(),
        revocation_endpoint: provider.metadata.revocation_endpoint.clone(),
        subject,
    });
    Ok((session, renewal))
}

impl Subject {
    const fn id_token(token: SecretString) -> Self {
        Self { token, kind: ID_TOKEN, verifier: None }
    }
}

async fn exchange(
    client: &Client,
    subject: Subject,
    targets: &[String],
    ttl: Option<Duration>,
) -> Result<Session, Failure> {
    let request = ExchangeTokenRequest {
        subject_token: subject.token.expose_secret().to_owned(),
        subject_token_type: subject.kind.to_owned(),
        code_verifier: subject.verifier.map(|verifier| verifier.expose_secret().to_owned()).unwrap_or_default(),
        targets: targets.to_vec(),
        ttl_seconds: seconds(ttl.unwrap_or(HOUR)),
        ttl_is_default: ttl.is_none(),
        ..Default::default()
    };
    let answer = client.tokens().exchange_token(request).await.map_err(refused)?.into_inner();
    let token = SecretString::from(answer.token);
    let as_them = client.bearing(&token)?;
    let who = as_them.tokens().who_am_i(WhoAmIRequest {}).await.map_err(refused)?.into_inner();
    let expires_at = answer.expires_at.as_ref().map(timestamp_from_proto).map(postern_core::Timestamp::secs);
    Ok(Session { token, expires_at: expires_at.unwrap_or_default(), principal: who.principal.unwrap_or_default() })
}

/// What a refresh token was good for.
pub(crate) struct Refreshed {
    /// In the place of the one before, which is spent.
    pub(crate) refresh_token: Option<SecretString>,
    answer: serde_json::Value,
}

/// Asks the identity provider anew: a refresh token is as good as a browser.
pub(crate) async fn refresh(renewal: &Renewal) -> Result<Refreshed, Failure> {
    let http = provider::client(&renewal.ca_pem)?;
    let form = [
        ("client_id", renewal.client_id.as_str()),
        ("grant_type", "refresh_token"),
        ("refresh_token", renewal.refresh_token.expose_secret()),
    ];
    let answer = provider::ask(&http, &renewal.token_endpoint, &form).await?;
    let new = answer.get("refresh_token").and_then(serde_json::Value::as_str);
    Ok(Refreshed { refresh_token: new.map(|new| SecretString::from(new.to_owned())), answer })
}

/// A session token for what was refreshed, and its end in seconds.
pub(crate) async fn renew(
    settings: &Settings,
    kept: &Kept,
    renewal: &Renewal,
    refreshed: Refreshed,
) -> Result<(SecretString, u64), Failure> {
    let tokens = provider::read_tokens(refreshed.answer, &renewal.url, &renewal.client_id)?;
    // OpenID Connect Core 1.0, section 12.2.
    if tokens.subject != renewal.subject {
        return Err(GrantError::Answer("its ID token is of somebody else").into());
    }
    let mut nobody = settings.clone();
    (nobody.token, nobody.credential) = (None, None);
    let client = Client::connect(&nobody).await?;
    // What was not asked for is not insisted on.
    let ttl = Some(Duration::from_secs(kept.ttl)).filter(|ttl| *ttl != HOUR);
    let subject = Subject::id_token(tokens.id_token);
    let session = exchange(&client, subject, &kept.targets, ttl).await?;
    Ok((session.token, session.expires_at))
}

/// Has the provider forget the refresh token (RFC 7009). `Ok(false)`: it takes none back.
pub(crate) async fn give_back(renewal: &Renewal) -> Result<bool, Failure> {
    let Some(endpoint) = &renewal.revocation_endpoint else { return Ok(false) };
    let form = [
        ("client_id", renewal.client_id.as_str()),
        ("token", renewal.refresh_token.expose_secret()),
        ("token_type_hint", "refresh_token"),
    ];
    let http = provider::client(&renewal.ca_pem)?;
    // Section 2.2: there is nothing to read in the answer.
    match http.post_form(endpoint, &form, provider::MAX_ANSWER, provider::LIMIT).await {
        Ok(answered) if answered.status != 200 => {
            Err(Failure::failed(format!("the identity provider answered {}", answered.status)))
        }
        Ok(_) | Err(postern_runtime::http::HttpError::Json(_)) => Ok(true),
        Err(error) => Err(Failure::failed(format!("the identity provider cannot be asked: {error}"))),
    }
}

/// The issuer that is meant: named, or the only one.
async fn choose(client: &Client, args: &LoginArgs) -> Result<Login, Failure> {
    let answer = client.clients().list_logins(ListLoginsRequest {}).await.map_err(refused)?.into_inner();
    let is_saml = |login: &Login| matches!(login.protocol, Some(Protocol::Saml(_)));
    let names =
        |logins: &[Login]| logins.iter().map(|login| output::printable(&login.issuer)).collect::<Vec<_>>().join(", ");
    if let Some(name) = &args.saml {
        let known = answer.logins.iter().find(|login| is_saml(login) && login.issuer == name.as_str());
        return match (known, &args.web) {
            (Some(login), _) => Ok(login.clone()),
            // Named by hand: the control plane says whether there is such a page.
            (None, Some(_)) => Ok(Login {
                issuer: name.to_string(),
                protocol: Some(Protocol::Saml(postern_proto::admin::v1::SamlLogin::default())),
            }),
            (None, None) => Err(Failure::failed(format!(
                "nobody logs in at {name} by SAML here: there is no such issuer, or the control plane has no web.public_url"
            ))),
        };
    }
    if let Some(name) = &args.issuer {
        let found = answer.logins.iter().find(|login| login.issuer == name.as_str());
        return found.cloned().ok_or_else(|| {
            let others =
                if answer.logins.is_empty() { String::new() } else { format!("; there are {}", names(&answer.logins)) };
            Failure::failed(format!("nobody logs in at {name}: spec.login of the Issuer says who may{others}"))
        });
    }
    match answer.logins.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::failed("nobody logs in here: no Issuer has spec.login")),
        several => Err(Failure::usage(format!("at which issuer? --issuer {}", names(several)))),
    }
}

/// What only this process knows: 256 bits (RFC 7636, section 4.1).
fn secret() -> SecretString {
    let bytes =
        zeroize::Zeroizing::new([clock::random_u128().to_be_bytes(), clock::random_u128().to_be_bytes()].concat());
    SecretString::from(URL_SAFE_NO_PAD.encode(&*bytes))
}

/// RFC 7636, section 4.2.
fn challenge(verifier: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.expose_secret().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_the_digest_of_what_is_kept_back() {
        // RFC 7636, appendix B.
        let verifier = SecretString::from("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned());
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        let (one, other) = (secret(), secret());
        assert_ne!(one.expose_secret(), other.expose_secret());
        assert_eq!(one.expose_secret().len(), 43);
    }

    #[test]
    fn a_step_up_is_asked_for_only_where_it_is_wanted() {
        let wanted = |acr: &str, max_age: Option<&str>| Wanted {
            port: 0,
            browser: false,
            acr: acr.to_owned(),
            max_age: max_age.map(str::to_owned),
        };
        assert!(wanted("", None).step_up().is_empty());
        assert_eq!(wanted("gold silver", Some("0")).step_up(), [("acr_values", "gold silver"), ("max_age", "0")]);
    }
}

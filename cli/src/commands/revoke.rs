//! `postern revoke` and `postern revocations`.

use std::io::Read as _;
use std::path::Path;

use postern_core::wire::revocation::revocation_from_proto;
use postern_proto::admin::v1::{ListRevocationsRequest, RevokeRequest};
use postern_proto::resource::v1::revoked_thing::Thing;
use postern_proto::resource::v1::{ClaimName, Everything, PrincipalName, Revocation, RevokedThing, TokenName};
use postern_runtime::clock;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::when;
use crate::args::{ConnectionArgs, Format};
use crate::client::{self, Client, Settings, connect, refused};
use crate::failure::Failure;
use crate::output;
use crate::revoke_args::{RevocationsCommand, RevokeCommand, Why};

/// Larger than any token.
const MAX_INPUT: u64 = 64 << 10;

pub(crate) async fn run(command: &RevokeCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    // A token that is not named is one that was given: a login is ended by `postern logout`.
    let given = matches!(command, RevokeCommand::Token { ids, file: None, .. } if ids.is_empty());
    let mut settings = if given { Settings::resolve(connection)? } else { Settings::acting(connection).await? };
    let mut request = RevokeRequest { request_id: clock::request_id().to_string(), ..Default::default() };
    let mut thing = |thing: Thing| request.things.push(RevokedThing { thing: Some(thing) });
    let (before, Why { reason }) = match command {
        RevokeCommand::Token { ids, file, subtree, issuer, why } => {
            for id in ids {
                let issuer = issuer.as_ref().map(ToString::to_string).unwrap_or_default();
                let name = TokenName { id: id.clone(), issuer };
                thing(if *subtree { Thing::Subtree(name) } else { Thing::Token(name) });
            }
            let shown = match file {
                Some(file) => Some(shown(file)?),
                // The token itself is what is shown, and all that is needed.
                None if ids.is_empty() => {
                    let token = settings.token.take();
                    let none = || Failure::usage("which token? give its ID, --file, POSTERN_TOKEN or --token-file");
                    Some(token.ok_or_else(none)?)
                }
                None => None,
            };
            request.token = shown.map(|token| token.expose_secret().trim().to_owned()).unwrap_or_default();
            request.subtree = *subtree;
            (None, why)
        }
        RevokeCommand::Principal { principal, before, why } => {
            let (issuer, subject) = principal.split_once('/').ok_or_else(|| Failure::usage("say ISSUER/SUBJECT"))?;
            thing(Thing::Principal(PrincipalName { issuer: issuer.to_owned(), subject: subject.to_owned() }));
            (before.before.0, why)
        }
        RevokeCommand::Claim { issuer, claim, before, why } => {
            let (claim, value) = claim.split_once('=').ok_or_else(|| Failure::usage("say CLAIM=VALUE"))?;
            let (claim, value) = (claim.to_owned(), value.to_owned());
            thing(Thing::Claim(ClaimName { issuer: issuer.to_string(), claim, value }));
            (before.before.0, why)
        }
        RevokeCommand::Issuer { name, before, why } => {
            thing(Thing::Issuer(name.to_string()));
            (before.before.0, why)
        }
        RevokeCommand::All { before, why } => {
            thing(Thing::All(Everything {}));
            (before.0, why)
        }
    };
    request.issued_before = before;
    request.because.clone_from(reason);
    let client = Client::connect(&settings).await?;
    let answer = client.revocations().revoke(request).await.map_err(refused)?.into_inner();
    if answer.revocations.is_empty() {
        output::note("the token has ended by itself: there is nothing to revoke");
    }
    for revocation in &answer.revocations {
        let (of, issued) = (of(revocation), when(revocation.issued_before.as_ref()));
        let issued = if issued.is_empty() { issued } else { format!(", issued until {issued}") };
        output::line(format!("revoked: {of}{issued}; kept until {}", when(revocation.until.as_ref())))?;
    }
    Ok(())
}

fn shown(file: &Path) -> Result<SecretString, Failure> {
    if file != Path::new("-") {
        return Ok(SecretString::from(client::read(file)?));
    }
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text)?;
    Ok(SecretString::from(text))
}

fn of(revocation: &Revocation) -> String {
    revocation_from_proto(revocation.clone()).map(|revocation| revocation.of.to_string()).unwrap_or_default()
}

pub(crate) async fn list(command: &RevocationsCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    let RevocationsCommand::List { output } = command;
    let client = connect(connection).await?;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRevocationsRequest { page_size: 1_000, page_token };
        let answer = client.revocations().list_revocations(request).await.map_err(refused)?.into_inner();
        all.extend(answer.revocations);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    all.sort_by_key(|revocation| revocation.revision);
    let cells = |revocation: &Revocation| {
        let by = if revocation.by.is_empty() { "its bearer".to_owned() } else { revocation.by.clone() };
        [
            of(revocation),
            when(revocation.issued_before.as_ref()),
            when(revocation.at.as_ref()),
            when(revocation.until.as_ref()),
            by,
            revocation.because.clone(),
        ]
    };
    match output.format.unwrap_or_default() {
        Format::Table => {
            let rows: Vec<_> = all.iter().map(|revocation| cells(revocation).to_vec()).collect();
            output::table(&["REVOKED", "ISSUED UNTIL", "AT", "KEPT UNTIL", "BY", "BECAUSE"], &rows)
        }
        format => {
            let value = |revocation: &Revocation| {
                let [of, issued_before, at, until, by, because] = cells(revocation);
                json!({
                    "revoked": of, "issuedBefore": issued_before, "at": at, "until": until, "by": by,
                    "because": because, "revision": revocation.revision,
                })
            };
            let values: Vec<_> = all.iter().map(value).collect();
            if format == Format::Yaml { output::yaml(&values) } else { output::json(&json!(values)) }
        }
    }
}

//! Revocations of tokens.

use postern_proto::resource::v1 as pb;
use postern_proto::resource::v1::revoked_thing::Thing;

use super::{WireError, parse, timestamp_or_zero, timestamp_to_proto};
use crate::kept::KeptClaims;
use crate::principal::PrincipalId;
use crate::revocation::{Revocation, Revoked, TokenName};
use crate::token::SESSION_TOKEN_ISSUER;

/// Bytes of a token's id or of a subject: as they are read of tokens.
const MAX_NAME: usize = 255;

/// To protobuf.
#[must_use]
pub fn revoked_to_proto(of: &Revoked) -> pb::RevokedThing {
    let token = |token: &TokenName| pb::TokenName {
        id: token.id.to_string(),
        issuer: Some(token.issuer.to_string()).filter(|issuer| issuer != SESSION_TOKEN_ISSUER).unwrap_or_default(),
    };
    let thing = match of {
        Revoked::Token(name) => Thing::Token(token(name)),
        Revoked::Subtree(name) => Thing::Subtree(token(name)),
        Revoked::Principal(id) => {
            Thing::Principal(pb::PrincipalName { issuer: id.issuer.to_string(), subject: id.subject.to_string() })
        }
        Revoked::Issuer(issuer) => Thing::Issuer(issuer.to_string()),
        Revoked::Claim { issuer, claim, value } => Thing::Claim(pb::ClaimName {
            issuer: issuer.to_string(),
            claim: claim.to_string(),
            value: value.to_string(),
        }),
        Revoked::SigningKey(kid) => Thing::SigningKey(kid.to_string()),
        Revoked::Session(id) => Thing::Session(id.to_string()),
        Revoked::All => Thing::All(pb::Everything {}),
    };
    pb::RevokedThing { thing: Some(thing) }
}

/// From protobuf.
///
/// # Errors
/// When something in it is no name, or too long.
pub fn revoked_from_proto(thing: pb::RevokedThing) -> Result<Revoked, WireError> {
    let text = |field: &str, text: String, most: usize| {
        if text.is_empty() || text.len() > most || text.chars().any(char::is_control) {
            return Err(WireError::new(
                field,
                format!("must have 1 to {most} bytes, none of them a control character"),
            ));
        }
        Ok(text.into())
    };
    let token = |name: pb::TokenName| {
        let issuer = if name.issuer.is_empty() { SESSION_TOKEN_ISSUER } else { &name.issuer };
        Ok(TokenName { issuer: parse("token.issuer", issuer)?, id: text("token.id", name.id, MAX_NAME)? })
    };
    Ok(match thing.thing.ok_or_else(|| WireError::new("of", "is missing, or not known to this version"))? {
        Thing::Token(name) => Revoked::Token(token(name)?),
        Thing::Subtree(name) => Revoked::Subtree(token(name)?),
        Thing::Principal(name) => Revoked::Principal(PrincipalId {
            issuer: parse("principal.issuer", &name.issuer)?,
            subject: text("principal.subject", name.subject, MAX_NAME)?,
        }),
        Thing::Issuer(issuer) => Revoked::Issuer(parse("issuer", &issuer)?),
        Thing::Claim(name) => Revoked::Claim {
            issuer: parse("claim.issuer", &name.issuer)?,
            claim: text("claim.claim", name.claim, KeptClaims::MOST_TEXT)?,
            value: text("claim.value", name.value, KeptClaims::MOST_TEXT)?,
        },
        Thing::SigningKey(kid) => Revoked::SigningKey(text("signing_key", kid, MAX_NAME)?),
        Thing::Session(id) => Revoked::Session(parse("session", &id)?),
        Thing::All(_) => Revoked::All,
    })
}

/// To protobuf.
#[must_use]
pub fn revocation_to_proto(revocation: &Revocation) -> pb::Revocation {
    pb::Revocation {
        of: Some(revoked_to_proto(&revocation.of)),
        issued_before: (!revocation.of.is_timeless()).then(|| timestamp_to_proto(revocation.issued_before)),
        until: Some(timestamp_to_proto(revocation.until)),
        by: revocation.by.clone(),
        because: revocation.because.clone(),
        at: Some(timestamp_to_proto(revocation.at)),
        revision: revocation.revision,
    }
}

/// From protobuf.
///
/// # Errors
/// When something in it is no name, or too long.
pub fn revocation_from_proto(revocation: pb::Revocation) -> Result<Revocation, WireError> {
    Ok(Revocation {
        of: revoked_from_proto(revocation.of.ok_or_else(|| WireError::new("revocation.of", "is missing"))?)?,
        issued_before: timestamp_or_zero(revocation.issued_before.as_ref()),
        until: timestamp_or_zero(revocation.until.as_ref()),
        by: revocation.by,
        because: revocation.because,
        at: timestamp_or_zero(revocation.at.as_ref()),
        revision: revocation.revision,
    })
}

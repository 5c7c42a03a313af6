//! What a session token is made from beside JSON Web Tokens: SAML assertions, and codes of logins in a browser.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postern_core::{Code, Principal};
use postern_runtime::jwt::{TokenError, Verified};
use postern_state::{Refusal, Success};
use tonic::Status;
use tracing::{debug, warn};

use super::access::Access;
use super::call::Call;
use super::status;
use crate::identity::saml::{LoginError, SamlError, SamlLogins};
use crate::raft::RaftHandle;
use crate::serve::PeerInfo;

/// RFC 8693, section 3.
const SAML2: &str = "urn:ietf:params:oauth:token-type:saml2";
const JWTS: [&str; 4] = [
    "",
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:id_token",
    "urn:ietf:params:oauth:token-type:access_token",
];
const LOGIN_CODE: &str = "urn:postern:token-type:login-code";

/// What is presented once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Assertion,
    LoginCode,
}

/// What a subject token is said to be; `None`: a JSON Web Token.
pub(super) fn kind(subject_token_type: &str) -> Result<Option<Kind>, Status> {
    match subject_token_type {
        SAML2 => Ok(Some(Kind::Assertion)),
        LOGIN_CODE => Ok(Some(Kind::LoginCode)),
        jwt if JWTS.contains(&jwt) => Ok(None),
        _ => Err(status::invalid_field("subject_token_type", format!("must be {LOGIN_CODE}, {SAML2} or a JWT's"))),
    }
}

/// Verifies them, and spends them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Logins {
    pub(super) raft: RaftHandle,
    pub(super) saml: SamlLogins,
    pub(super) access: Access,
}

impl Logins {
    /// Who the token is of. It is good for nothing more after that, whatever becomes of the call. Who shows a bad one waits for the answer as with
    /// any bad token.
    pub(super) async fn verified(
        &self,
        call: &Call,
        kind: Kind,
        (token, verifier): (&str, &str),
        peer: Option<&PeerInfo>,
    ) -> Result<Verified, Status> {
        let principal = match kind {
            Kind::LoginCode => self.redeemed(token, verifier, peer).await?,
            Kind::Assertion => self.asserted(call, token, peer).await?,
        };
        Ok(Verified::fresh(principal, self.saml.now()))
    }

    async fn redeemed(&self, code: &str, verifier: &str, peer: Option<&PeerInfo>) -> Result<Principal, Status> {
        // Who it is only the outcome tells: the guard has the call recorded after it, and before it is answered.
        let outcome = self.raft.propose(SamlLogins::redeem(code, verifier), None).await;
        match outcome.map_err(status::propose)? {
            Ok(Success::Login(principal)) => Ok(*principal),
            Ok(_) | Err(Refusal::NotFound { .. }) => {
                let none = TokenError::Claims("no login has that code".to_owned());
                Err(self.access.refused(&none, peer).await)
            }
            Err(refusal) => Err(status::refused(refusal)),
        }
    }

    async fn asserted(&self, call: &Call, token: &str, peer: Option<&PeerInfo>) -> Result<Principal, Status> {
        // RFC 8693, section 2.1: base64url; others are as good.
        let xml = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).or_else(|_| STANDARD.decode(token));
        let presented = match xml {
            Ok(xml) => self.saml.assertion(&xml).await,
            Err(_) => Err(SamlError::Base64.into()),
        };
        let presented = match presented {
            Ok(presented) => presented,
            Err(error) => return Err(self.refused(&error, peer).await),
        };
        call.identified(&presented.principal);
        match call.outcome(&self.raft, presented.spend.into(), None).await.map_err(status::propose)? {
            Ok(_) => Ok(presented.principal),
            Err(Refusal::Spent) => {
                let again = TokenError::Claims("the assertion was presented before".to_owned());
                Err(self.access.refused(&again, peer).await)
            }
            Err(refusal) => Err(status::refused(refusal)),
        }
    }

    /// The details are for the operator; who holds a bad token learns only its code.
    async fn refused(&self, error: &LoginError, peer: Option<&PeerInfo>) -> Status {
        let refusal = match error {
            LoginError::Saml(refusal) => match refusal.code() {
                Code::TokenExpired => TokenError::Expired,
                Code::TokenNotYetValid => TokenError::NotYetValid,
                _ => TokenError::Claims(format!("an assertion: {refusal}")),
            },
            LoginError::NoIssuer => TokenError::Issuer,
            LoginError::Read(_) | LoginError::Propose(_) | LoginError::Sealed(_) => {
                debug!(%error, "an assertion cannot be judged now");
                return Status::unavailable("the control plane is not available: try again");
            }
            LoginError::Refused(refusal) => return status::refused(refusal.clone()),
            LoginError::NoWeb => return Status::failed_precondition(error.to_string()),
            LoginError::Metadata(_) | LoginError::NoKey(_) | LoginError::Key(_) | LoginError::Binding => {
                warn!(%error, "assertions of an issuer cannot be judged");
                return Status::failed_precondition("the issuer's declaration is not usable");
            }
        };
        self.access.refused(&refusal, peer).await
    }
}

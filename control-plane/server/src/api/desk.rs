//! Where session tokens are given out, however they are asked for: over gRPC or as OAuth 2.0 over HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_core::principal::Actor;
use postern_runtime::jwt::{Verified, lets_act};
use tonic::Status;
use tracing::{error, info};
use zeroize::Zeroizing;

use super::access::{Access, Caller};
use super::call::Call;
use super::logins::{self, Logins};
use super::{guard, status};
use crate::bootstrap::ClusterKeys;
use crate::identity::{ExchangeError, Minted, Wanted, exchange};
use crate::serve::PeerInfo;

/// Gives out session tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TokenDesk {
    keys: Arc<ClusterKeys>,
    access: Access,
    logins: Logins,
}

/// A token with what it is said to be (RFC 8693, section 3).
#[derive(Default)]
pub(crate) struct Presented {
    pub(crate) token: Zeroizing<String>,
    pub(crate) kind: String,
}

/// What is asked for.
#[derive(Default)]
pub(crate) struct Ask {
    /// For whom the token is to speak.
    pub(crate) subject: Presented,
    /// With a login code: what its challenge was made of.
    pub(crate) code_verifier: String,
    /// Who is to act by it, proven by a token of their own.
    pub(crate) actor: Option<Presented>,
    pub(crate) wanted: Wanted,
}

/// What of a request is at fault, in OAuth's terms; failures of the cluster's own are told by their status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// `invalid_request`: among others the tokens that are shown (RFC 8693, section 2.2.2).
    Request,
    /// `invalid_target`
    Target,
    /// `invalid_scope`
    Scope,
}

/// No token is given.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) at: At,
    pub(crate) status: Status,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { at: At::Request, status }
    }
}

impl TokenDesk {
    pub(super) const fn new(keys: Arc<ClusterKeys>, access: Access, logins: Logins) -> Self {
        Self { keys, access, logins }
    }

    /// A call that comes another way than gRPC: it is recorded as one.
    pub(crate) fn call(&self, method: &str, address: SocketAddr) -> (Arc<Call>, PeerInfo) {
        let peer = PeerInfo { identity: None, serial: None, alt_names: Vec::new(), address };
        let caller = Caller::unknown(Some(&peer));
        (Arc::new(Call::new(caller, method, address.ip().to_string(), &self.access.node)), peer)
    }

    /// Has such a call in the audit log, before it is answered.
    ///
    /// # Errors
    /// It is not there: then nobody is told what came of it.
    pub(crate) async fn recorded(&self, call: &Call, refused: Option<&Status>) -> Result<(), Status> {
        guard::recorded_as_audited(&self.access, call, refused).await
    }

    /// A session token for whoever the subject's token proves, and no more than that.
    ///
    /// # Errors
    /// A token that is shown is not good, or not good for what is asked.
    pub(crate) async fn exchange(&self, call: &Call, peer: Option<&PeerInfo>, ask: Ask) -> Result<Minted, Refused> {
        let Ask { subject, code_verifier, actor, mut wanted } = ask;
        let kind = logins::kind(&subject.kind)?;
        let shown = subject.token.trim();
        let verified = match kind {
            Some(kind) => self.logins.verified(call, kind, (shown, &code_verifier), peer).await?,
            None => self.access.verify(shown, peer).await?,
        };
        call.identified(&verified.principal);
        self.access.still_trusted(&verified).await?;
        if let Some(actor) = actor {
            self.acts(&mut wanted, (&actor, peer), shown).await?;
        }
        self.mint(call, verified, wanted)
    }

    /// Signs it.
    ///
    /// # Errors
    /// It would be more than `subject` is, or longer.
    pub(super) fn mint(&self, call: &Call, subject: Verified, wanted: Wanted) -> Result<Minted, Refused> {
        for target in &wanted.scope.targets {
            call.about(format_args!("Target/{target}"));
        }
        let principal = subject.principal.clone();
        let minted = exchange(&self.keys.signer, &self.keys.cluster.id, subject, wanted, self.keys.clock.now());
        let minted = minted.map_err(refused)?;
        metrics::counter!("postern_control_tokens_minted_total").increment(1);
        let from = principal.token_id.as_deref();
        info!(%principal, token_id = minted.id, from, expires_at = %minted.expires_at, "a session token was made");
        Ok(minted)
    }

    /// Puts who is proven by `actor` into what is wanted: the token names them, and ends with their own.
    async fn acts(
        &self,
        wanted: &mut Wanted,
        (actor, peer): (&Presented, Option<&PeerInfo>),
        subject: &str,
    ) -> Result<(), Refused> {
        if logins::kind(&actor.kind).ok().flatten().is_some() {
            return Err(status::invalid_field("actor_token_type", "an actor shows a JSON Web Token").into());
        }
        if wanted.actor.is_some() {
            return Err(status::invalid_field("actor", "names the actor that actor_token proves").into());
        }
        let shown = actor.token.trim();
        let verified = self.access.verify(shown, peer).await?;
        self.access.still_trusted(&verified).await?;
        if !lets_act(subject, shown) {
            let status = Status::permission_denied("the subject token says that somebody else may act (may_act)");
            return Err(status::with_reason(status, "MAY_NOT_ACT").into());
        }
        let principal = verified.principal;
        wanted.actor = Some(Actor { issuer: Some(principal.id.issuer), name: principal.id.subject });
        wanted.until = principal.expires_at;
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn refused(error: ExchangeError) -> Refused {
    let (at, status) = match &error {
        ExchangeError::TooMany(_) => (At::Scope, status::invalid_field("scope", &error)),
        ExchangeError::TooDeep => (At::Request, Status::failed_precondition(error.to_string())),
        ExchangeError::TooLong(_) => (At::Request, status::invalid_field("ttl_seconds", &error)),
        ExchangeError::Wider(_) => (At::Target, Status::permission_denied(error.to_string())),
        ExchangeError::Expired => (At::Request, Status::unauthenticated(error.to_string())),
        ExchangeError::Sign(_) => {
            error!(%error, "no session token");
            (At::Request, Status::internal("the token cannot be signed"))
        }
    };
    Refused { at, status }
}

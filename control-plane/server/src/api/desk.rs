//! Where session tokens are given out, however they are asked for: over gRPC or as OAuth 2.0 over HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use http::HeaderMap;
use postern_core::job::Job;
use postern_core::kept::KeptClaims;
use postern_core::operation::Digest;
use postern_core::principal::Actor;
use postern_core::resource::{Kind, Spec};
use postern_core::scope::Network;
use postern_core::service_account::ServiceAccount;
use postern_core::{Name, Principal};
use postern_runtime::jwt::{ClientAssertion, Proof, TokenError, Verified, lets_act, unverified_issuer};
use postern_state::Refusal;
use postern_state::commands::AcceptAssertion;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::{debug, error, info};
use zeroize::Zeroizing;

use super::access::{Access, Caller};
use super::call::Call;
use super::grants::{Object, Verb};
use super::jobs::Jobs;
use super::logins::{self, Logins};
use super::{guard, proof, revocations, status};
use crate::bootstrap::ClusterKeys;
use crate::identity::{ExchangeError, Introspected, Minted, Signers, Wanted, exchange};
use crate::serve::PeerInfo;

/// What a service account shows for itself (RFC 7523, section 2.2), as a kind of subject token.
pub(crate) const CLIENT_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Gives out session tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TokenDesk {
    keys: Arc<ClusterKeys>,
    signers: Signers,
    access: Access,
    logins: Logins,
    jobs: Jobs,
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
    /// By a key: the token is bound to it, and tokens that are shown may be.
    pub(crate) proof: Option<Proof>,
    pub(crate) wanted: Wanted,
}

/// What of a request is at fault, in OAuth's terms; failures of the cluster's own are told by their status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// `invalid_request`: among others the tokens that are shown (RFC 8693, section 2.2.2).
    Request,
    /// `invalid_client`
    Client,
    /// `insufficient_scope` (RFC 6750, section 3.1): they are who they say, and may not.
    Forbidden,
    /// `unsupported_token_type` (RFC 7009, section 2.2.1)
    Kind,
    /// `invalid_target`
    Target,
    /// `invalid_scope`
    Scope,
    /// `invalid_dpop_proof` (RFC 9449, section 5)
    Proof,
    /// `use_dpop_nonce` (RFC 9449, section 8)
    Nonce,
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
    pub(super) const fn new(
        keys: Arc<ClusterKeys>,
        signers: Signers,
        access: Access,
        logins: Logins,
        jobs: Jobs,
    ) -> Self {
        Self { keys, signers, access, logins, jobs }
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
        let Ask { subject, code_verifier, actor, mut proof, mut wanted } = ask;
        if subject.kind == CLIENT_ASSERTION {
            let peer = peer.ok_or_else(|| Status::internal("a call without a connection"))?;
            if actor.is_some() {
                return Err(status::invalid_field("actor_token", "a service account acts for itself").into());
            }
            let audience = proof::url("");
            let shown = (subject.token.trim(), &[&*audience][..]);
            return self.for_client(call, peer, shown, (wanted, proof)).await;
        }
        let kind = logins::kind(&subject.kind)?;
        let shown = subject.token.trim();
        let verified = match kind {
            Some(kind) => self.logins.verified(call, kind, (shown, &code_verifier), peer).await?,
            None => self.access.verify(shown, peer, proof.as_ref()).await?,
        };
        call.identified(&verified.principal);
        self.access.still_trusted(&verified).await?;
        if let Some(actor) = actor {
            self.acts(&mut wanted, (&actor, peer, proof.as_ref()), shown).await?;
        }
        if let Some(proof) = &mut proof {
            self.access.take(proof, shown, peer).await?;
            self.bind(&mut wanted, proof, peer).await?;
        }
        if wanted.scope.uses.is_some() {
            self.access.counts().await?;
        }
        self.give(call, verified, wanted).await
    }

    /// A session token for a service account that proves who it is. `audiences`: what it may call this server.
    ///
    /// # Errors
    /// It does not prove it; or is not good for what is asked.
    pub(crate) async fn for_client(
        &self,
        call: &Call,
        peer: &PeerInfo,
        (assertion, audiences): (&str, &[&str]),
        (mut wanted, proof): (Wanted, Option<Proof>),
    ) -> Result<Minted, Refused> {
        let (name, account) = self.client(call, peer, assertion, audiences).await?;
        if let Some(mut proof) = proof {
            self.bind(&mut wanted, &mut proof, Some(peer)).await?;
        }
        if wanted.scope.networks.is_empty() {
            wanted.scope.networks.clone_from(&account.networks);
        } else if !account.networks.is_empty() {
            let own = |asked: &Network| account.networks.iter().any(|network| network.holds(asked));
            if !wanted.scope.networks.iter().all(own) {
                let status = Status::permission_denied("a network in the scope is not one of the service account's");
                return Err(Refused { at: At::Scope, status });
            }
        }
        wanted.most = account.max_token_ttl;
        let unnamed = || Status::internal("a service account's principal has no name");
        let principal = Principal {
            id: ServiceAccount::id(&name).ok_or_else(unnamed)?,
            groups: account.groups,
            token_id: None,
            expires_at: None,
            claims: KeptClaims::default(),
            chain: Vec::new(),
        };
        call.identified(&principal);
        let verified = Verified::fresh(principal, self.access.clock.now());
        self.give(call, verified, wanted).await
    }

    /// Which service account shows `assertion`, which is good for nothing more after that.
    ///
    /// # Errors
    /// One answer, as late as for any bad token, for an account that is not there, that is disabled, and for a bad assertion.
    pub(crate) async fn client(
        &self,
        call: &Call,
        peer: &PeerInfo,
        assertion: &str,
        audiences: &[&str],
    ) -> Result<(Name, ServiceAccount), Refused> {
        match self.proven(call, peer, assertion, audiences).await? {
            Ok(known) => Ok(known),
            Err(error) => Err(Refused { at: At::Client, status: self.access.refused(&error, Some(peer)).await }),
        }
    }

    async fn proven(
        &self,
        call: &Call,
        peer: &PeerInfo,
        assertion: &str,
        audiences: &[&str],
    ) -> Result<Result<(Name, ServiceAccount), TokenError>, Status> {
        let no_such = || TokenError::Claims("no service account is meant".to_owned());
        let Some(name) = unverified_issuer(assertion).and_then(|client| client.parse::<Name>().ok()) else {
            return Ok(Err(no_such()));
        };
        let of = name.clone();
        let account = self.logins.raft.read(move |state| match &state.resource(Kind::ServiceAccount, &of)?.spec {
            Spec::ServiceAccount(account) if !account.disabled => Some(account.clone()),
            _ => None,
        });
        let Some(account) = account.await.map_err(status::read)? else { return Ok(Err(no_such())) };
        let now = self.access.clock.now();
        let shown = match ClientAssertion::verify(assertion, (name.as_str(), &account), audiences, now) {
            Ok(shown) => shown,
            // Of this account alone, and the caller's failing as any.
            Err(TokenError::KeysUnavailable) => return Ok(Err(TokenError::UnknownKey)),
            Err(error) => return Ok(Err(error)),
        };
        let from = peer.address.ip();
        if !account.networks.is_empty() && !account.networks.iter().any(|network| network.contains(from)) {
            return Ok(Err(TokenError::Network));
        }
        call.about(format_args!("ServiceAccount/{name}"));
        let spend = AcceptAssertion { once: vec![spent_by(&name, &shown.id)], until: shown.until, login: None };
        match self.logins.raft.propose(spend, None).await.map_err(status::propose)? {
            Ok(_) => Ok(Ok((name, account))),
            Err(Refusal::Spent) => Ok(Err(TokenError::Claims("the assertion was presented before".to_owned()))),
            Err(refusal) => Err(status::refused(refusal)),
        }
    }

    /// Lets who shows a token in a request to `url` ask about others' tokens, if they may.
    ///
    /// # Errors
    /// They are nobody, or may not.
    pub(crate) async fn asker(
        &self,
        call: &Call,
        peer: &PeerInfo,
        headers: &HeaderMap,
        url: &str,
    ) -> Result<(), Refused> {
        let metadata = MetadataMap::from_headers(headers.clone());
        let at = |at: At| move |status: Status| Refused { at, status };
        let identified = self.access.identify(&metadata, Some(peer), ("POST", url)).await;
        let mut caller = identified.map_err(|refused| match refused.at {
            At::Proof | At::Nonce => refused,
            _ => Refused { at: At::Client, ..refused },
        })?;
        if let Some(principal) = caller.maybe_principal() {
            call.identified(principal);
        }
        self.access.look_up(&mut caller).await.map_err(at(At::Client))?;
        caller.must(Object::Tokens, Verb::Get).map_err(at(At::Forbidden))
    }

    /// What a token is worth now (RFC 7662); `None`: nothing.
    ///
    /// # Errors
    /// It cannot be told now.
    pub(crate) async fn introspect(&self, token: &str) -> Result<Option<Verified>, Status> {
        match self.access.introspect(token.trim()).await? {
            Introspected::Active(verified) => Ok(Some(*verified)),
            Introspected::Inactive(error) => {
                debug!(%error, "a token that was asked about is not active");
                Ok(None)
            }
        }
    }

    /// Revokes a token, and all that was made of it, for whoever has it (RFC 7009). A token that is none is revoked already.
    ///
    /// # Errors
    /// It cannot be revoked so, or not now.
    pub(crate) async fn revoke(&self, call: &Call, peer: &PeerInfo, token: &str) -> Result<(), Refused> {
        let service = revocations::Service { raft: self.logins.raft.clone(), access: self.access.clone() };
        match service.revoke_shown(call, (token, "by its bearer"), peer).await {
            Err(status) if status.code() == tonic::Code::Unauthenticated => Ok(()),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => Err(Refused { at: At::Kind, status }),
            Err(status) if status.code() == tonic::Code::PermissionDenied => Err(Refused { at: At::Forbidden, status }),
            done => Ok(done?),
        }
    }

    /// That the job is alive which the token is tied to, or one that it was made from: the nearest.
    ///
    /// # Errors
    /// The token is not good, there is no such job, or it cannot be taken down now.
    pub(crate) async fn beat(
        &self,
        call: &Call,
        peer: &PeerInfo,
        (token, mut proof): (&str, Option<Proof>),
    ) -> Result<Arc<Job>, Refused> {
        let (token, peer) = (token.trim(), Some(peer));
        let verified = self.access.verify(token, peer, proof.as_ref()).await?;
        if let Some(proof) = &mut proof {
            self.access.take(proof, token, peer).await?;
        }
        call.identified(&verified.principal);
        self.access.still_trusted(&verified).await?;
        Ok(self.jobs.heard_of(&verified.principal, "").await?)
    }

    /// Signs it, and has it tied to its job before anybody has it.
    async fn give(&self, call: &Call, subject: Verified, wanted: Wanted) -> Result<Minted, Refused> {
        let mut minted = self.mint(call, subject, wanted).await?;
        if let Some(job) = minted.job.take() {
            self.jobs.start(call, job).await?;
        }
        Ok(minted)
    }

    /// Signs it.
    ///
    /// # Errors
    /// It would be more than `subject` is, or longer.
    async fn mint(&self, call: &Call, subject: Verified, mut wanted: Wanted) -> Result<Minted, Refused> {
        // Of the issuer that the first proof is of, also for a child: it says how long its principals' tokens live.
        if let Some((issuer, _)) = self.access.policy().snapshot.issuers.get(&subject.principal.id.issuer) {
            wanted.most = [wanted.most, issuer.max_token_ttl.map(|ttl| ttl.0)].into_iter().flatten().min();
            wanted.usual = issuer.token_ttl.map(|ttl| ttl.0);
        }
        for target in &wanted.scope.targets {
            call.about(format_args!("Target/{target}"));
        }
        let principal = subject.principal.clone();
        let signer = self.signers.ready().await.ok_or_else(no_signer)?;
        let minted = exchange(&signer, &self.keys.cluster.id, subject, wanted, self.keys.clock.now());
        let minted = minted.map_err(refused)?;
        metrics::counter!("postern_control_tokens_minted_total").increment(1);
        let from = principal.token_id.as_deref();
        info!(%principal, token_id = minted.id, from, expires_at = %minted.expires_at, "a session token was made");
        Ok(minted)
    }

    /// Takes the proof that a token is asked for with, and binds the token to its key, unless it is to be bound to something else: then whoever saw the
    /// proof must not get another so, from any member.
    async fn bind(&self, wanted: &mut Wanted, proof: &mut Proof, peer: Option<&PeerInfo>) -> Result<(), Refused> {
        self.access.spend(proof, peer).await?;
        match &wanted.confirmation {
            None => wanted.confirmation = Some(proof.confirmation()),
            Some(own) if *own == proof.confirmation() => {}
            Some(_) => self.access.spend_everywhere(&self.logins.raft, proof, peer).await?,
        }
        Ok(())
    }

    /// The proof of possession that came with a request over HTTPS to `url`.
    ///
    /// # Errors
    /// It is no good.
    pub(crate) async fn proof(
        &self,
        peer: &PeerInfo,
        headers: &HeaderMap,
        url: &str,
    ) -> Result<Option<Proof>, Refused> {
        let metadata = MetadataMap::from_headers(headers.clone());
        self.access.proof(&metadata, ("POST", url), Some(peer)).await
    }

    /// The nonce for the next proof of who has sent one; none where none is demanded.
    pub(crate) fn next_nonce(&self, headers: &HeaderMap) -> Option<http::HeaderValue> {
        self.access.next_nonce(headers)
    }

    /// Puts who is proven by `actor` into what is wanted: the token names them, and ends with their own.
    async fn acts(
        &self,
        wanted: &mut Wanted,
        (actor, peer, proof): (&Presented, Option<&PeerInfo>, Option<&Proof>),
        subject: &str,
    ) -> Result<(), Refused> {
        if logins::kind(&actor.kind).ok().flatten().is_some() {
            return Err(status::invalid_field("actor_token_type", "an actor shows a JSON Web Token").into());
        }
        if wanted.actor.is_some() {
            return Err(status::invalid_field("actor", "names the actor that actor_token proves").into());
        }
        let shown = actor.token.trim();
        let verified = self.access.verify(shown, peer, proof).await?;
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

/// It was said in the log when it did not open.
fn no_signer() -> Status {
    let status = Status::unavailable("this member cannot sign tokens now: its signing key is not open yet");
    status::with_reason(status, "NO_SIGNING_KEY")
}

/// By which the cluster knows that an assertion was presented: apart from those of SAML, and each client's apart. (No name has a zero in it.)
fn spent_by(client: &Name, id: &str) -> Digest {
    let bytes = [b"client-assertion\0", client.as_str().as_bytes(), b"\0", id.as_bytes()].concat();
    Digest::from_slice(digest::digest(&SHA256, &bytes).as_ref()).unwrap_or(Digest([0; 32]))
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

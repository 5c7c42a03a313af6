//! Who calls, and what they may ask for.
//!
//! A caller shows a client certificate of the cluster (verified by TLS), a token (OIDC or session token; with a proof, if it is bound to a key), or both. A token that
//! is shown and not accepted refuses the call, whatever the certificate says. [`super::guard`] asks here before any service is reached;
//! services find what it learned as the request's [`Call`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::revocation::Bearer;
use postern_core::role::BUILT_IN;
use postern_core::{Name, Principal};
use postern_runtime::failures::{Failures, network};
use postern_runtime::jwt::{KeyError, Proof, Proofs, TokenError, Verified};
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use tracing::debug;

use super::audit_log::AuditLog;
use super::call::Call;
use super::desk::Refused;
use super::grants::{BuiltIn, Grants, Object, Verb};
use super::permissions::{Needs, any_kind};
use super::proof;
use super::roles::{Now, Roles};
use super::status;
use crate::config::ControlConfig;
use crate::feed::Policy;
use crate::identity::{Demanded, Introspected, KeyDemand};
use crate::raft::{RaftHandle, StampClock};
use crate::run::PolicyWatch;
use crate::serve::PeerInfo;

/// Callers that wait to be told that their token is refused; who comes beyond is told at once that there are too many.
const MAX_LATE: usize = 256;
/// How long a caller whose token's key is unknown waits for its issuer's new keys.
const NEW_KEYS: Duration = Duration::from_secs(4);

/// From this feature level on uses of tokens are counted.
const COUNTS: u32 = 4;

/// Decides who may call what. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    policy: PolicyWatch,
    groups: Arc<Groups>,
    roles: Roles,
    pub(super) audit: AuditLog,
    /// What tokens end by: this node's own clock may be wrong.
    pub(super) clock: StampClock,
    failures: Arc<Failures>,
    /// Places for those who wait to be told that their token is refused.
    late: Arc<Semaphore>,
    /// For tokens whose key is unknown.
    pub(super) demand: KeyDemand,
    /// What was shown to this node.
    pub(super) proofs: Arc<Proofs>,
    /// This node's name, for the audit log.
    pub(super) node: Arc<str>,
}

/// From the configuration: they hold also when no role is bound.
struct Groups {
    admin: Vec<String>,
    auditor: Vec<String>,
}

/// Who calls.
#[derive(Clone)]
pub(crate) struct Caller {
    node: Option<NodeIdentity>,
    principal: Option<Principal>,
    /// What a revocation of the token can go by.
    bearer: Option<Bearer>,
    /// The token is a session token.
    session: bool,
    /// What came with the call, and whether it went with the token.
    proof: Option<Proof>,
    grants: Grants,
    roles: Vec<String>,
}

impl Access {
    pub(crate) fn new(
        policy: PolicyWatch,
        config: &ControlConfig,
        raft: RaftHandle,
        audit: AuditLog,
        demand: KeyDemand,
    ) -> Result<Self, KeyError> {
        let groups = Groups { admin: config.admin_groups.clone(), auditor: config.auditor_groups.clone() };
        let node = config.node_name.as_ref().map_or("control-1", Name::as_str).into();
        let (clock, late) = (raft.stamps().clone(), Arc::new(Semaphore::new(MAX_LATE)));
        let proofs = Arc::new(Proofs::new(config.dpop_nonces, clock.now())?);
        Ok(Self {
            policy,
            groups: Arc::new(groups),
            roles: Roles::new(raft),
            audit,
            clock,
            failures: Arc::default(),
            late,
            demand,
            proofs,
            node,
        })
    }

    /// Who calls; nobody in particular is a caller too. Their permissions are still to be looked up.
    pub(super) async fn identify(
        &self,
        metadata: &MetadataMap,
        peer: Option<&PeerInfo>,
        request: proof::Request<'_>,
    ) -> Result<Caller, Refused> {
        let node = peer.and_then(|peer| peer.identity.clone());
        let mut proof = self.proof(metadata, request, peer).await?;
        let verified = self.shown(metadata, peer, proof.as_mut()).await?;
        let session = verified.as_ref().is_some_and(|verified| verified.depth.is_some());
        let (principal, bearer) = verified.map(|verified| (verified.principal, verified.bearer)).unzip();
        Ok(Caller { node, principal, bearer, session, proof, grants: Grants::default(), roles: Vec::new() })
    }

    /// Looks up what the caller may do: linearizably, so that a role that was taken away is gone, and so is an issuer.
    pub(super) async fn look_up(&self, caller: &mut Caller) -> Result<(), Status> {
        let bound = if caller.principal.is_some() { Some(self.roles.now().await?) } else { None };
        self.grant(caller, bound.as_ref())
    }

    /// As [`Self::look_up`], for one who was admitted before: by what was so at most `age` ago.
    pub(super) async fn look_up_lately(&self, caller: &mut Caller, age: Duration) -> Result<(), Status> {
        let bound = if caller.principal.is_some() { Some(self.roles.lately(age).await?) } else { None };
        self.grant(caller, bound.as_ref())
    }

    /// As [`Self::look_up`], for one who was admitted before: by what this node has applied, `revision` at least.
    pub(super) async fn look_up_since(&self, caller: &mut Caller, revision: u64) -> Result<(), Status> {
        let bound = if caller.principal.is_some() { Some(self.roles.since(revision).await?) } else { None };
        self.grant(caller, bound.as_ref())
    }

    fn grant(&self, caller: &mut Caller, now: Option<&Now>) -> Result<(), Status> {
        (caller.grants, caller.roles) = (Grants::default(), Vec::new());
        let mut hold = |role: BuiltIn, name: &str| {
            caller.grants.union(&role.grants());
            caller.roles.push(name.to_owned());
        };
        if caller.node.as_ref().is_some_and(|node| node.role == NodeRole::Admin) {
            hold(BuiltIn::Admin, "admin");
        }
        let (Some(principal), Some(now)) = (&caller.principal, now) else { return Ok(()) };
        trusted(now, principal, caller.bearer.as_ref())?;
        let by_group = if principal.in_any(&self.groups.admin) {
            Some((BuiltIn::Admin, "admin"))
        } else if principal.in_any(&self.groups.auditor) {
            Some((BuiltIn::Auditor, "auditor"))
        } else {
            None
        };
        // A token that was narrowed or handed on is to do work at targets, not to rule, unless it says which roles it carries.
        if let Some((role, name)) = by_group.filter(|(_, name)| principal.carries(name)) {
            hold(role, name);
        }
        let (grants, roles) = now.bound.of(principal, |role| principal.carries(role));
        caller.grants.union(&grants);
        caller.roles.extend(roles);
        if !principal.is_whole() {
            // Who holds more may hand on less.
            let mut whole = now.bound.of(principal, |_| true).0;
            whole.union(&by_group.map_or_else(Grants::default, |(role, _)| role.grants()));
            for name in BUILT_IN.into_iter().filter(|name| principal.carries(name)) {
                if let Some(grants) =
                    BuiltIn::from_name(name).map(BuiltIn::grants).filter(|grants| whole.covers(grants))
                {
                    caller.grants.union(&grants);
                    caller.roles.push(name.to_owned());
                }
            }
        }
        caller.roles.sort();
        caller.roles.dedup();
        Ok(())
    }

    /// Refuses who was revoked, or whose issuer is trusted no more, linearizably: the policy here may be a moment behind.
    pub(super) async fn still_trusted(&self, verified: &Verified) -> Result<(), Status> {
        trusted(&self.roles.now().await?, &verified.principal, Some(&verified.bearer))
    }

    /// Refuses while there are members that cannot count uses of tokens.
    pub(super) async fn counts(&self) -> Result<(), Status> {
        if self.roles.level().await? >= COUNTS {
            return Ok(());
        }
        let text = format!("a number of uses needs feature level {COUNTS}: upgrade every member");
        Err(status::with_reason(Status::failed_precondition(text), "FEATURE_LEVEL"))
    }

    /// What a token says, if it is to be believed.
    pub(super) async fn verify(
        &self,
        token: &str,
        peer: Option<&PeerInfo>,
        proof: Option<&Proof>,
    ) -> Result<Verified, Status> {
        let mut verified = self.by_known_keys(token);
        if matches!(verified, Err(TokenError::UnknownKey)) {
            verified = self.by_new_keys(token).await;
        }
        let verified = verified.and_then(|verified| {
            let from = peer.map(|peer| peer.address.ip());
            verified.shown_by(from, None, proof.map(Proof::key)).map(|()| verified)
        });
        match verified {
            Ok(verified) => Ok(verified),
            Err(error) => Err(self.refused(&error, peer).await),
        }
    }

    /// What who showed a bad token is told; the later, the more of late came from there.
    pub(super) async fn refused(&self, error: &TokenError, peer: Option<&PeerInfo>) -> Status {
        let code = error.code().as_str();
        metrics::counter!("postern_control_auth_failures_total", "code" => code).increment(1);
        let address = peer.map(|peer| peer.address.to_string());
        // The details are for the operator; who holds a bad token learns only its code.
        debug!(%error, address, "a token was refused");
        // Without keys it is not the caller's failing.
        if !matches!(error, TokenError::KeysUnavailable)
            && let Err(many) = self.slow_down(peer).await
        {
            return many;
        }
        refused_token(code)
    }

    /// Waits before somebody is told that they failed; the longer, the more of late did from there.
    ///
    /// # Errors
    /// Too many wait already.
    pub(super) async fn slow_down(&self, peer: Option<&PeerInfo>) -> Result<(), Status> {
        let wait = self.failures.failed(peer.map(|peer| network(peer.address.ip())), Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        metrics::counter!("postern_control_logins_slowed_total").increment(1);
        let Ok(_place) = self.late.try_acquire() else {
            let many = Status::resource_exhausted("too many refused tokens: try again later");
            return Err(status::with_reason(many, "TOO_MANY_FAILURES"));
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The policy as this node has it, which may be a moment behind.
    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }

    fn by_known_keys(&self, token: &str) -> Result<Verified, TokenError> {
        let policy = Arc::clone(&self.policy.borrow());
        let verified = policy.verifier.verify(token, self.clock.now())?;
        if policy.snapshot.revocations.mean(&verified.bearer) { Err(TokenError::Revoked) } else { Ok(verified) }
    }

    /// What a token says that may be on its way out, and whether it is one that is only handed on. Whether it is revoked already does not matter.
    pub(crate) async fn look(&self, token: &str) -> Result<(Verified, bool), TokenError> {
        let policy = Arc::clone(&self.policy.borrow());
        match policy.verifier.verify(token, self.clock.now()) {
            Ok(verified) => Ok((verified, false)),
            Err(TokenError::Delegable) => Ok((policy.verifier.look(token, self.clock.now())?, true)),
            Err(TokenError::UnknownKey) => self.by_new_keys(token).await.map(|verified| (verified, false)),
            Err(error) => Err(error),
        }
    }

    /// What a token is worth now: linearizably, so that what was revoked anywhere is known.
    pub(crate) async fn introspect(&self, token: &str) -> Result<Introspected, Status> {
        let verified = self.look(token).await.and_then(|(verified, handed_on)| match handed_on {
            true => Err(TokenError::Delegable),
            false => Ok(verified),
        });
        let now = self.roles.now().await?;
        Ok(Introspected::of(verified, |verified| {
            !now.bound.trusts(&verified.principal) || now.revocations.mean(&verified.bearer)
        }))
    }

    /// Its issuer may have a new key: looks once, and waits a little for what is found.
    async fn by_new_keys(&self, token: &str) -> Result<Verified, TokenError> {
        let mut policy = self.policy.clone();
        let issuers = policy.borrow_and_update().verifier.claimed_issuers(token);
        let asked = issuers.into_iter().map(|issuer| self.demand.ask(issuer));
        let found = tokio::time::timeout(NEW_KEYS, async {
            if !futures::future::join_all(asked).await.contains(&Demanded::Changed) {
                return Err(TokenError::UnknownKey);
            }
            loop {
                match self.by_known_keys(token) {
                    Err(TokenError::UnknownKey) => {}
                    settled => return settled,
                }
                policy.changed().await.map_err(|_| TokenError::UnknownKey)?;
            }
        });
        found.await.unwrap_or(Err(TokenError::UnknownKey))
    }

    /// The call that `request` is, as the guard let it pass.
    pub(crate) fn call<T>(&self, request: &Request<T>) -> Result<Arc<Call>, Status> {
        request.extensions().get::<Arc<Call>>().cloned().ok_or_else(|| {
            tracing::error!("a request came past the guard");
            Status::internal("the request was not checked")
        })
    }

    /// Who calls. That they may is settled: each method says in [`super::permissions`] what it needs.
    pub(crate) fn admitted<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        Ok(self.call(request)?.caller().clone())
    }

    /// The gateway that calls.
    pub(crate) fn gateway<T>(&self, request: &Request<T>) -> Result<Name, Status> {
        self.call(request)?.caller().gateway().cloned()
    }
}

impl Caller {
    /// Who showed a token that is not believed: of them only the certificate is known.
    pub(super) fn unknown(peer: Option<&PeerInfo>) -> Self {
        let node = peer.and_then(|peer| peer.identity.clone());
        let (grants, roles) = (Grants::default(), Vec::new());
        Self { node, principal: None, bearer: None, session: false, proof: None, grants, roles }
    }

    /// Whether the caller may, by certificate or role.
    pub(crate) fn may(&self, object: Object, verb: Verb) -> bool {
        self.grants.permits(object, verb)
    }

    /// Refuses who may not, in words.
    pub(crate) fn must(&self, object: Object, verb: Verb) -> Result<(), Status> {
        if self.may(object, verb) {
            return Ok(());
        }
        Err(self.refused(&format!("{} of {} is not permitted", verb.as_str(), object.as_str())))
    }

    /// Refuses who would let in more than they are: an administrator may do everything, a member of the control plane holds every key.
    pub(super) fn may_let_in(&self, role: NodeRole) -> Result<(), Status> {
        if self.is_admin() || matches!(role, NodeRole::Gateway | NodeRole::Agent) {
            return Ok(());
        }
        let text = format!("only an administrator lets in a node of role {}", role.as_str());
        Err(status::with_reason(Status::permission_denied(text), "ESCALATION"))
    }

    /// May do everything.
    pub(crate) fn is_admin(&self) -> bool {
        self.grants == Grants::ALL
    }

    /// May read everything.
    pub(crate) fn is_auditor(&self) -> bool {
        self.grants.covers(&BuiltIn::Auditor.grants())
    }

    pub(super) const fn grants(&self) -> &Grants {
        &self.grants
    }

    pub(super) fn roles(&self) -> &[String] {
        &self.roles
    }

    pub(super) const fn node(&self) -> Option<&NodeIdentity> {
        self.node.as_ref()
    }

    /// Whether what a method needs depends on the caller's roles.
    pub(super) const fn needs_look_up(needs: Needs) -> bool {
        matches!(needs, Needs::Name | Needs::May(..) | Needs::Kinds(_))
    }

    /// Refuses who has not what a method needs.
    pub(super) fn check(&self, needs: Needs) -> Result<(), Status> {
        match needs {
            Needs::Nothing => Ok(()),
            Needs::Name if self.principal.is_some() || self.grants != Grants::default() => Ok(()),
            Needs::Name => Err(self.refused("a principal's token is needed")),
            Needs::May(object, verb) => self.must(object, verb),
            Needs::Kinds(verbs) if any_kind(&self.grants, verbs) => Ok(()),
            Needs::Kinds(_) => Err(self.refused("administration is not permitted")),
            Needs::Gateway => self.gateway().map(drop),
        }
    }

    fn gateway(&self) -> Result<&Name, Status> {
        match &self.node {
            Some(node) if node.role == NodeRole::Gateway => Ok(&node.name),
            Some(_) => Err(forbidden("gateways only")),
            None => Err(no_certificate("a gateway's certificate is needed")),
        }
    }

    /// The person or workload behind the call: only a token tells.
    pub(super) fn principal(&self) -> Result<&Principal, Status> {
        self.principal.as_ref().ok_or_else(|| Status::unauthenticated("a principal's token is needed"))
    }

    /// Who gives their own word in a review. A certificate is no person: n reviewers are n people (I7); and whoever was handed a token may be the one whose
    /// work is reviewed.
    pub(super) fn reviewer(&self) -> Result<&Principal, Status> {
        let reviewer = self.principal()?;
        if reviewer.is_handed_on() {
            let text = "a token that was handed on is no person's word: review with your own";
            return Err(status::with_reason(Status::permission_denied(text), "HANDED_ON"));
        }
        Ok(reviewer)
    }

    /// Whether the token is a session token, and no issuer's.
    pub(super) const fn shows_session_token(&self) -> bool {
        self.session
    }

    /// The proof of possession that came with the call.
    pub(super) const fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    pub(super) const fn maybe_principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// Whether the token, if it is narrowed, is good for `target`.
    pub(super) fn reaches(&self, target: &Name) -> bool {
        self.principal.as_ref().is_none_or(|principal| principal.reaches(target))
    }

    /// Whether `principal` is the caller's own identity.
    pub(super) fn is(&self, principal: &Principal) -> bool {
        self.principal.as_ref().is_some_and(|own| own.shares_identity_with(principal))
    }

    fn refused(&self, why: &str) -> Status {
        if self.principal.is_none() && self.node.is_none() {
            metrics::counter!("postern_control_auth_failures_total", "code" => "no-credential").increment(1);
            let status = Status::unauthenticated("a token or a client certificate is needed");
            return status::with_reason(status, "NO_CREDENTIAL");
        }
        forbidden(why)
    }
}

/// For the log: who did it.
impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.principal, &self.node) {
            (Some(principal), _) => write!(f, "{principal}"),
            (None, Some(node)) => write!(f, "{node}"),
            (None, None) => f.write_str("nobody"),
        }
    }
}

fn trusted(now: &Now, principal: &Principal, bearer: Option<&Bearer>) -> Result<(), Status> {
    let code = match now.bound.trusts(principal) {
        true if bearer.is_some_and(|bearer| now.revocations.mean(bearer)) => TokenError::Revoked.code(),
        true => return Ok(()),
        false => TokenError::Issuer.code(),
    };
    let code = code.as_str();
    metrics::counter!("postern_control_auth_failures_total", "code" => code).increment(1);
    Err(refused_token(code))
}

fn refused_token(code: &str) -> Status {
    status::with_reason(Status::unauthenticated(code), &code.to_ascii_uppercase().replace('-', "_"))
}

fn forbidden(why: &str) -> Status {
    metrics::counter!("postern_control_auth_failures_total", "code" => "forbidden").increment(1);
    status::with_reason(Status::permission_denied(why), "FORBIDDEN")
}

fn no_certificate(why: &str) -> Status {
    metrics::counter!("postern_control_auth_failures_total", "code" => "no-certificate").increment(1);
    status::with_reason(Status::unauthenticated(why), "NO_CERTIFICATE")
}

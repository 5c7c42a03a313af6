//! Who calls, and what they may ask for.
//!
//! A caller shows a client certificate of the cluster (verified by TLS), a bearer token (OIDC or session token), or both. A token that
//! is shown and not accepted refuses the call, whatever the certificate says.

use std::sync::Arc;

use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::{Name, Principal};
use postern_runtime::clock;
use postern_runtime::jwt::Verified;
use tonic::{Request, Status};
use tracing::debug;

use crate::config::ControlConfig;
use crate::run::PolicyWatch;
use crate::serve::PeerInfo;

/// Decides who may call what. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    policy: PolicyWatch,
    groups: Arc<Groups>,
}

struct Groups {
    admin: Vec<String>,
    auditor: Vec<String>,
}

/// Who calls.
pub(super) struct Caller {
    node: Option<NodeIdentity>,
    principal: Option<Principal>,
    /// Of a narrowed token: the targets that it is good for; empty: not narrowed.
    targets: Vec<Name>,
    pub(super) admin: bool,
    pub(super) auditor: bool,
}

impl Access {
    pub(crate) fn new(policy: PolicyWatch, config: &ControlConfig) -> Self {
        let groups = Groups { admin: config.admin_groups.clone(), auditor: config.auditor_groups.clone() };
        Self { policy, groups: Arc::new(groups) }
    }

    /// Who calls; nobody in particular is a caller too.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let node = request.extensions().get::<PeerInfo>().and_then(|peer| peer.identity.clone());
        let verified = match bearer(request)? {
            Some(token) => Some(self.verify(token, request)?),
            None => None,
        };
        let (principal, targets) = match verified {
            Some(Verified { principal, targets }) => (Some(principal), targets),
            None => (None, Vec::new()),
        };
        // A token narrowed to targets is handed on to do work there, not to rule.
        let belongs = |groups: &[String]| {
            targets.is_empty() && principal.as_ref().is_some_and(|principal| principal.in_any(groups))
        };
        let admin = node.as_ref().is_some_and(|node| node.role == NodeRole::Admin) || belongs(&self.groups.admin);
        let auditor = admin || belongs(&self.groups.auditor);
        Ok(Caller { admin, auditor, node, principal, targets })
    }

    /// What a token says, if it is to be believed.
    pub(super) fn verify<T>(&self, token: &str, request: &Request<T>) -> Result<Verified, Status> {
        let policy = Arc::clone(&self.policy.borrow());
        policy.verifier.verify(token, clock::now()).map_err(|error| {
            let code = error.code().as_str();
            metrics::counter!("postern_control_auth_failures_total", "code" => code).increment(1);
            let address = request.extensions().get::<PeerInfo>().map(|peer| peer.address.to_string());
            // The details are for the operator; who holds a bad token learns only its code.
            debug!(%error, address, "a token was refused");
            Status::unauthenticated(code)
        })
    }

    /// An administrator.
    pub(super) fn admin<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller(request)?;
        if caller.admin { Ok(caller) } else { Err(caller.refused("administrators only")) }
    }

    /// An auditor or administrator.
    pub(super) fn auditor<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller(request)?;
        if caller.auditor { Ok(caller) } else { Err(caller.refused("administrators and auditors only")) }
    }

    /// Anybody with a name.
    pub(super) fn known<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller(request)?;
        if caller.principal.is_some() || caller.auditor {
            Ok(caller)
        } else {
            Err(caller.refused("principals, auditors and administrators only"))
        }
    }

    /// A gateway, by its certificate.
    pub(super) fn gateway<T>(&self, request: &Request<T>) -> Result<Name, Status> {
        let node = request.extensions().get::<PeerInfo>().and_then(|peer| peer.identity.as_ref());
        match node {
            Some(node) if node.role == NodeRole::Gateway => Ok(node.name.clone()),
            Some(_) => Err(forbidden("gateways only")),
            None => {
                metrics::counter!("postern_control_auth_failures_total", "code" => "no-certificate").increment(1);
                Err(Status::unauthenticated("a gateway's certificate is needed"))
            }
        }
    }
}

impl Caller {
    /// The person or workload behind the call: only a token tells.
    pub(super) fn principal(&self) -> Result<&Principal, Status> {
        self.principal.as_ref().ok_or_else(|| Status::unauthenticated("a principal's token is needed"))
    }

    pub(super) const fn maybe_principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// Whether the token, if it is narrowed, is good for `target`.
    pub(super) fn reaches(&self, target: &Name) -> bool {
        self.targets.is_empty() || self.targets.contains(target)
    }

    /// Whether `principal` is the caller's own identity.
    pub(super) fn is(&self, principal: &Principal) -> bool {
        self.principal.as_ref().is_some_and(|own| own.shares_identity_with(principal))
    }

    fn refused(&self, who: &str) -> Status {
        if self.principal.is_none() && self.node.is_none() {
            metrics::counter!("postern_control_auth_failures_total", "code" => "no-credential").increment(1);
            return Status::unauthenticated("a token or a client certificate is needed");
        }
        forbidden(who)
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

fn forbidden(who: &str) -> Status {
    metrics::counter!("postern_control_auth_failures_total", "code" => "forbidden").increment(1);
    Status::permission_denied(who)
}

fn bearer<T>(request: &Request<T>) -> Result<Option<&str>, Status> {
    let Some(value) = request.metadata().get("authorization") else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.split_once(' ')).filter(|(scheme, token)| {
        // RFC 6750, section 2.1; RFC 9110, section 11.1: the scheme's case does not count.
        scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()
    });
    match token {
        Some((_, token)) => Ok(Some(token.trim())),
        None => Err(Status::unauthenticated("authorization must be \"Bearer TOKEN\"")),
    }
}

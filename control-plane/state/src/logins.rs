//! Logins by assertions: what was presented and may not be again, and what waits for the client that began it.

use std::sync::Arc;

use postern_core::operation::Digest;
use postern_core::resource::FieldFault;
use postern_core::revocation::Revoked;
use postern_core::wire::identity::{principal_from_proto, principal_with_claims_to_proto};
use postern_core::{Principal, Timestamp};
use postern_proto::state::v1 as pb;

use crate::commands::means;
use crate::entry::fault;
use crate::tree::{Set, Tree};

/// A login that came to an end in a browser and waits for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingLogin {
    /// SHA-256 of the code that the browser was told.
    pub code: Digest,
    /// SHA-256 of a verifier that the client knows; `None`: it began at the identity provider.
    pub challenge: Option<Digest>,
    /// Who logged in.
    pub principal: Principal,
    /// It can be taken until then.
    pub expires_at: Timestamp,
}

impl PendingLogin {
    pub(crate) fn to_proto(&self) -> pb::PendingLogin {
        pb::PendingLogin {
            code: self.code.0.to_vec(),
            challenge: self.challenge.map(|challenge| challenge.0.to_vec()).unwrap_or_default(),
            principal: Some(principal_with_claims_to_proto(&self.principal)),
            expires_at_ms: self.expires_at.millis(),
        }
    }

    pub(crate) fn from_proto(proto: pb::PendingLogin) -> Result<Self, Vec<FieldFault>> {
        let missing = || vec![FieldFault::new("login.principal", "is missing")];
        Ok(Self {
            code: digest("login.code", &proto.code)?,
            challenge: challenge("login.challenge", &proto.challenge)?,
            principal: principal_from_proto(proto.principal.ok_or_else(missing)?).map_err(fault)?,
            expires_at: Timestamp::from_millis(proto.expires_at_ms),
        })
    }
}

pub(crate) fn digest(path: &str, bytes: &[u8]) -> Result<Digest, Vec<FieldFault>> {
    Digest::from_slice(bytes).ok_or_else(|| vec![FieldFault::new(path, "has not 32 bytes")])
}

/// A digest, or none.
pub(crate) fn challenge(path: &str, bytes: &[u8]) -> Result<Option<Digest>, Vec<FieldFault>> {
    if bytes.is_empty() { Ok(None) } else { digest(path, bytes).map(Some) }
}

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logins {
    pub(crate) spent: Tree<[u8; 32], Timestamp>,
    pub(crate) pending: Tree<[u8; 32], Arc<PendingLogin>>,
    // Derived: what ends when.
    spent_end: Set<(Timestamp, [u8; 32])>,
    pending_end: Set<(Timestamp, [u8; 32])>,
}

impl Logins {
    pub(crate) fn spend(&mut self, what: [u8; 32], until: Timestamp) {
        self.spent_end.insert((until, what), ());
        self.spent.insert(what, until);
    }

    pub(crate) fn keep(&mut self, login: PendingLogin) {
        self.pending_end.insert((login.expires_at, login.code.0), ());
        self.pending.insert(login.code.0, Arc::new(login));
    }

    pub(crate) fn take(&mut self, code: &Digest) -> Option<Arc<PendingLogin>> {
        let login = self.pending.remove(&code.0)?;
        self.pending_end.remove(&(login.expires_at, code.0));
        Some(login)
    }

    /// Those who logged in and are revoked now log in anew.
    pub(crate) fn revoke(&mut self, of: &Revoked) {
        let meant = self.pending.values().filter(|login| means(of, &login.principal));
        let meant: Vec<Digest> = meant.map(|login| login.code).collect();
        for code in meant {
            self.take(&code);
        }
    }

    /// Forgets what can not be presented any more.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some(((end, _), ())) = self.spent_end.first_key_value() {
            if *end >= now {
                break;
            }
            let Some(((_, what), ())) = self.spent_end.pop_first() else { break };
            self.spent.remove(&what);
        }
        while let Some(((end, _), ())) = self.pending_end.first_key_value() {
            if *end > now {
                break;
            }
            let Some(((_, code), ())) = self.pending_end.pop_first() else { break };
            self.pending.remove(&code);
        }
    }
}

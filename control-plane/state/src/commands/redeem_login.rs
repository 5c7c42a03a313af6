use postern_core::operation::Digest;
use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::logins::{challenge, digest};
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// Takes a login that waits: once, for whoever knows its code and what its challenge was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeemLogin {
    /// SHA-256 of the code.
    pub code: Digest,
    /// SHA-256 of the verifier; `None`: there is none.
    pub challenge: Option<Digest>,
}

impl RedeemLogin {
    pub(crate) fn to_proto(&self) -> pb::RedeemLogin {
        pb::RedeemLogin {
            code: self.code.0.to_vec(),
            challenge: self.challenge.map(|challenge| challenge.0.to_vec()).unwrap_or_default(),
        }
    }

    pub(crate) fn from_proto(proto: pb::RedeemLogin) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { code: digest("code", &proto.code)?, challenge: challenge("challenge", &proto.challenge)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        // One answer for a code that is none and for one that is another's.
        let none = || Refusal::not_found("login");
        let known = cx.state.logins.pending.get(&self.code.0).ok_or_else(none)?;
        if known.challenge != self.challenge {
            return Err(none());
        }
        let login = cx.state.logins.take(&self.code).ok_or_else(none)?;
        Ok(Success::Login(Box::new(login.principal.clone())))
    }
}

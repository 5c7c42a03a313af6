//! Entries of the log, and their encoding.

use pb::entry::Command as Proto;
use postern_core::audit::AuditRecord;
use postern_core::resource::FieldFault;
use postern_core::wire::WireError;
use postern_core::wire::cluster::{audit_from_proto, audit_to_proto};
use postern_core::{RequestId, Timestamp};
use postern_proto::state::v1 as pb;
use prost::Message as _;

use crate::commands::{
    AcceptAssertion, AddRecordingKey, BeatJobs, CloseReview, CloseSession, ConsumeApproval, CosignLogHead,
    CreateJoinToken, DeleteJoinToken, DeleteResource, EndAccess, EndJob, ExpireApprovals, InitCluster, OpenReview,
    OpenSession, PutResources, RaiseFeatureLevel, RecordAudit, RecordCertificate, RedeemJoinToken, RedeemLogin,
    RemoveNode, ReopenSession, RequestAccess, RequestApproval, ReviewAccess, ReviewApproval, RevokeCertificates,
    RevokeSigningKey, RevokeTokens, RewrapSecrets, RotateSigningKey, SealSession, SetIssuerKeys, SetLogKey,
    SettleWebhook, SignLogHead, StartJob, TakeUses, UpdateNode, WithdrawApproval,
};
use crate::level::known_level;
use crate::outcome::Halt;
use crate::recording_keys::ENCRYPTS_RECORDINGS;
use crate::recording_log::{CLOSES_ORPHANS, KEEPS_WITNESSES, LOGS_RECORDINGS};

/// The newest feature level that this crate knows. An entry carries the level that its command needs, and a cluster lets in only what
/// all of its members know (`RaiseFeatureLevel`).
pub const FEATURE_LEVEL: u32 = 7;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leader's clock.
    pub proposed_at: Timestamp,
    /// For de-duplication of retries.
    pub request_id: Option<RequestId>,
    /// What to do.
    pub command: Command,
    /// The call of the public API that it comes of, for the audit log.
    pub audit: Option<AuditRecord>,
}

/// An entry as read: its command may be readable and still not valid, which is a refusal and no halt.
pub(crate) struct Decoded {
    pub(crate) proposed_at: Timestamp,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) command: Result<Command, Vec<FieldFault>>,
    pub(crate) audit: Option<AuditRecord>,
}

macro_rules! commands {
    ($($name:ident),* $(,)?) => {
        /// Every command: one file each.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // each is documented at its own type
        pub enum Command { $($name($name),)* }

        impl Command {
            fn to_proto(&self) -> Proto {
                match self { $(Self::$name(command) => Proto::$name(command.to_proto()),)* }
            }

            fn from_proto(proto: Proto) -> Result<Self, Vec<FieldFault>> {
                match proto { $(Proto::$name(command) => Ok(Self::$name($name::from_proto(command)?)),)* }
            }

            pub(crate) fn apply(self, cx: &mut crate::state::Context<'_>) -> crate::outcome::Outcome {
                match self { $(Self::$name(command) => command.apply(cx),)* }
            }

            /// For logs and metrics.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }
        }

        $(impl From<$name> for Command {
            fn from(command: $name) -> Self {
                Self::$name(command)
            }
        })*
    };
}

commands!(
    InitCluster,
    PutResources,
    DeleteResource,
    SetIssuerKeys,
    RequestApproval,
    ReviewApproval,
    ConsumeApproval,
    WithdrawApproval,
    ExpireApprovals,
    OpenSession,
    SealSession,
    CreateJoinToken,
    DeleteJoinToken,
    RedeemJoinToken,
    UpdateNode,
    RemoveNode,
    RecordCertificate,
    RevokeCertificates,
    RaiseFeatureLevel,
    RewrapSecrets,
    RecordAudit,
    AcceptAssertion,
    RedeemLogin,
    RevokeTokens,
    RequestAccess,
    ReviewAccess,
    EndAccess,
    TakeUses,
    StartJob,
    BeatJobs,
    EndJob,
    RotateSigningKey,
    RevokeSigningKey,
    SettleWebhook,
    OpenReview,
    CloseReview,
    SetLogKey,
    SignLogHead,
    AddRecordingKey,
    CloseSession,
    ReopenSession,
    CosignLogHead,
);

impl Command {
    /// The feature level that a cluster must be at to take it. A command that is added gets the next one, and so does one that says something new:
    /// what a member does not know it would leave out, and then its state would be another than that of the rest.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        match self {
            Self::PutResources(put) => put.feature_level(),
            Self::DeleteResource(delete) => delete.feature_level(),
            Self::AcceptAssertion(accept) => accept.feature_level(),
            Self::RequestApproval(request) => request.feature_level(),
            Self::AddRecordingKey(_) => ENCRYPTS_RECORDINGS,
            Self::CloseSession(_) | Self::ReopenSession(_) => CLOSES_ORPHANS,
            Self::CosignLogHead(_) => KEEPS_WITNESSES,
            Self::SetLogKey(_) | Self::SignLogHead(_) => LOGS_RECORDINGS,
            Self::SettleWebhook(_) | Self::OpenReview(_) | Self::CloseReview(_) => 5,
            Self::RedeemLogin(_) => 3,
            Self::RevokeTokens(revoke) => revoke.feature_level(),
            Self::TakeUses(_) => 4,
            Self::RotateSigningKey(_) | Self::RevokeSigningKey(_) => 4,
            Self::RequestAccess(_) | Self::ReviewAccess(_) | Self::EndAccess(_) => 4,
            Self::StartJob(_) | Self::BeatJobs(_) | Self::EndJob(_) => 4,
            _ => 1,
        }
    }

    /// For another node, which proposes it in its own name.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        pb::Entry { version: self.feature_level(), command: Some(self.to_proto()), ..Default::default() }
            .encode_to_vec()
    }

    /// What [`Self::encode`] gave.
    ///
    /// # Errors
    /// When this version cannot read it, or something in it is not valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, Vec<FieldFault>> {
        let fault = |message: String| vec![FieldFault::new("command", message)];
        let proto = pb::Entry::decode(bytes).map_err(|error| fault(error.to_string()))?;
        if !(1..=known_level()).contains(&proto.version) {
            return Err(fault(format!(
                "is of feature level {}, this node knows up to {}",
                proto.version,
                known_level()
            )));
        }
        Self::from_proto(proto.command.ok_or_else(|| fault("is missing or unknown".to_owned()))?)
    }
}

impl Entry {
    /// As it lies in the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let proto = pb::Entry {
            version: self.command.feature_level(),
            proposed_at_ms: self.proposed_at.millis(),
            request_id: self.request_id.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
            command: Some(self.command.to_proto()),
            audit: self.audit.as_ref().map(audit_to_proto),
        };
        proto.encode_to_vec()
    }
}

pub(crate) fn decode(index: u64, bytes: &[u8]) -> Result<Decoded, Halt> {
    let undecodable = |why: String| Halt::Undecodable { index, why };
    let proto = pb::Entry::decode(bytes).map_err(|error| undecodable(error.to_string()))?;
    if !(1..=known_level()).contains(&proto.version) {
        return Err(Halt::UnknownVersion { index, version: proto.version, known: known_level() });
    }
    let request_id = match proto.request_id.as_slice() {
        [] => None,
        bytes => {
            let bytes = bytes.try_into().map_err(|_| undecodable("a request id has 16 bytes".to_owned()))?;
            Some(RequestId::from_bytes(bytes))
        }
    };
    let command = proto.command.ok_or(Halt::UnknownCommand { index })?;
    Ok(Decoded {
        proposed_at: Timestamp::from_millis(proto.proposed_at_ms),
        request_id,
        command: Command::from_proto(command),
        // Of a peer's making: what cannot be read of it is told by its absence, the command counts.
        audit: proto.audit.and_then(|audit| audit_from_proto(audit).ok()),
    })
}

/// A field that is not valid, as a fault of the command.
pub(crate) fn fault(error: WireError) -> Vec<FieldFault> {
    vec![FieldFault::new(error.field, error.why)]
}

pub(crate) fn parse<T: std::str::FromStr>(path: &str, text: &str) -> Result<T, Vec<FieldFault>>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| vec![FieldFault::new(path, error.to_string())])
}

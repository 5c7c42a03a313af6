//! The commands, one file each: fields, encoding, what applying it does, tests.

mod accept_assertion;
mod consume_approval;
mod create_join_token;
mod delete_join_token;
mod delete_resource;
mod expire_approvals;
mod init_cluster;
mod open_session;
mod put_resources;
mod raise_feature_level;
mod record_audit;
mod record_certificate;
mod redeem_join_token;
mod redeem_login;
mod remove_node;
mod request_approval;
mod review_approval;
mod revoke_certificates;
mod revoke_tokens;
mod rewrap_secrets;
mod seal_session;
mod set_issuer_keys;
mod update_node;
mod withdraw_approval;

pub use accept_assertion::AcceptAssertion;
pub use consume_approval::ConsumeApproval;
pub use create_join_token::CreateJoinToken;
pub use delete_join_token::DeleteJoinToken;
pub use delete_resource::DeleteResource;
pub use expire_approvals::ExpireApprovals;
pub use init_cluster::InitCluster;
pub use open_session::OpenSession;
pub use put_resources::PutResources;
pub use raise_feature_level::RaiseFeatureLevel;
pub use record_audit::RecordAudit;
pub use record_certificate::RecordCertificate;
pub use redeem_join_token::RedeemJoinToken;
pub use redeem_login::RedeemLogin;
pub use remove_node::RemoveNode;
pub use request_approval::RequestApproval;
pub use review_approval::ReviewApproval;
pub use revoke_certificates::RevokeCertificates;
pub use revoke_tokens::RevokeTokens;
pub(crate) use revoke_tokens::means;
pub use rewrap_secrets::{RewrapItem, RewrapSecrets, SealedOf};
pub use seal_session::SealSession;
pub use set_issuer_keys::SetIssuerKeys;
pub use update_node::UpdateNode;
pub use withdraw_approval::WithdrawApproval;

#[cfg(test)]
pub(crate) mod testing;

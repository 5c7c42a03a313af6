//! The commands, one file each: fields, encoding, what applying it does, tests.

mod consume_approval;
mod delete_resource;
mod expire_approvals;
mod init_cluster;
mod open_session;
mod put_resources;
mod request_approval;
mod review_approval;
mod seal_session;
mod set_issuer_keys;
mod withdraw_approval;

pub use consume_approval::ConsumeApproval;
pub use delete_resource::DeleteResource;
pub use expire_approvals::ExpireApprovals;
pub use init_cluster::InitCluster;
pub use open_session::OpenSession;
pub use put_resources::PutResources;
pub use request_approval::RequestApproval;
pub use review_approval::ReviewApproval;
pub use seal_session::SealSession;
pub use set_issuer_keys::SetIssuerKeys;
pub use withdraw_approval::WithdrawApproval;

#[cfg(test)]
pub(crate) mod testing;

//! Forming a cluster, and changing it: who a node is ([`identity`]), how it came in ([`init()`], [`join()`]).

pub(crate) mod identity;
pub(crate) mod init;
mod join;
mod redeem;
#[allow(dead_code)] // members are followed next
pub(crate) mod view;

pub use identity::IdentityError;
pub use init::{Founded, init};
pub use join::{Joined, join};
pub use redeem::{Admitted, Applicant, MAX_CLOCK_SKEW, RedeemError, redeem};

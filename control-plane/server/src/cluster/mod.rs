//! Forming a cluster, and changing it: who a node is ([`identity`]), how it came in ([`init()`], [`join()`]), what it knows of the others
//! ([`view`]), how members change ([`members`]) and what keeps all of it in shape ([`duties`], [`certificate`], [`signing`]).

pub(crate) mod certificate;
pub(crate) mod duties;
pub(crate) mod identity;
pub(crate) mod init;
mod join;
pub(crate) mod members;
pub(crate) mod signing;
pub(crate) mod view;

pub use identity::IdentityError;
pub use init::{Founded, init};
pub use join::{Joined, join};
pub use postern_runtime::enrol::{Admitted, Applicant, JoiningKey, MAX_CLOCK_SKEW, RedeemError, redeem};

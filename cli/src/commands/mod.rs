//! The client commands, one file each.

pub(crate) mod access;
pub(crate) mod apply;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod certs;
pub(crate) mod cluster;
mod cluster_status;
pub(crate) mod control;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod fleet;
mod follow;
pub(crate) mod jobs;
mod kill;
pub(crate) mod log;
pub(crate) mod logout;
mod replay;
pub(crate) mod resources;
pub(crate) mod reviews;
pub(crate) mod revoke;
pub(crate) mod secrets;
pub(crate) mod sessions;
mod signing;
mod summary;
pub(crate) mod tokens;
pub(crate) mod verify;
mod watch;
pub(crate) mod webhooks;
pub(crate) mod whoami;

use postern_core::Timestamp;
use postern_core::wire::timestamp_from_proto;
use postern_proto::resource::v1 as pb;

/// Seconds are enough for tables.
fn when(time: Option<&prost_types::Timestamp>) -> String {
    time.map(timestamp_from_proto).map(when_exactly).unwrap_or_default()
}

pub(crate) fn when_exactly(time: Timestamp) -> String {
    let text = time.to_string();
    text.split_once('.').map(|(seconds, _)| format!("{seconds}Z")).unwrap_or(text)
}

/// `issuer/subject`, and through whom.
pub(crate) fn principal(principal: Option<&pb::Principal>) -> String {
    let Some(principal) = principal else { return String::new() };
    let mut text = format!("{}/{}", principal.issuer, principal.subject);
    let actors = principal.chain.iter().filter(|link| !link.subject.is_empty());
    for (place, link) in actors.enumerate() {
        text.push_str(if place == 0 { " by " } else { " > " });
        if !link.issuer.is_empty() {
            text.push_str(&format!("{}/", link.issuer));
        }
        text.push_str(&link.subject);
    }
    text
}

//! What members tell each other of where they are.
//!
//! The called side of a stream tells its caller where it is itself and where others have said that they are, at once and whenever it
//! learns more. So members that have all moved find each other as soon as each can reach one that knows. Nobody is introduced this way,
//! only found: who the members are, the replicated state says, and who is at an address, a certificate.

use postern_proto::peer::v1 as pb;
use tracing::debug;

use super::Shared;
use super::book::{PeerEntry, Said};

/// The longest DNS name (RFC 1035, section 2.3.4) and a port.
pub(super) const MAX_ADDRESS: usize = 255 + 6;
/// More than a cluster ever has.
const MAX_MEMBERS: usize = 64;

impl Shared {
    /// What `caller` is told: the word of this node itself, and the others' own words.
    pub(super) fn known_members(&self, caller: u64) -> pb::KnownMembers {
        let known = |(id, said): (u64, &Said)| pb::KnownMember {
            node_id: id,
            peer_address: said.address.clone(),
            starts: said.starts,
        };
        let own = Said { address: self.config.address.clone(), starts: self.config.starts };
        let others = |(id, _): &(u64, &Said)| *id != caller && *id != self.config.node_id;
        let members = self.book.with(|book| {
            let own = std::iter::once((self.config.node_id, &own));
            own.chain(book.said().filter(others)).take(MAX_MEMBERS).map(known).collect()
        });
        pb::KnownMembers { members }
    }

    /// What the member at `entry` tells.
    pub(super) fn told(&self, by: u64, entry: &PeerEntry, known: pb::KnownMembers) {
        if known.members.len() > MAX_MEMBERS {
            debug!(peer = by, members = known.members.len(), "a peer knows of too many members");
            return;
        }
        for member in known.members {
            if !(1..=MAX_ADDRESS).contains(&member.peer_address.len()) || member.node_id == self.config.node_id {
                continue;
            }
            let said = Said { address: member.peer_address, starts: member.starts };
            if member.node_id == by {
                self.book.heard(by, &entry.name, said);
            } else {
                self.book.told(member.node_id, said);
            }
        }
    }
}

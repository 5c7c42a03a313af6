//! A cluster that begins anew from a backup.

use std::sync::Arc;

use postern_core::cluster::{ControlNode, NodeCertificate, Revocation};
use postern_core::node::NodeRole;

use crate::state::{Cluster, State};

impl State {
    /// The same data as the state of another life of the cluster: `founder` is its only member, under an id that none ever had, and gateways are
    /// told by the new `incarnation` that what they know is of the past. Join tokens and the certificates of the former members are good no
    /// more; requests for access and grants are over, for whoever ended one may have done so after the backup. The log of recordings keeps its leaves under a new key: heads by the old one may
    /// speak of leaves that the backup has not. The index stays: the log goes on from there.
    ///
    /// Gives the founder's id; `None` when the state is of no cluster yet.
    pub fn begin_anew(&mut self, incarnation: &str, founder: ControlNode) -> Option<u64> {
        let cluster = self.cluster.as_ref()?;
        self.cluster = Some(Arc::new(Cluster { incarnation: incarnation.to_owned(), ..Cluster::clone(cluster) }));
        for id in self.members.nodes.keys().copied().collect::<Vec<_>>() {
            self.members.forget_node(id);
        }
        for id in self.members.tokens.keys().cloned().collect::<Vec<_>>() {
            self.members.remove_token(&id);
        }
        let of_members = |certificate: &&Arc<NodeCertificate>| {
            certificate.role == NodeRole::Control && certificate.revoked.is_none()
        };
        let former: Vec<_> = self.members.certificates.values().filter(of_members).cloned().collect();
        for certificate in former {
            let (by, because) = ("postern".to_owned(), "the cluster was restored from a backup".to_owned());
            let revoked = Some(Revocation { at: self.now, by, because });
            let certificate = NodeCertificate { revoked, revision: self.index, ..NodeCertificate::clone(&certificate) };
            self.members.put_certificate(certificate);
        }
        self.recording_log.begin_anew();
        self.end_all_access("the cluster was restored from a backup: ask again");
        let id = self.members.next_node_id;
        self.members.next_node_id = id.saturating_add(1);
        let founder = ControlNode { id, joined_at: self.now, revision: self.index, ..founder };
        self.members.nodes.insert(id, Arc::new(founder));
        self.policy_revision = self.index;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::*;
    use crate::commands::{CreateJoinToken, PutResources, RecordCertificate, UpdateNode};

    #[test]
    fn the_data_stays_and_the_members_go() {
        let mut fixture = Fixture::new();
        fixture.run(UpdateNode { node: control_node(1, "c1") }).unwrap();
        fixture.run(PutResources { resources: vec![secret("pw", 1, 0)] }).unwrap();
        fixture.run(CreateJoinToken { token: join_token("t", NodeRole::Control) }).unwrap();
        for (serial, role) in [("aa", NodeRole::Control), ("bb", NodeRole::Gateway)] {
            fixture.run(RecordCertificate { certificate: certificate(serial, role, "c1") }).unwrap();
        }
        let mut reborn = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(reborn.begin_anew("i2", control_node(0, "c1")), Some(2));
        assert_eq!(reborn.nodes().map(|node| (node.id, node.name.as_str())).collect::<Vec<_>>(), [(2, "c1")]);
        assert_eq!((reborn.removed_node(1), reborn.join_tokens().len()), (Some(&name("c1")), 0));
        assert!(reborn.is_revoked("aa") && !reborn.is_revoked("bb"));
        assert_eq!(reborn.cluster().unwrap().incarnation, "i2");
        assert_eq!(reborn.index(), fixture.state.index());
        assert!(reborn.resource(postern_core::resource::Kind::Secret, &name("pw")).is_some());
        assert_eq!(State::restore(&reborn.snapshot()).unwrap().hash(), reborn.hash());
        assert_eq!(State::default().begin_anew("i", control_node(0, "c")), None);
    }
}

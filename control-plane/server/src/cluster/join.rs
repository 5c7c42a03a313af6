//! Joining a cluster: a new member's certificate, identity, and whom it will talk to.

use postern_core::Timestamp;
use postern_core::wire::cluster::node_to_proto;
use postern_runtime::enrol::{Applicant, JoiningKey, redeem};
use postern_runtime::pki::JoinTokenText;
use postern_state::known_level;

use super::identity::{DataDir, KnownMember, NodeFile};
use super::init::own_record;
use crate::config::ControlConfig;
use crate::run::{ControlError, kek};

/// A member that was let in. It is not running yet.
#[derive(Debug)]
pub struct Joined {
    /// The cluster.
    pub cluster_id: String,
    /// The member's id.
    pub node_id: u64,
    /// Its name.
    pub node_name: postern_core::Name,
    /// Until when its certificate is good; it renews it by itself.
    pub certificate_until: Timestamp,
}

/// Makes the configuration's data directory a new member's of the token's cluster. `peers` are public API addresses of members,
/// `host:port`.
///
/// # Errors
/// When the directory holds something already (what a joining that was interrupted left is gone on with), the cluster does not let the node in, or the two do not fit together.
pub async fn join(config: &ControlConfig, token: &JoinTokenText, peers: &[String]) -> Result<Joined, ControlError> {
    if let Some(fault) = config.faults() {
        return Err(ControlError::Config(fault));
    }
    let Some(name) = config.node_name.clone() else {
        return Err(ControlError::Config("node_name: a node that joins needs a name of its own".to_owned()));
    };
    if config.peer_listen.is_none() {
        return Err(ControlError::Config("peer_listen: a node that joins needs a listener for its peers".to_owned()));
    }
    let data = DataDir::new(&config.data_dir);
    data.prepare_join()?;
    // An existing key: a new one would open nothing.
    let kek = kek(config, true)?;
    kek.ready().await?;
    let record = own_record(config, 0, &name, &kek, config.listen, config.peer_listen)?;
    let applicant = Applicant {
        name: name.to_string(),
        alt_names: config.certificate_names(),
        node: Some(node_to_proto(&record)),
        // On the disk before anybody is asked: when the answer is lost, the same command is let in by the same use of the token.
        key: JoiningKey::Given(data.joining_key(&kek).await?),
    };
    let admitted = redeem(peers, token, applicant, |cluster| {
        if let Some(missing) = cluster.kek_ids.iter().find(|needed| !record.kek_ids.contains(needed)) {
            return Err(format!(
                "the cluster's secrets are under key-encryption key {missing}, which this node has not"
            ));
        }
        if cluster.feature_level > known_level() {
            return Err(format!(
                "the cluster is at feature level {}, this program knows up to {}",
                cluster.feature_level,
                known_level()
            ));
        }
        Ok(())
    });
    let admitted = admitted.await?;
    let answer = admitted.answer;
    let mut file = NodeFile::new(&answer.cluster_id, &answer.incarnation, answer.node_id, name.clone());
    for member in answer.members {
        let Ok(name) = member.name.parse() else { continue };
        if member.id != answer.node_id && !member.peer_address.is_empty() {
            file.members.push(KnownMember { id: member.id, name, peer_address: member.peer_address });
        }
    }
    data.save_credential(&kek, &admitted.credential).await?;
    // Last: with it, the node is made.
    data.save(&file)?;
    Ok(Joined {
        cluster_id: answer.cluster_id,
        node_id: answer.node_id,
        node_name: name,
        certificate_until: admitted.credential.expires_at()?,
    })
}

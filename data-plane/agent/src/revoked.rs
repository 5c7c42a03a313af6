//! Gateways whose certificates are good no more, as the control plane says it and any gateway passes it on.
//!
//! Each list is signed by a node of the control plane, so that a gateway can pass one on and make none. What was revoked stays revoked: lists
//! are added up, and an old one that is told again takes nothing back. A gateway that keeps a list to itself achieves nothing while the agent
//! has a tunnel to another one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use postern_core::Timestamp;
use postern_core::recording::Authority;
use postern_core::signed::{self, Purpose, SignatureFault};
use postern_proto::tunnel::v1::{RevokedGateways, SignedRevocations};
use postern_runtime::pki::{PkiError, Revocations, serial_text, write_private};
use prost::Message as _;
use tokio::sync::watch;

/// Certificates that are remembered. Who signs lists could revoke every certificate of the cluster; it could not fill the memory (I11).
const MOST: usize = 4096;
/// A serial number has at most 20 bytes (RFC 5280, section 4.1.2.2).
const SERIAL: usize = 20;
/// In the folder of the certificate: the last list that told something new.
const FILE: &str = "revoked-gateways";

/// A list that is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokedError {
    /// Not the control plane's.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// Signed, and not a list.
    #[error("it is no list")]
    Malformed,
}

/// What is known of revoked gateways.
pub(crate) struct Revoked {
    /// The cluster's, DER.
    authority: Vec<u8>,
    known: watch::Sender<Arc<BTreeSet<String>>>,
    /// The signature of the list that was taken last: several gateways tell the same one.
    last: Mutex<Vec<u8>>,
    file: Option<PathBuf>,
}

impl Revoked {
    /// Begins with what was kept in `dir`, if that is still signed by a certificate that is good `now`.
    pub(crate) fn load(authority: Vec<u8>, dir: Option<&Path>, now: Timestamp) -> Self {
        let this = Self {
            authority,
            known: watch::Sender::default(),
            last: Mutex::default(),
            file: dir.map(|dir| dir.join(FILE)),
        };
        let kept = this.file.as_ref().and_then(|file| std::fs::read(file).ok());
        if let Some(kept) = kept {
            let list = SignedRevocations::decode(&*kept).map_err(|_| RevokedError::Malformed);
            if let Err(error) = list.and_then(|list| this.add(&list, now)) {
                tracing::warn!(%error, "the list of revoked gateways on the disk is not used: gateways will tell it again");
            }
        }
        this
    }

    /// For TLS, and for links that are open.
    pub(crate) fn revocations(&self) -> Revocations {
        Revocations::new(self.known.subscribe())
    }

    /// Takes a list in; whether it told something new.
    ///
    /// # Errors
    /// When it is not the control plane's.
    pub(crate) fn take(&self, list: &SignedRevocations, now: Timestamp) -> Result<bool, RevokedError> {
        if *self.last.lock().unwrap_or_else(PoisonError::into_inner) == list.signature {
            return Ok(false);
        }
        self.add(list, now)
    }

    fn add(&self, list: &SignedRevocations, now: Timestamp) -> Result<bool, RevokedError> {
        let authority = Authority(&self.authority);
        signed::verify(Purpose::RevokedGateways, &list.payload, &list.signature, &list.certificate, authority, now)?;
        let told = RevokedGateways::decode(&*list.payload).map_err(|_| RevokedError::Malformed)?;
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&list.signature);
        let told = told.serials.iter().filter(|serial| !serial.is_empty() && serial.len() <= SERIAL);
        let told: Vec<String> = told.map(|serial| serial_text(serial)).collect();
        Ok(self.known.send_if_modified(|known| {
            let mut all = BTreeSet::clone(known);
            all.extend(told.into_iter().take(MOST.saturating_sub(known.len())));
            let new = all.len() > known.len();
            if new {
                metrics::gauge!("postern_agent_revoked_gateways")
                    .set(f64::from(u32::try_from(all.len()).unwrap_or(u32::MAX)));
                *known = Arc::new(all);
            }
            new
        }))
    }

    /// Keeps the list for the next start. It waits for the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(&self, list: &SignedRevocations) -> Result<(), PkiError> {
        self.file.as_ref().map_or(Ok(()), |file| write_private(file, &list.encode_to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use postern_core::node::{NodeIdentity, NodeRole};
    use postern_runtime::clock;
    use postern_runtime::pki::{Authority as Ca, KeyRequest, NodeCredential};

    use super::*;

    fn node(authority: &Ca, role: NodeRole) -> NodeCredential {
        let identity = NodeIdentity { role, name: "one".parse().unwrap(), pool: None };
        let request = KeyRequest::generate().unwrap();
        let hour = std::time::Duration::from_secs(3600);
        let certificate_pem = authority.issue(&identity, &request.csr_der, &[], clock::now(), hour).unwrap();
        NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
    }

    fn list(signer: &NodeCredential, purpose: Purpose, serials: &[&[u8]]) -> SignedRevocations {
        let payload =
            RevokedGateways { serials: serials.iter().map(|serial| serial.to_vec()).collect() }.encode_to_vec();
        let signer = signer.signer().unwrap();
        let signature = signer.sign(&signed::message(purpose, &payload));
        SignedRevocations { payload, signature, certificate: signer.certificate_der().to_vec() }
    }

    #[test]
    fn only_the_control_plane_revokes_and_nothing_takes_it_back() {
        let (ours, theirs) = (Ca::create("ours").unwrap(), Ca::create("ours").unwrap());
        let control = node(&ours, NodeRole::Control);
        let revoked = Revoked::load(control.ca_der(), None, clock::now());
        let all = || revoked.revocations().current().iter().cloned().collect::<Vec<_>>();
        // A gateway's own word, another cluster's, another thing that the control plane has signed, one that was changed, and no list.
        let mut changed = list(&control, Purpose::RevokedGateways, &[&[1]]);
        changed.payload = list(&control, Purpose::RevokedGateways, &[]).payload;
        let mut none = list(&control, Purpose::RevokedGateways, &[]);
        none.payload = vec![0xff; 9];
        none.signature = control.signer().unwrap().sign(&signed::message(Purpose::RevokedGateways, &none.payload));
        for (what, forged) in [
            ("a gateway", list(&node(&ours, NodeRole::Gateway), Purpose::RevokedGateways, &[&[1]])),
            ("another cluster", list(&node(&theirs, NodeRole::Control), Purpose::RevokedGateways, &[&[1]])),
            ("another purpose", list(&control, Purpose::Delta, &[&[1]])),
            ("changed", changed),
            ("no list", none),
        ] {
            assert!(revoked.take(&forged, clock::now()).is_err(), "{what}");
        }
        assert_eq!(all(), Vec::<String>::new());
        let first = list(&control, Purpose::RevokedGateways, &[&[0x0a, 0xff]]);
        assert!(revoked.take(&first, clock::now()).unwrap());
        assert!(!revoked.take(&first, clock::now()).unwrap());
        assert!(revoked.take(&list(&control, Purpose::RevokedGateways, &[&[0x0b]]), clock::now()).unwrap());
        // An older one, told again.
        assert!(!revoked.take(&first, clock::now()).unwrap());
        assert_eq!(all(), ["0aff", "0b"]);
        // More than anybody needs.
        let many: Vec<[u8; 4]> = (0x0100_0000_u32..).take(5000).map(u32::to_be_bytes).collect();
        let many: Vec<&[u8]> = many.iter().map(|serial| &serial[..]).chain([&[1; 21][..], &[]]).collect();
        assert!(revoked.take(&list(&control, Purpose::RevokedGateways, &many), clock::now()).unwrap());
        assert_eq!(all().len(), MOST);
    }

    #[test]
    fn kept_over_a_restart_and_verified_again() {
        let (ours, theirs) = (Ca::create("ours").unwrap(), Ca::create("ours").unwrap());
        let control = node(&ours, NodeRole::Control);
        let dir = tempfile::tempdir().unwrap();
        let load = || Revoked::load(control.ca_der(), Some(dir.path()), clock::now());
        load().keep(&list(&control, Purpose::RevokedGateways, &[&[7]])).unwrap();
        assert!(load().revocations().contains("07"));
        load().keep(&list(&node(&theirs, NodeRole::Control), Purpose::RevokedGateways, &[&[8]])).unwrap();
        assert!(load().revocations().current().is_empty());
        std::fs::write(dir.path().join(FILE), b"nonsense").unwrap();
        assert!(load().revocations().current().is_empty());
    }
}

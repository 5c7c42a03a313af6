//! A node's credential that changes while the node runs, and the certificates that are good no more.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::{NodeCredential, PkiError, certificates, private_key};
use crate::tls::{self, TlsError};

/// The credential that a node shows now. Listeners and dialers made from it show the new one from the next handshake on; what is open
/// stays open. Cheap to clone.
#[derive(Clone)]
pub struct RotatingCredential(Arc<Inner>);

struct Inner {
    current: watch::Sender<Arc<NodeCredential>>,
    certified: RwLock<Arc<CertifiedKey>>,
}

impl RotatingCredential {
    /// Begins with `credential`.
    ///
    /// # Errors
    /// It cannot be used for TLS.
    pub fn new(credential: NodeCredential) -> Result<Self, TlsError> {
        let certified = RwLock::new(certified(&credential)?);
        let (current, _) = watch::channel(Arc::new(credential));
        Ok(Self(Arc::new(Inner { current, certified })))
    }

    /// What is shown now.
    #[must_use]
    pub fn current(&self) -> Arc<NodeCredential> {
        Arc::clone(&self.0.current.borrow())
    }

    /// Shows `credential` from now on.
    ///
    /// # Errors
    /// It cannot be used for TLS, or is of another node or authority: the former one stays.
    pub fn replace(&self, credential: NodeCredential) -> Result<(), TlsError> {
        let former = self.current();
        if credential.identity()? != former.identity()? || credential.ca_pem != former.ca_pem {
            return Err(PkiError::NoIdentity.into());
        }
        let certified = certified(&credential)?;
        *self.0.certified.write().unwrap_or_else(PoisonError::into_inner) = certified;
        self.0.current.send_replace(Arc::new(credential));
        Ok(())
    }

    /// Tells of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<NodeCredential>> {
        self.0.current.subscribe()
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.certified.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn certified(credential: &NodeCredential) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, key) = (certificates(&credential.certificate_pem)?, private_key(&credential.key_pem)?);
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &tls::provider())?))
}

impl fmt::Debug for RotatingCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

impl ResolvesServerCert for RotatingCredential {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for RotatingCredential {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Shows a node's own credential, and to clients that do not know its kind of key another one of the same node.
#[derive(Clone, Debug)]
pub struct Compatible {
    /// With an Ed25519 key.
    pub own: RotatingCredential,
    /// With an ECDSA key.
    pub other: RotatingCredential,
}

impl ResolvesServerCert for Compatible {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let knows = hello.signature_schemes().contains(&SignatureScheme::ED25519);
        Some(if knows { self.own.certified() } else { self.other.certified() })
    }
}

/// Serial numbers of certificates that are good no more, as [`super::serial_of`] writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Revocations(watch::Receiver<Arc<BTreeSet<String>>>);

impl Revocations {
    /// What `known` tells.
    #[must_use]
    pub const fn new(known: watch::Receiver<Arc<BTreeSet<String>>>) -> Self {
        Self(known)
    }

    /// None, ever.
    #[must_use]
    pub fn none() -> Self {
        Self(watch::channel(Arc::default()).1)
    }

    /// Whether the certificate with this serial number was revoked.
    #[must_use]
    pub fn contains(&self, serial: &str) -> bool {
        self.0.borrow().contains(serial)
    }

    /// The newest list.
    #[must_use]
    pub fn current(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for a newer list; for ever, when there will be none.
    pub async fn changed(&mut self) -> Arc<BTreeSet<String>> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.0.borrow_and_update())
    }
}

//! What signs session tokens here: the key that the replicated state says, opened in memory (I5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_runtime::jwt::SessionSigner;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::bootstrap::{ClusterKeys, open_signer, sealed_as};
use crate::cluster::view::ClusterView;
use crate::keys::Kek;

/// How long a token waits for a key that has just come to sign.
const LIMIT: Duration = Duration::from_secs(5);

/// The open signing keys. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Signers {
    view: watch::Receiver<Arc<ClusterView>>,
    /// The key that was open at the start: before the first rotation nothing says which one signs.
    first: Arc<str>,
    /// By id.
    open: Arc<watch::Sender<BTreeMap<String, Arc<SessionSigner>>>>,
}

impl Signers {
    /// With what was opened at the start.
    pub(crate) fn new(view: watch::Receiver<Arc<ClusterView>>, keys: &ClusterKeys) -> Self {
        let signer = Arc::clone(&keys.signer);
        let first = signer.kid().into();
        let open = BTreeMap::from([(signer.kid().to_owned(), signer)]);
        Self { view, first, open: Arc::new(watch::Sender::new(open)) }
    }

    /// The key that signs as of what this member has applied; none: it is not open here yet.
    pub(crate) fn current(&self) -> Option<Arc<SessionSigner>> {
        let view = Arc::clone(&self.view.borrow());
        let kid = view.cluster.as_ref().and_then(|cluster| cluster.current_kid()).unwrap_or(&self.first);
        self.open.borrow().get(kid).map(Arc::clone)
    }

    /// As [`Self::current`], after a while where it has just come to sign; none: it does not open.
    pub(crate) async fn ready(&self) -> Option<Arc<SessionSigner>> {
        let mut open = self.open.subscribe();
        let ready = async {
            loop {
                match self.current() {
                    Some(signer) => return Some(signer),
                    None => open.changed().await.ok()?,
                }
            }
        };
        tokio::time::timeout(LIMIT, ready).await.ok()?
    }

    /// Opens what is to sign, now or next, and lets go of the rest. What does not open now is tried again with the next call.
    pub(crate) async fn follow(&self, kek: &Kek, view: &ClusterView) {
        let keys = view.signing_keys();
        for key in &keys {
            let Some((of, sealed)) = sealed_as(key).filter(|_| !self.knows(&key.kid)) else { continue };
            let opened = match kek.open(&of, sealed).await {
                Ok(pem) => open_signer(&pem).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match opened {
                Ok(signer) if signer.kid() == key.kid => {
                    info!(kid = key.kid, stage = key.stage.as_str(), "a signing key is open");
                    self.open.send_modify(|open| drop(open.insert(key.kid.clone(), Arc::new(signer))));
                }
                Ok(_) => warn!(kid = key.kid, "a signing key is another than it is called"),
                Err(error) => warn!(kid = key.kid, error, "a signing key does not open"),
            }
        }
        let signs = |kid: &String| keys.iter().any(|key| key.kid == *kid && key.sealed.is_some());
        self.open.send_if_modified(|open| {
            let before = open.len();
            open.retain(|kid, _| signs(kid));
            open.len() != before
        });
    }

    fn knows(&self, kid: &str) -> bool {
        self.open.borrow().contains_key(kid)
    }
}

//! Logins by SAML: issuers as they are declared now, requests to them, and what they answer, spent in the replicated state.
//!
//! Any member serves any step. What lies between two steps is in the request's id ([`super::request`]) or in the log (`AcceptAssertion`).

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use postern_core::audit::AuditRecord;
use postern_core::issuer::{Issuer, SamlIssuer};
use postern_core::operation::Digest;
use postern_core::resource::{FieldFault, Kind, Resource, Spec};
use postern_core::{KeptClaims, Name, Principal, Timestamp};
use postern_runtime::clock;
use postern_runtime::pki::{PkiError, derive_key};
use postern_state::commands::{AcceptAssertion, RedeemLogin};
use postern_state::{PendingLogin, Refusal, State};
use secrecy::ExposeSecret as _;

use super::{
    Accepted, AuthnRequest, Challenge, IdpMetadata, MetadataError, RequestIds, SamlError, ServiceKey, ServiceKeyError,
    ServiceProvider, service_metadata,
};
use crate::bootstrap::ClusterKeys;
use crate::feed::sealed_of;
use crate::keys::{Kek, KeyError};
use crate::raft::{ProposeError, RaftHandle, ReadError, StampClock};

/// How long a code waits for its client.
pub(crate) const CODE_TIME: Duration = Duration::from_secs(60);
/// Issuers of one provider that are tried, for different audiences.
const MAX_CANDIDATES: usize = 8;

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("there is no such issuer of SAML assertions")]
    NoIssuer,
    #[error("this control plane has no listener for browsers: [control.web]")]
    NoWeb,
    #[error("the issuer's metadata {0}")]
    Metadata(#[from] MetadataError),
    #[error("the issuer's Secret {0} is missing")]
    NoKey(Name),
    #[error("the issuer's Secret is not usable: {0}")]
    Key(#[from] ServiceKeyError),
    #[error("the issuer's Secret does not open: {0}")]
    Sealed(#[from] KeyError),
    #[error("the identity provider takes no request by this binding")]
    Binding,
    #[error(transparent)]
    Saml(#[from] SamlError),
    #[error("the log cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("the log cannot be written: {0}")]
    Propose(#[from] ProposeError),
    #[error("{0}")]
    Refused(Refusal),
}

/// How a browser takes a request to the provider.
pub(crate) enum Outbound {
    /// It goes to this URL.
    Redirect(String),
    /// It posts `request` as `SAMLRequest` to `url`.
    Post { url: String, request: String },
}

/// An assertion that was accepted and is to be spent.
pub(crate) struct Presented {
    pub(crate) principal: Principal,
    pub(crate) spend: AcceptAssertion,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct SamlLogins(Arc<Inner>);

struct Inner {
    raft: RaftHandle,
    kek: Arc<Kek>,
    clock: StampClock,
    requests: RequestIds,
    /// By which browsers reach this control plane; none: they do not.
    public_url: Option<String>,
    node: Arc<str>,
}

/// An issuer, read and opened.
struct Loaded {
    name: Name,
    issuer: Issuer,
    saml: SamlIssuer,
    metadata: IdpMetadata,
    keys: Vec<ServiceKey>,
    recipient: String,
}

type Found = (Arc<Resource>, Option<Arc<Resource>>);

impl SamlLogins {
    pub(crate) fn new(
        raft: RaftHandle,
        kek: &Arc<Kek>,
        keys: &ClusterKeys,
        public_url: Option<String>,
        node: Arc<str>,
    ) -> Result<Self, PkiError> {
        // Another life of the cluster knows nothing of what was presented in this one: it does not know its requests either.
        let salt = format!("{} {}", keys.cluster.id, keys.cluster.incarnation);
        let key =
            derive_key(keys.authority.key_pem().expose_secret().as_bytes(), salt.as_bytes(), b"postern saml request")?;
        let (clock, requests) = (keys.clock.clone(), RequestIds::new(key.as_slice()));
        Ok(Self(Arc::new(Inner { raft, kek: Arc::clone(kek), clock, requests, public_url, node })))
    }

    /// By which browsers reach this control plane; none: they do not.
    pub(crate) fn public_url(&self) -> Option<&str> {
        self.0.public_url.as_deref()
    }

    /// This cluster as a service provider, for the identity provider's administrator.
    pub(crate) async fn metadata(&self, issuer: Name) -> Result<String, LoginError> {
        let loaded = self.load(issuer).await?;
        Ok(service_metadata(&loaded.saml.entity_id, &loaded.recipient, &loaded.keys))
    }

    /// Sends a browser to log in. Whoever knows what `challenge` was made of can take the login.
    pub(crate) async fn begin(&self, issuer: Name, challenge: &Challenge, post: bool) -> Result<Outbound, LoginError> {
        let loaded = self.load(issuer).await?;
        let now = self.0.clock.now();
        let id = self.0.requests.make(&loaded.name, challenge, clock::random_u128().to_be_bytes(), now);
        let request = |destination| AuthnRequest {
            id: &id,
            at: now,
            destination,
            acs: &loaded.recipient,
            entity_id: &loaded.saml.entity_id,
        };
        let key = loaded.keys.first();
        match (&loaded.metadata.redirect, &loaded.metadata.post) {
            (Some(url), _) if !post => Ok(Outbound::Redirect(request(url).redirect(key)?)),
            (_, Some(url)) => Ok(Outbound::Post { url: url.clone(), request: request(url).post(key)? }),
            _ => Err(LoginError::Binding),
        }
    }

    /// Takes in what a browser brought from the provider. Gives the code by which the client that began takes the login; the entry in the log
    /// carries `record`.
    pub(crate) async fn finish(
        &self,
        issuer: Name,
        response: &[u8],
        record: AuditRecord,
    ) -> Result<(Principal, String), LoginError> {
        let loaded = self.load(issuer).await?;
        let now = self.0.clock.now();
        let accepted = self.provider(&loaded).response(response, now)?;
        let code = format!("{:032x}", clock::random_u128());
        let login = PendingLogin {
            code: sha256(&code),
            challenge: accepted.challenge.map(Digest),
            principal: accepted.principal.clone(),
            expires_at: now.plus(CODE_TIME),
        };
        let principal = accepted.principal;
        let mut spend = AcceptAssertion { once: accepted.once, until: accepted.until, login: Some(login) };
        let needed = spend.feature_level();
        if self.0.raft.read(move |state| state.feature_level() < needed).await?
            && let Some(login) = &mut spend.login
        {
            // There are members yet that would lose them.
            login.principal.claims = KeptClaims::default();
        }
        let record = AuditRecord { principal: Some(principal.clone()), ..record };
        let outcome = self.0.raft.propose_audited(spend, None, Some(record)).await?;
        outcome.map_err(LoginError::Refused)?;
        Ok((principal, code))
    }

    /// Takes in an assertion that comes alone. It is good once what it says is to be spent is spent.
    pub(crate) async fn assertion(&self, assertion: &[u8]) -> Result<Presented, LoginError> {
        let entity = super::response::unverified_issuer(assertion)?;
        let read = self.0.raft.read(move |state| {
            let of = |object: &&Arc<Resource>| {
                matches!(&object.spec, Spec::Issuer(issuer) if issuer.saml().is_some() && issuer.url == entity)
            };
            let found = state.resources(Kind::Issuer).filter(of).take(MAX_CANDIDATES);
            found.map(|object| (Arc::clone(object), key_of(state, object))).collect::<Vec<Found>>()
        });
        let mut refusal = LoginError::Saml(SamlError::Issuer);
        for found in read.await? {
            let loaded = self.open(found).await?;
            match self.provider(&loaded).bare(assertion, self.0.clock.now()) {
                Ok(Accepted { principal, once, until, .. }) => {
                    return Ok(Presented { principal, spend: AcceptAssertion { once, until, login: None } });
                }
                Err(error) => refusal = error.into(),
            }
        }
        Err(refusal)
    }

    /// What takes the login that `code` and `verifier` are of.
    pub(crate) fn redeem(code: &str, verifier: &str) -> RedeemLogin {
        let challenge = (!verifier.is_empty()).then(|| sha256(verifier));
        RedeemLogin { code: sha256(code), challenge }
    }

    /// What is wrong with an issuer that is to be declared, beside its form.
    pub(crate) fn faults(issuer: &Issuer) -> Vec<FieldFault> {
        let Some(saml) = issuer.saml() else { return Vec::new() };
        match IdpMetadata::read(&saml.metadata) {
            Err(error) => vec![FieldFault::new("spec.saml.metadata", error.to_string())],
            Ok(metadata) if metadata.entity_id != issuer.url => {
                vec![FieldFault::new("spec.url", format!("must be the metadata's entityID, {:?}", metadata.entity_id))]
            }
            Ok(metadata) if metadata.wants_signed_requests && saml.key.is_none() => {
                vec![FieldFault::new("spec.saml.keySecret", "is needed: the provider wants requests to be signed")]
            }
            Ok(_) => Vec::new(),
        }
    }

    /// The cluster's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The node's name, for the audit log.
    pub(crate) fn node(&self) -> &str {
        &self.0.node
    }

    async fn load(&self, name: Name) -> Result<Loaded, LoginError> {
        let read = self.0.raft.read(move |state| {
            let object = state.resource(Kind::Issuer, &name)?;
            Some((Arc::clone(object), key_of(state, object)))
        });
        self.open(read.await?.ok_or(LoginError::NoIssuer)?).await
    }

    async fn open(&self, (object, secret): Found) -> Result<Loaded, LoginError> {
        let Spec::Issuer(issuer) = &object.spec else { return Err(LoginError::NoIssuer) };
        let saml = issuer.saml().ok_or(LoginError::NoIssuer)?.clone();
        let name = object.metadata.name.clone();
        let base = self.0.public_url.as_deref().ok_or(LoginError::NoWeb)?;
        let recipient = format!("{base}/saml/{name}/acs");
        let keys = match (&saml.key, secret.as_ref().map(|secret| &secret.spec)) {
            (None, _) => Vec::new(),
            (Some(key), Some(Spec::Secret(sealed))) => {
                ServiceKey::read_all(self.0.kek.open(&sealed_of(key), sealed).await?.expose())?
            }
            (Some(key), _) => return Err(LoginError::NoKey(key.clone())),
        };
        let metadata = IdpMetadata::read(&saml.metadata)?;
        Ok(Loaded { name, issuer: issuer.clone(), saml, metadata, keys, recipient })
    }

    fn provider<'a>(&'a self, loaded: &'a Loaded) -> ServiceProvider<'a> {
        ServiceProvider {
            name: &loaded.name,
            issuer: &loaded.issuer,
            saml: &loaded.saml,
            metadata: &loaded.metadata,
            keys: &loaded.keys,
            recipient: &loaded.recipient,
            requests: &self.0.requests,
        }
    }
}

fn key_of(state: &State, object: &Resource) -> Option<Arc<Resource>> {
    let Spec::Issuer(issuer) = &object.spec else { return None };
    state.resource(Kind::Secret, issuer.saml()?.key.as_ref()?).cloned()
}

fn sha256(text: &str) -> Digest {
    Digest(digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap_or_default())
}

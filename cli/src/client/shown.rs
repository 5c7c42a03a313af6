//! What goes with each request: the token, and a proof where it is bound to a key (DPoP; RFC 9449).

use std::sync::{Arc, Mutex, PoisonError};

use postern_core::node::CONTROL_PLANE_NAME;
use postern_core::token::Confirmation;
use postern_runtime::clock;
use postern_runtime::jwt::{ClientKey, unverified_binding};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{GrpcMethod, Request, Status};

use crate::failure::Failure;

/// Puts it there.
#[derive(Clone)]
pub(crate) struct Shown {
    authorization: Option<MetadataValue<Ascii>>,
    prover: Option<Arc<Prover>>,
}

/// Makes the proofs of one connection.
struct Prover {
    key: Arc<ClientKey>,
    /// What they go with; none: a token is asked for.
    token: Option<SecretString>,
    /// What the server demands in them.
    nonce: Mutex<Option<String>>,
}

impl Shown {
    /// `token`, by proofs of `key` where it is bound to it. A key alone proves who a token is for that is asked for.
    pub(super) fn new(token: Option<&SecretString>, key: Option<&Arc<ClientKey>>) -> Result<Self, Failure> {
        let is_bound = |key: &&Arc<ClientKey>| {
            let bound = Confirmation::key(key.thumbprint());
            token.is_none_or(|token| unverified_binding(token.expose_secret()) == Some(bound))
        };
        let prover = key
            .filter(is_bound)
            .map(|key| Arc::new(Prover { key: Arc::clone(key), token: token.cloned(), nonce: Mutex::default() }));
        let scheme = if prover.is_some() { "DPoP" } else { "Bearer" };
        let authorization = token.map(|token| {
            let value = format!("{scheme} {}", token.expose_secret()).parse::<MetadataValue<Ascii>>();
            let mut value = value.map_err(|_| Failure::failed("the token has characters that no token has"))?;
            // Keeps it out of Debug output and of header compression.
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        });
        Ok(Self { authorization: authorization.transpose()?, prover })
    }

    /// Whether proofs are made.
    pub(super) const fn proves(&self) -> bool {
        self.prover.is_some()
    }

    /// Takes what the server demands in the next proofs out of an answer.
    pub(super) fn learn(&self, answer: &MetadataMap) {
        let nonce = answer.get("dpop-nonce").and_then(|nonce| nonce.to_str().ok());
        if let (Some(prover), Some(nonce)) = (&self.prover, nonce) {
            *prover.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_owned());
        }
    }
}

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if let Some(prover) = &self.prover {
            let method = request.extensions().get::<GrpcMethod<'static>>();
            let method = method.ok_or_else(|| Status::internal("a request for no method"))?;
            let url = format!("https://{CONTROL_PLANE_NAME}/{}/{}", method.service(), method.method());
            let nonce = prover.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let token = prover.token.as_ref().map(|token| token.expose_secret());
            let proof = prover.key.proof(("POST", &url), token, nonce.as_deref(), clock::now());
            let value = proof.ok().and_then(|proof| proof.parse().ok());
            request.metadata_mut().insert("dpop", value.ok_or_else(|| Status::internal("the key does not sign"))?);
        }
        Ok(request)
    }
}

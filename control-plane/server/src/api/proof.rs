//! Proofs of possession that come with a call (DPoP; RFC 9449), over gRPC as over HTTPS.
//!
//! A token that is bound to a key is shown as `authorization: DPoP TOKEN`, with a proof for this very request in `dpop`. A request has one proof; it is
//! taken once a token that it goes with was found good, so that strangers do not fill what is remembered of proofs.

use postern_core::node::CONTROL_PLANE_NAME;
use postern_core::operation::Digest;
use postern_runtime::jwt::{Proof, ProofError, TokenError, Verified};
use postern_state::Refusal;
use postern_state::commands::AcceptAssertion;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::debug;

use super::access::Access;
use super::desk::{At, Refused};
use super::status;
use crate::raft::RaftHandle;
use crate::serve::PeerInfo;

/// Where a proof comes, and where a nonce for the next is given (RFC 9449, sections 4.1 and 8).
const PROOF: &str = "dpop";
pub(crate) const NONCE: http::HeaderName = http::HeaderName::from_static("dpop-nonce");

/// What a request is to its proof: method and URL.
pub(crate) type Request<'a> = (&'a str, &'a str);

/// How a token is shown (RFC 6750, section 2.1; RFC 9449, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

/// The URL of a method of the public API: by the name that clients verify the control plane's certificate for, whatever address they dial.
pub(super) fn url(path: &str) -> String {
    format!("https://{CONTROL_PLANE_NAME}{path}")
}

impl Access {
    /// The proof that came with a request.
    ///
    /// # Errors
    /// It is no good, or there are several.
    pub(crate) async fn proof(
        &self,
        metadata: &MetadataMap,
        request: Request<'_>,
        peer: Option<&PeerInfo>,
    ) -> Result<Option<Proof>, Refused> {
        let mut all = metadata.get_all(PROOF).iter();
        let Some(shown) = all.next() else { return Ok(None) };
        let one = if all.next().is_none() { shown.to_str().ok() } else { None };
        let proof = one.ok_or(ProofError::Malformed);
        match proof.and_then(|text| self.proofs.verify(text, request, self.clock.now())) {
            Ok(proof) => Ok(Some(proof)),
            Err(error) => Err(self.unproven(&error, peer).await),
        }
    }

    /// What the token says that a call shows, if it shows any; its proof is taken.
    pub(super) async fn shown(
        &self,
        metadata: &MetadataMap,
        peer: Option<&PeerInfo>,
        proof: Option<&mut Proof>,
    ) -> Result<Option<Verified>, Refused> {
        let Some((scheme, token)) = authorization(metadata)? else { return Ok(None) };
        if scheme == Scheme::Bearer {
            // One that is bound is no bearer's, whatever comes with it (RFC 9449, section 7.2).
            return Ok(Some(self.verify(token, peer, None).await?));
        }
        let Some(proof) = proof else { return Err(self.refused(&TokenError::Unproven, peer).await.into()) };
        let verified = self.verify(token, peer, Some(proof)).await?;
        if !verified.needs_proof() {
            return Err(self.refused(&TokenError::Unproven, peer).await.into());
        }
        if let Err(error) = proof.goes_with(token) {
            return Err(self.unproven(&error, peer).await);
        }
        self.spend(proof, peer).await?;
        Ok(Some(verified))
    }

    /// Takes a proof that came with `token`, shown in the request's body.
    ///
    /// # Errors
    /// It goes with another, or was taken here before.
    pub(super) async fn take(&self, proof: &mut Proof, token: &str, peer: Option<&PeerInfo>) -> Result<(), Refused> {
        // One that was taken with the caller's own token is of the same key.
        if let Some(error) = proof.may_go_with(token).err().filter(|_| !proof.is_spent()) {
            return Err(self.unproven(&error, peer).await);
        }
        self.spend(proof, peer).await
    }

    /// Takes a proof.
    ///
    /// # Errors
    /// It was taken here before, for another request.
    pub(super) async fn spend(&self, proof: &mut Proof, peer: Option<&PeerInfo>) -> Result<(), Refused> {
        match self.proofs.spend(proof, self.clock.now()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.unproven(&error, peer).await),
        }
    }

    /// Takes a proof in the whole cluster, once: where it lets go of the binding that it proves, so that whoever saw it cannot show it to another member.
    ///
    /// # Errors
    /// It was taken before, or that cannot be known now.
    pub(super) async fn spend_everywhere(
        &self,
        raft: &RaftHandle,
        proof: &Proof,
        peer: Option<&PeerInfo>,
    ) -> Result<(), Refused> {
        let bytes = [b"dpop\0".as_slice(), proof.id()].concat();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        let once = Digest::from_slice(digest.as_ref()).unwrap_or(Digest([0; 32]));
        let spend = AcceptAssertion { once: vec![once], until: proof.until(), login: None };
        match raft.propose(spend, None).await.map_err(status::propose)? {
            Ok(_) => Ok(()),
            Err(Refusal::Spent) => Err(self.unproven(&ProofError::Replayed, peer).await),
            Err(refusal) => Err(status::refused(refusal).into()),
        }
    }

    /// What who showed a bad proof is told; the later, the more of late came from there. What is wrong with it they may know: they made it.
    pub(super) async fn unproven(&self, error: &ProofError, peer: Option<&PeerInfo>) -> Refused {
        match error {
            ProofError::Nonce => {
                let status = status::with_reason(Status::unauthenticated(error.to_string()), "USE_DPOP_NONCE");
                return Refused { at: At::Nonce, status };
            }
            ProofError::Busy => {
                return status::with_reason(Status::resource_exhausted(error.to_string()), "TOO_MANY_PROOFS").into();
            }
            _ => {}
        }
        metrics::counter!("postern_control_auth_failures_total", "code" => "invalid-dpop-proof").increment(1);
        debug!(%error, address = peer.map(|peer| peer.address.to_string()), "a proof of possession was refused");
        if let Err(many) = self.slow_down(peer).await {
            return many.into();
        }
        let status = Status::unauthenticated(format!("invalid-dpop-proof: {error}"));
        Refused { at: At::Proof, status: status::with_reason(status, "INVALID_DPOP_PROOF") }
    }

    /// The nonce for the next proof of who has sent one; none where none is demanded.
    pub(crate) fn next_nonce(&self, headers: &http::HeaderMap) -> Option<http::HeaderValue> {
        headers.get(PROOF)?;
        self.proofs.nonce(self.clock.now()).and_then(|nonce| nonce.parse().ok())
    }
}

fn authorization(metadata: &MetadataMap) -> Result<Option<(Scheme, &str)>, Status> {
    let Some(value) = metadata.get("authorization") else { return Ok(None) };
    let shown = value.to_str().ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, token)| {
        // RFC 9110, section 11.1: the scheme's case does not count.
        let scheme = match scheme {
            bearer if bearer.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
            dpop if dpop.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
            _ => return None,
        };
        Some((scheme, token.trim())).filter(|(_, token)| !token.is_empty())
    });
    match shown {
        Some(shown) => Ok(Some(shown)),
        None => Err(Status::unauthenticated("authorization must be \"Bearer TOKEN\" or \"DPoP TOKEN\"")),
    }
}

//! Issuers, of every kind.

use std::time::Duration;

use postern_proto::resource::v1 as pb;

use super::faults::{Faults, MAX_TEXT};
use crate::issuer::{Algorithm, DEFAULT_LEEWAY, Issuer, IssuerKind, OidcIssuer};

const MAX_LEEWAY: u32 = 300;

pub(super) fn read(spec: pb::IssuerSpec, faults: &mut Faults) -> Option<Issuer> {
    let before = faults.count();
    let leeway = spec.leeway_seconds.map_or(DEFAULT_LEEWAY, |seconds| Duration::from_secs(u64::from(seconds)));
    if leeway > Duration::from_secs(u64::from(MAX_LEEWAY)) {
        faults.add("spec.leeway", format!("must be at most {MAX_LEEWAY} seconds"));
    }
    faults.bound("spec.url", spec.url.len(), MAX_TEXT);
    let issuer = Issuer {
        url: spec.url.clone(),
        groups_prefix: spec.groups_prefix.clone(),
        leeway,
        max_age: (spec.max_age_seconds > 0).then(|| Duration::from_secs(u64::from(spec.max_age_seconds))),
        kind: IssuerKind::Oidc(oidc(spec, faults)),
    };
    (faults.count() == before).then_some(issuer)
}

pub(super) fn to_proto(issuer: &Issuer) -> pb::IssuerSpec {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let shared = pb::IssuerSpec {
        url: issuer.url.clone(),
        groups_prefix: issuer.groups_prefix.clone(),
        leeway_seconds: Some(seconds(issuer.leeway)),
        max_age_seconds: issuer.max_age.map_or(0, seconds),
        ..Default::default()
    };
    match &issuer.kind {
        IssuerKind::Oidc(oidc) => pb::IssuerSpec {
            audiences: oidc.audiences.clone(),
            groups_claim: oidc.groups_claim.clone(),
            algorithms: oidc.algorithms.iter().map(|algorithm| algorithm.as_str().to_owned()).collect(),
            ca_pem: oidc.ca_pem.clone().unwrap_or_default(),
            ..shared
        },
    }
}

/// What only an issuer of tokens has.
fn oidc(spec: pb::IssuerSpec, faults: &mut Faults) -> OidcIssuer {
    let local = ["http://127.0.0.1", "http://[::1]", "http://localhost"];
    let loopback = local
        .iter()
        .any(|base| spec.url.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])));
    if !spec.url.starts_with("https://") && !loopback {
        faults.add("spec.url", "must begin with https:// (http:// only on loopback)");
    }
    if spec.url.contains(['?', '#', ' ']) {
        faults.add("spec.url", "must have no query and no fragment");
    }
    if spec.audiences.is_empty() {
        faults.add("spec.audiences", "must name at least one audience");
    }
    faults.bound_all("spec.audiences", &spec.audiences);
    let mut oidc = OidcIssuer::new(spec.audiences);
    let mut algorithms = Vec::new();
    for (place, text) in spec.algorithms.iter().enumerate() {
        match Algorithm::from_text(text) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                let known: Vec<&str> = Algorithm::ALL.iter().map(|algorithm| algorithm.as_str()).collect();
                faults.add(format!("spec.algorithms[{place}]"), format!("must be one of {}", known.join(", ")));
            }
        }
    }
    if !algorithms.is_empty() {
        oidc.algorithms = algorithms;
    }
    if !spec.groups_claim.is_empty() {
        oidc.groups_claim = spec.groups_claim;
    }
    oidc.ca_pem = Some(spec.ca_pem).filter(|pem| !pem.is_empty());
    oidc
}

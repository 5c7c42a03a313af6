//! Issuers, of every kind.

use std::time::Duration;

use postern_proto::resource::v1 as pb;

use super::faults::{Faults, MAX_TEXT};
use super::login;
use crate::KeptClaims;
use crate::issuer::{
    Algorithm, ClaimPath, ClaimPattern, DEFAULT_LEEWAY, GroupsClaim, GroupsForm, Issuer, IssuerKind, KeySource,
    MAX_METADATA, OidcIssuer, Preset, RequiredClaim, SamlIssuer,
};
use crate::time::Ttl;
use crate::token::SESSION_TOKEN_MAX_TTL;

const MAX_LEEWAY: u32 = 300;
/// Whoever says less would lock its principals out.
const MIN_TOKEN_TTL: u32 = 60;
/// Claims that name groups, and claims that are required.
const MAX_CLAIMS: usize = 32;
/// Claims that are kept because the object says so.
const MAX_KEPT: usize = 16;
/// Alternatives of one required claim.
const MAX_VALUES: usize = 100;
/// Bytes of a JWKS in the declaration.
const MAX_JWKS: usize = 256 << 10;
/// Members of a JSON Web Key that nobody but its owner may know (RFC 7518, section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// SAML 2.0 core, section 8.3.6.
const MAX_ENTITY_ID: usize = 1_024;

pub(super) fn read(spec: pb::IssuerSpec, faults: &mut Faults) -> Option<Issuer> {
    let before = faults.count();
    let leeway = spec.leeway_seconds.map_or(DEFAULT_LEEWAY, |seconds| Duration::from_secs(u64::from(seconds)));
    if leeway > Duration::from_secs(u64::from(MAX_LEEWAY)) {
        faults.add("spec.leeway", format!("must be at most {MAX_LEEWAY} seconds"));
    }
    let preset = preset(&spec.preset, faults);
    let url = match preset.and_then(Preset::url) {
        Some(url) if spec.url.is_empty() => url.to_owned(),
        _ => spec.url.clone(),
    };
    faults.bound("spec.url", url.len(), MAX_TEXT);
    let issuer = Issuer {
        groups_prefix: spec.groups_prefix.clone(),
        leeway,
        max_age: (spec.max_age_seconds > 0).then(|| Duration::from_secs(u64::from(spec.max_age_seconds))),
        max_token_ttl: token_ttl("spec.maxTokenTtl", spec.max_token_ttl_seconds, faults),
        token_ttl: token_ttl("spec.tokenTtl", spec.token_ttl_seconds, faults),
        keep: kept(&spec, faults),
        kind: match &spec.saml {
            Some(it) => IssuerKind::Saml(saml(it.clone(), &spec, faults)),
            None => IssuerKind::Oidc(oidc(spec, &url, preset, faults)),
        },
        url,
    };
    if let (Some(usual), Some(most)) = (issuer.token_ttl, issuer.max_token_ttl)
        && usual > most
    {
        faults.add("spec.tokenTtl", "must be at most maxTokenTtl");
    }
    if faults.count() != before {
        return None;
    }
    for (path, why) in preset.map(|preset| preset.faults(&issuer)).unwrap_or_default() {
        faults.add(path, why);
    }
    (faults.count() == before).then_some(issuer)
}

pub(super) fn to_proto(issuer: &Issuer) -> pb::IssuerSpec {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let shared = pb::IssuerSpec {
        url: issuer.url.clone(),
        groups_prefix: issuer.groups_prefix.clone(),
        leeway_seconds: Some(seconds(issuer.leeway)),
        max_age_seconds: issuer.max_age.map_or(0, seconds),
        max_token_ttl_seconds: issuer.max_token_ttl.map_or(0, |ttl| ttl.0),
        token_ttl_seconds: issuer.token_ttl.map_or(0, |ttl| ttl.0),
        keep_claims: issuer.keep.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    match &issuer.kind {
        IssuerKind::Oidc(oidc) => oidc_to_proto(oidc, shared),
        IssuerKind::Saml(saml) => pb::IssuerSpec {
            saml: Some(pb::SamlIssuer {
                metadata: saml.metadata.clone(),
                entity_id: saml.entity_id.clone(),
                subject_attribute: saml.subject_attribute.clone().unwrap_or_default(),
                groups_attribute: saml.groups_attribute.clone(),
                allow_unsolicited: saml.allow_unsolicited,
                require_encrypted: saml.require_encrypted,
                key_secret: saml.key.as_ref().map(ToString::to_string).unwrap_or_default(),
            }),
            ..shared
        },
    }
}

/// 0: nothing is said.
pub(super) fn token_ttl(path: &str, seconds: u32, faults: &mut Faults) -> Option<Ttl> {
    if seconds > 0 && !(MIN_TOKEN_TTL..=SESSION_TOKEN_MAX_TTL).contains(&seconds) {
        faults.add(path, format!("must be from {MIN_TOKEN_TTL} to {SESSION_TOKEN_MAX_TTL} seconds"));
    }
    (seconds > 0).then_some(Ttl(seconds))
}

/// Names of claims, or of attributes: these are no paths.
fn kept(spec: &pb::IssuerSpec, faults: &mut Faults) -> Vec<ClaimPath> {
    faults.bound("spec.keepClaims", spec.keep_claims.len(), MAX_KEPT);
    let texts = spec.keep_claims.iter().take(MAX_KEPT).enumerate();
    let read = texts.filter_map(|(place, text)| {
        let path = format!("spec.keepClaims[{place}]");
        if spec.saml.is_none() {
            return claim_path(&path, text, faults);
        }
        let fits = !text.is_empty() && text.len() <= KeptClaims::MOST_TEXT;
        if !fits {
            faults.add(path, format!("must have 1 to {} bytes", KeptClaims::MOST_TEXT));
        }
        fits.then(|| ClaimPath::of_name(text))
    });
    read.collect()
}

/// What only an issuer of assertions has. Its metadata is looked into by whoever takes the object in.
fn saml(saml: pb::SamlIssuer, spec: &pb::IssuerSpec, faults: &mut Faults) -> SamlIssuer {
    if spec.url.is_empty() {
        faults.add("spec.url", "must be the identity provider's entity id");
    }
    let only_oidc = [
        ("spec.audiences", spec.audiences.is_empty()),
        ("spec.groupsClaim", spec.groups_claim.is_empty()),
        ("spec.algorithms", spec.algorithms.is_empty()),
        ("spec.ca", spec.ca_pem.is_empty()),
        ("spec.jwksUri", spec.jwks_uri.is_empty()),
        ("spec.jwks", spec.jwks.is_empty()),
        ("spec.subjectClaim", spec.subject_claim.is_empty()),
        ("spec.claimGroups", spec.claim_groups.is_empty()),
        ("spec.requiredClaims", spec.required_claims.is_empty()),
        ("spec.preset", spec.preset.is_empty()),
        ("spec.login", spec.login.is_none()),
    ];
    for (path, absent) in only_oidc {
        if !absent {
            faults.add(path, "is of OIDC, and spec.saml is there");
        }
    }
    if saml.metadata.is_empty() {
        faults.add("spec.saml.metadata", "is missing: the identity provider's EntityDescriptor");
    }
    faults.bound("spec.saml.metadata", saml.metadata.len(), MAX_METADATA);
    if saml.entity_id.is_empty() || saml.entity_id.len() > MAX_ENTITY_ID || saml.entity_id.contains(char::is_whitespace)
    {
        faults.add("spec.saml.entityId", format!("must have 1 to {MAX_ENTITY_ID} bytes, and no white space"));
    }
    for (path, name) in
        [("spec.saml.subjectAttribute", &saml.subject_attribute), ("spec.saml.groupsAttribute", &saml.groups_attribute)]
    {
        faults.bound(path, name.len(), MAX_TEXT);
    }
    if saml.require_encrypted && saml.key_secret.is_empty() {
        faults.add("spec.saml.keySecret", "is needed by requireEncrypted");
    }
    let key = Some(saml.key_secret).filter(|name| !name.is_empty());
    let key = key.and_then(|name| name.parse().map_err(|error| faults.add("spec.saml.keySecret", error)).ok());
    let mut read = SamlIssuer::new(saml.metadata, saml.entity_id);
    read.subject_attribute = Some(saml.subject_attribute).filter(|name| !name.is_empty());
    if !saml.groups_attribute.is_empty() {
        read.groups_attribute = saml.groups_attribute;
    }
    read.allow_unsolicited = saml.allow_unsolicited;
    read.require_encrypted = saml.require_encrypted;
    read.key = key;
    read
}

fn oidc_to_proto(oidc: &OidcIssuer, shared: pb::IssuerSpec) -> pb::IssuerSpec {
    let (jwks_uri, jwks) = match &oidc.keys {
        KeySource::Discovery => (String::new(), String::new()),
        KeySource::At(url) => (url.clone(), String::new()),
        KeySource::Inline(jwks) => (String::new(), jwks.clone()),
    };
    // As before there was a choice: the same issuer is the same bytes.
    let (groups_claim, claim_groups) = match oidc.groups.as_slice() {
        [one] if one.is_plain() => (one.claim.to_string(), Vec::new()),
        many => (String::new(), many.iter().map(groups_to_proto).collect()),
    };
    let required = oidc.required.iter().map(|required| pb::RequiredClaim {
        claim: required.claim.to_string(),
        values: required.values.iter().map(|value| value.as_str().to_owned()).collect(),
    });
    pb::IssuerSpec {
        audiences: oidc.audiences.clone(),
        groups_claim,
        algorithms: oidc.algorithms.iter().map(|algorithm| algorithm.as_str().to_owned()).collect(),
        ca_pem: oidc.ca_pem.clone().unwrap_or_default(),
        jwks_uri,
        jwks,
        subject_claim: if oidc.subject.as_str() == "sub" { String::new() } else { oidc.subject.to_string() },
        claim_groups,
        required_claims: required.collect(),
        preset: oidc.preset.map(Preset::as_str).unwrap_or_default().to_owned(),
        login: oidc.login.as_ref().map(login::to_proto),
        ..shared
    }
}

fn groups_to_proto(groups: &GroupsClaim) -> pb::ClaimGroups {
    let form = match groups.form {
        GroupsForm::List => pb::ClaimForm::List,
        GroupsForm::Spaces => pb::ClaimForm::Spaces,
        GroupsForm::Commas => pb::ClaimForm::Commas,
        GroupsForm::Keys => pb::ClaimForm::Keys,
    };
    pb::ClaimGroups { claim: groups.claim.to_string(), prefix: groups.prefix.clone(), form: form.into() }
}

fn preset(text: &str, faults: &mut Faults) -> Option<Preset> {
    let preset = Preset::from_text(text);
    if preset.is_none() && !text.is_empty() {
        let known: Vec<&str> = Preset::ALL.iter().map(|preset| preset.as_str()).collect();
        faults.add("spec.preset", format!("must be one of {}", known.join(", ")));
    }
    preset
}

/// What only an issuer of tokens has.
fn oidc(spec: pb::IssuerSpec, url: &str, preset: Option<Preset>, faults: &mut Faults) -> OidcIssuer {
    let trust_domain = preset == Some(Preset::Spiffe) && Issuer::trust_domain_of(url) == Some(url);
    if !trust_domain {
        check_url("spec.url", url, faults);
    }
    if spec.audiences.is_empty() {
        faults.add("spec.audiences", "must name at least one audience");
    }
    faults.bound_all("spec.audiences", &spec.audiences);
    let keys = key_source(&spec, faults);
    let login = spec.login.clone().and_then(|login| login::read(login, &spec.audiences, trust_domain, faults));
    let mut required = required(spec.required_claims, faults);
    if let Some(preset) = preset {
        preset.complete(url, &mut required);
    }
    let mut oidc = OidcIssuer { keys, required, preset, login, ..OidcIssuer::new(spec.audiences) };
    let algorithms = algorithms(&spec.algorithms, faults);
    match preset {
        _ if !algorithms.is_empty() => oidc.algorithms = algorithms,
        Some(preset) => oidc.algorithms = preset.algorithms().to_vec(),
        None => {}
    }
    match preset {
        _ if !spec.subject_claim.is_empty() => {
            oidc.subject = claim_path("spec.subjectClaim", &spec.subject_claim, faults).unwrap_or(oidc.subject);
        }
        Some(preset) => oidc.subject = preset.subject(),
        None => {}
    }
    if spec.groups_claim.is_empty() && spec.claim_groups.is_empty() {
        if let Some(preset) = preset {
            oidc.groups = preset.groups();
        }
    } else {
        oidc.groups = groups(&spec.groups_claim, spec.claim_groups, faults);
    }
    oidc.ca_pem = Some(spec.ca_pem).filter(|pem| !pem.is_empty());
    oidc
}

fn check_url(path: &str, url: &str, faults: &mut Faults) {
    let local = ["http://127.0.0.1", "http://[::1]", "http://localhost"];
    let loopback = local
        .iter()
        .any(|base| url.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])));
    if !url.starts_with("https://") && !loopback {
        faults.add(path, "must begin with https:// (http:// only on loopback)");
    }
    if url.contains(['?', '#', ' ']) {
        faults.add(path, "must have no query and no fragment");
    }
}

fn algorithms(texts: &[String], faults: &mut Faults) -> Vec<Algorithm> {
    let mut algorithms = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        match Algorithm::from_text(text) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                let known: Vec<&str> = Algorithm::ALL.iter().map(|algorithm| algorithm.as_str()).collect();
                faults.add(format!("spec.algorithms[{place}]"), format!("must be one of {}", known.join(", ")));
            }
        }
    }
    algorithms
}

fn key_source(spec: &pb::IssuerSpec, faults: &mut Faults) -> KeySource {
    if !spec.jwks_uri.is_empty() && !spec.jwks.is_empty() {
        faults.add("spec.jwks", "give either jwks or jwksUri");
    }
    if !spec.jwks.is_empty() {
        check_jwks("spec.jwks", &spec.jwks, faults);
        return KeySource::Inline(spec.jwks.clone());
    }
    if spec.jwks_uri.is_empty() {
        return KeySource::Discovery;
    }
    faults.bound("spec.jwksUri", spec.jwks_uri.len(), MAX_TEXT);
    check_url("spec.jwksUri", &spec.jwks_uri, faults);
    KeySource::At(spec.jwks_uri.clone())
}

/// That it is a set of public keys. Which of them are of use is seen where they are used.
pub(super) fn check_jwks(path: &str, jwks: &str, faults: &mut Faults) {
    if jwks.len() > MAX_JWKS {
        faults.add(path, format!("is longer than {MAX_JWKS} bytes"));
        return;
    }
    let set: Option<serde_json::Value> = serde_json::from_str(jwks).ok();
    let Some(keys) = set.as_ref().and_then(|set| set.get("keys")).and_then(serde_json::Value::as_array) else {
        faults.add(path, "is not a JSON Web Key set");
        return;
    };
    // Not in the message: what it holds is secret (I5).
    if keys.iter().any(|key| PRIVATE.iter().any(|member| key.get(member).is_some())) {
        faults.add(path, "holds a private key: give public keys only, and take that one for compromised");
    }
}

fn claim_path(path: &str, text: &str, faults: &mut Faults) -> Option<ClaimPath> {
    ClaimPath::parse(text).map_err(|error| faults.add(path, error)).ok()
}

fn groups(claim: &str, claims: Vec<pb::ClaimGroups>, faults: &mut Faults) -> Vec<GroupsClaim> {
    let mut groups = Vec::new();
    if !claim.is_empty() {
        groups.extend(claim_path("spec.groupsClaim", claim, faults).map(GroupsClaim::list));
    }
    faults.bound("spec.claimGroups", claims.len(), MAX_CLAIMS);
    for (place, from) in claims.into_iter().take(MAX_CLAIMS).enumerate() {
        let at = |field: &str| format!("spec.claimGroups[{place}].{field}");
        let form = match pb::ClaimForm::try_from(from.form) {
            Ok(pb::ClaimForm::Unspecified | pb::ClaimForm::List) => GroupsForm::List,
            Ok(pb::ClaimForm::Spaces) => GroupsForm::Spaces,
            Ok(pb::ClaimForm::Commas) => GroupsForm::Commas,
            Ok(pb::ClaimForm::Keys) => GroupsForm::Keys,
            Err(_) => {
                faults.add(at("form"), "must be one of list, spaces, commas, keys");
                GroupsForm::List
            }
        };
        faults.bound(&at("prefix"), from.prefix.len(), MAX_TEXT);
        if let Some(claim) = claim_path(&at("claim"), &from.claim, faults) {
            groups.push(GroupsClaim { claim, prefix: from.prefix, form });
        }
    }
    groups
}

fn required(claims: Vec<pb::RequiredClaim>, faults: &mut Faults) -> Vec<RequiredClaim> {
    let mut required = Vec::new();
    faults.bound("spec.requiredClaims", claims.len(), MAX_CLAIMS);
    for (place, asked) in claims.into_iter().take(MAX_CLAIMS).enumerate() {
        let at = |field: &str| format!("spec.requiredClaims[{place}].{field}");
        if asked.values.is_empty() {
            faults.add(at("values"), "must name at least one value (\"**\" is any)");
        }
        faults.bound(&at("values"), asked.values.len(), MAX_VALUES);
        let mut values = Vec::new();
        for (number, text) in asked.values.iter().take(MAX_VALUES).enumerate() {
            match ClaimPattern::parse(text) {
                Some(value) => values.push(value),
                None => faults
                    .add(format!("{}[{number}]", at("values")), format!("must have 1 to {} bytes", ClaimPattern::MAX)),
            }
        }
        if let Some(claim) = claim_path(&at("claim"), &asked.claim, faults) {
            required.push(RequiredClaim { claim, values });
        }
    }
    required
}

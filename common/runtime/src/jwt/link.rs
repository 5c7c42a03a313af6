//! Links: narrower children of a session token, signed by the holder of its delegation key, without a call to anybody.
//!
//! A chain is `TOKEN~LINK~LINK`. Each link is a JWS (RFC 7515) over [`LinkClaims`], bound to all before it by its digest and signed by the key
//! that the one before it names; the first is named by the cluster's own signature. What a chain is good for is what all of it leaves over, so
//! that a link can only narrow; its end is the earliest of all ends.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postern_core::Timestamp;
use postern_core::principal::{Actor, Link};
use postern_core::revocation::Bearer;
use postern_core::scope::Scope;
use postern_core::token::{Confirmation, Delegation, LINK_SEPARATOR, LINK_TYPE, LinkClaims, MAX_ACTOR};
use rcgen::KeyPair;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::jws::{KeyError, Parts};
use super::seen::Digest;
use super::session::{Checked, sha256};
use super::signer::signed;
use super::{TokenError, lives};

/// Bytes of a link's digest that are its id.
const ID: usize = 16;

/// What `link` makes of the chain before it, of which `digest` is.
pub(super) fn follow(before: &Checked, link: &str, digest: &Digest) -> Result<Checked, TokenError> {
    let parts = Parts::parse(link)?;
    if parts.header.typ.as_deref() != Some(LINK_TYPE) {
        return Err(TokenError::claims("a link's typ"));
    }
    let Some((key, left)) = &before.delegation else {
        return Err(TokenError::claims("the token before a link has no delegation key"));
    };
    parts.verify_ed25519(key)?;
    let claims: LinkClaims = serde_json::from_slice(&parts.payload).map_err(|_| TokenError::claims("not a link's"))?;
    if claims.par != URL_SAFE_NO_PAD.encode(digest) {
        return Err(TokenError::claims("a link's par is another token"));
    }
    claims.scope.check().map_err(|fault| TokenError::claims(fault.to_string()))?;
    let actor =
        claims.name.map(|name| if is_actor(&name) { Ok(name) } else { Err(TokenError::claims("a link's name")) });
    let actor = actor.transpose()?.map(|name| Actor { issuer: None, name: name.into() });
    // Of the signed text, not of the signature: there is one id for one meaning.
    let hash = sha256(link.rsplit_once('.').map_or(link, |(signed, _)| signed));
    let id: Arc<str> = format!("lnk_{}", URL_SAFE_NO_PAD.encode(hash.get(..ID).unwrap_or(&hash))).into();

    let mut principal = before.principal.clone();
    if principal.chain.is_empty()
        && let Some(root) = &principal.token_id
    {
        principal.chain.push(Link { token: Arc::clone(root), actor: None, scope: Scope::default() });
    }
    principal.chain.push(Link { token: Arc::clone(&id), actor, scope: claims.scope });
    let expires_at = before.expires_at.min(Timestamp::from_secs(claims.exp));
    principal.token_id = Some(id);
    principal.expires_at = Some(expires_at);
    // From when the cluster issued the first: what a link says of its own beginning is its holder's word.
    let shorter = lives(expires_at, before.expires_at);
    principal.claims.live(before.principal.claims.token_ttl().unwrap_or(u32::MAX).saturating_sub(shorter));
    let begins = Timestamp::from_secs(claims.nbf.unwrap_or(0).max(claims.iat));
    let delegation = claims.dlg.map(|dlg| delegation(&dlg, left.saturating_sub(1)));
    Ok(Checked {
        bearer: Bearer::new(&principal, true, before.origin, before.issued_at).signed_by(&before.signers),
        origin: before.origin,
        signers: before.signers.clone(),
        principal,
        issued_at: before.issued_at,
        depth: before.depth.saturating_add(1),
        not_before: before.not_before.max(begins),
        expires_at,
        delegation: delegation.transpose()?,
        confirmation: claims.cnf.or_else(|| before.confirmation.clone()),
    })
}

/// The key that signs what follows, and how many links may: at most `left`.
pub(super) fn delegation(dlg: &Delegation, left: u8) -> Result<(ParsedPublicKey, u8), TokenError> {
    let depth = dlg.depth.min(left);
    if depth == 0 {
        return Err(TokenError::claims("dlg: it may be handed on no further"));
    }
    let x = URL_SAFE_NO_PAD.decode(&dlg.x).ok().filter(|x| x.len() == 32);
    let key = x.and_then(|x| ParsedPublicKey::new(&ED25519, x).ok());
    Ok((key.ok_or_else(|| TokenError::claims("dlg: not an Ed25519 key"))?, depth))
}

/// Whether a parent may call so whom it hands a token to: it is shown in logs and on terminals.
#[must_use]
pub fn is_actor(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_ACTOR && !name.chars().any(char::is_control)
}

/// The key by which a token's holder hands it on. It never leaves its holder.
pub struct DelegationKey {
    key: KeyPair,
    pem: SecretString,
}

/// What stands before the 32 bytes of an Ed25519 key in the first version of PKCS#8 (RFC 8410, section 7), which everything reads: OpenSSL 3.0 does not
/// read the second.
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What a link is to say beside what it is bound to.
#[derive(Clone, Debug, Default)]
pub struct NewLink {
    /// Who is handed it; none: the holder itself, who shows its own token so.
    pub name: Option<String>,
    /// What it is good for.
    pub scope: Scope,
    /// Its end, if that is before the token's own.
    pub expires_at: Timestamp,
    /// Who may hand it on.
    pub delegation: Option<Delegation>,
    /// Of what its bearer must prove possession.
    pub confirmation: Option<Confirmation>,
}

impl DelegationKey {
    /// A fresh key.
    ///
    /// # Errors
    /// The system cannot generate keys.
    pub fn generate() -> Result<Self, KeyError> {
        let mut der = Zeroizing::new([0; 48]);
        let (head, seed) = der.split_at_mut(PKCS8.len());
        head.copy_from_slice(&PKCS8);
        aws_lc_rs::rand::fill(seed).map_err(|_| KeyError::SigningKey)?;
        let text = Zeroizing::new(STANDARD.encode(der.as_slice()));
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *text);
        Self::from_pem(&SecretString::from(pem))
    }

    /// From what [`Self::to_pem`] gave, or OpenSSL: PKCS#8.
    ///
    /// # Errors
    /// The key is unreadable, or not Ed25519.
    pub fn from_pem(key_pem: &SecretString) -> Result<Self, KeyError> {
        let key = KeyPair::from_pem_and_sign_algo(key_pem.expose_secret(), &rcgen::PKCS_ED25519);
        Ok(Self { key: key.map_err(|_| KeyError::SigningKey)?, pem: key_pem.clone() })
    }

    /// The private key (PKCS#8).
    #[must_use]
    pub fn to_pem(&self) -> SecretString {
        self.pem.clone()
    }

    /// The public key, 32 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.key.public_key_raw()
    }

    /// What names the key in a token that may be handed on `depth` times.
    #[must_use]
    pub fn delegation(&self, depth: u8) -> Delegation {
        Delegation::new(self.public(), depth)
    }

    /// `token` (with the links that it has) and one more behind it.
    ///
    /// # Errors
    /// The key failed to sign.
    pub fn hand_on(&self, token: &str, new: NewLink, now: Timestamp) -> Result<String, KeyError> {
        let claims = LinkClaims {
            par: URL_SAFE_NO_PAD.encode(sha256(token)),
            exp: new.expires_at.secs(),
            iat: now.secs(),
            nbf: None,
            name: new.name,
            scope: new.scope,
            dlg: new.delegation,
            cnf: new.confirmation,
        };
        let link = signed(&self.key, &serde_json::json!({"alg": "EdDSA", "typ": LINK_TYPE}), &claims)?;
        Ok(format!("{token}{LINK_SEPARATOR}{link}"))
    }
}

impl fmt::Debug for DelegationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DelegationKey")
    }
}

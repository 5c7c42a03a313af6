//! A token's verification: new, and known from before; made by the control plane (depth 3, one signature), and handed on by its holders (four signatures).
//! Of a new one whose parent is known, only the last link is new.

use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use postern_core::Timestamp;
use postern_core::scope::Scope;
use postern_core::snapshot::Snapshot;
use postern_core::token::{MAX_DEPTH, SessionClaims};
use postern_runtime::jwt::{DelegationKey, NewLink, SessionSigner, Verifier};

use crate::decide::principal;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const END: Timestamp = Timestamp::from_secs(1_800_000_900);

struct Tokens {
    snapshot: Snapshot,
    /// By the control plane, of depth 3.
    minted: String,
    /// What is handed on, and what is shown: a token and three links.
    root: String,
    linked: String,
    last: DelegationKey,
    before_last: String,
}

fn tokens() -> Tokens {
    let signer = SessionSigner::generate().unwrap();
    let snapshot = Snapshot { session_token_jwks: signer.jwks(), ..Snapshot::empty("c", "i") };
    let claims = || SessionClaims::new("c", "tok_1", principal(), (NOW, END));
    let mut child = claims();
    for depth in 1..=3 {
        let token = if depth == 3 { "tok_1".into() } else { format!("tok_{depth}").into() };
        let scope = Scope::of_targets(["shop".parse().unwrap()]);
        child.principal.chain.push(postern_core::principal::Link { token, actor: None, scope });
    }
    child.depth = 3;
    let key = DelegationKey::generate().unwrap();
    let mut root = claims();
    root.dlg = Some(key.delegation(MAX_DEPTH));
    let root = signer.sign(&root).unwrap();
    let (mut token, mut key) = (root.clone(), key);
    for name in ["planner", "executor"] {
        let next = DelegationKey::generate().unwrap();
        let link = NewLink { delegation: Some(next.delegation(MAX_DEPTH)), ..link(name) };
        token = key.hand_on(&token, link, NOW).unwrap();
        key = next;
    }
    let linked = key.hand_on(&token, link("tool"), NOW).unwrap();
    Tokens { snapshot, minted: signer.sign(&child).unwrap(), root, linked, last: key, before_last: token }
}

fn link(name: &str) -> NewLink {
    let scope = Scope::of_targets(["shop".parse().unwrap()]);
    NewLink { name: Some(name.to_owned()), scope, expires_at: END, ..NewLink::default() }
}

/// Every bench of this file.
pub(crate) fn all(bench: &mut Criterion) {
    let tokens = tokens();
    let fresh = || Verifier::from_snapshot(&tokens.snapshot);
    for (name, token) in [("minted", &tokens.minted), ("3 links", &tokens.linked)] {
        bench.bench_function(&format!("token/new, {name}"), |b| {
            b.iter_batched(fresh, |verifier| black_box(verifier.verify(token, NOW)).unwrap(), BatchSize::SmallInput);
        });
        let verifier = fresh();
        verifier.verify(token, NOW).unwrap();
        bench.bench_function(&format!("token/known, {name}"), |b| {
            b.iter(|| black_box(verifier.verify(token, NOW)).unwrap());
        });
    }
    // As a rule many children come of one parent.
    let verifier = fresh();
    verifier.verify(&tokens.linked, NOW).unwrap();
    assert!(verifier.verify(&tokens.root, NOW).is_err(), "it is to be handed on only");
    let mut count = 0;
    let mut siblings = || {
        count += 1;
        tokens.last.hand_on(&tokens.before_last, link(&format!("tool-{count}")), NOW).unwrap()
    };
    bench.bench_function("token/new, 1 of 3 links", |b| {
        b.iter_batched(&mut siblings, |token| black_box(verifier.verify(&token, NOW)).unwrap(), BatchSize::SmallInput);
    });
}

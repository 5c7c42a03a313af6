//! Chains: a token and the links by which it was handed on.

use postern_core::action::{Action, Object, ObjectKind, Verb};
use postern_core::policy::ActionPattern;
use postern_core::principal::Link;
use postern_core::scope::{Network, Scope, Scopes};
use postern_core::token::{Delegation, LINK_SEPARATOR, MAX_DEPTH};
use proptest::prelude::*;

use super::*;

/// A cluster, and a root token with a delegation key.
struct Chain {
    verifier: SessionVerifier,
    root: String,
    key: DelegationKey,
}

impl Chain {
    fn new(change: impl FnOnce(&mut SessionClaims, &DelegationKey)) -> Self {
        let signer = SessionSigner::generate().unwrap();
        let verifier = SessionVerifier::new("c1", &signer.jwks()).unwrap();
        let key = DelegationKey::generate().unwrap();
        let mut claims =
            SessionClaims { targets: Vec::new(), dlg: Some(key.delegation(MAX_DEPTH)), ..session_claims() };
        change(&mut claims, &key);
        Self { verifier, root: signer.sign(&claims).unwrap(), key }
    }

    fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        self.verifier.verify(token, now())
    }
}

fn end() -> Timestamp {
    Timestamp::from_secs(NOW + 60)
}

fn named(name: &str) -> NewLink {
    NewLink { name: Some(name.to_owned()), expires_at: end(), ..NewLink::default() }
}

fn claims_of(error: Result<Verified, TokenError>) -> String {
    match error {
        Err(TokenError::Claims(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_link_stands_for_the_key_that_signed_its_root() {
    let chain = Chain::new(|_, _| {});
    let link = chain.verify(&chain.key.hand_on(&chain.root, named("planner"), now()).unwrap()).unwrap();
    assert_eq!(link.signers.len(), 1);
    assert!(link.bearer.keys().contains(&link.signers[0]));
}

#[test]
fn a_link_lives_from_when_the_root_was_issued() {
    // 900 s, of which the link ends at 60: what it says of its own beginning does not count.
    let chain = Chain::new(|_, _| {});
    let later = Timestamp::from_secs(NOW + 30);
    let link = chain.key.hand_on(&chain.root, named("planner"), later).unwrap();
    let found = chain.verifier.verify(&link, later).unwrap();
    assert_eq!(found.principal.claims.token_ttl(), Some(60));
    let long = NewLink { expires_at: Timestamp::from_secs(NOW + 9_999), ..named("executor") };
    let long = chain.key.hand_on(&chain.root, long, now()).unwrap();
    assert_eq!(chain.verify(&long).unwrap().principal.claims.token_ttl(), Some(900));
}

#[test]
fn a_chain_says_who_acts_for_whom_and_ends_with_its_first_end() {
    let chain = Chain::new(|_, _| {});
    let planner = DelegationKey::generate().unwrap();
    let first = NewLink { delegation: Some(planner.delegation(9)), ..named("planner") };
    let first = chain.key.hand_on(&chain.root, first, now()).unwrap();
    let long = NewLink { expires_at: Timestamp::from_secs(NOW + 9_999), ..named("executor") };
    let second = planner.hand_on(&first, long, now()).unwrap();
    let found = chain.verify(&second).unwrap();
    assert_eq!(found.principal.to_string(), "ci/robot by planner > executor");
    assert_eq!((found.principal.expires_at, found.depth), (Some(end()), Some(2)));
    let tokens: Vec<&str> = found.principal.tokens().map(|id| &**id).collect();
    assert_eq!((tokens.len(), tokens[0]), (3, "tok_1"));
    assert!(
        tokens[1].starts_with("lnk_")
            && tokens[1].len() == 26
            && tokens[2] == found.principal.token_id.as_deref().unwrap()
    );
    // Each part of it is known now, and so is what it says.
    assert_eq!(chain.verifier.known(), 3);
    assert_eq!(chain.verify(&second).unwrap(), found);
    assert_eq!(chain.verifier.verify(&second, end()), Err(TokenError::Expired));
}

#[test]
fn who_was_handed_a_link_cannot_cut_it_off() {
    let chain = Chain::new(|_, _| {});
    let child = chain.key.hand_on(&chain.root, named("child"), now()).unwrap();
    assert!(chain.verify(&child).is_ok());
    assert_eq!(chain.verify(&chain.root), Err(TokenError::Delegable));
    assert_eq!(TokenError::Delegable.code(), Code::TokenInvalid);
    // Nor add one without a key.
    let own = DelegationKey::generate().unwrap();
    let more = own.hand_on(&child, named("mine"), now()).unwrap();
    assert!(claims_of(chain.verify(&more)).contains("no delegation key"));
    // Nor sign one for the root by a key of its own.
    let forged = own.hand_on(&chain.root, named("mine"), now()).unwrap();
    assert_eq!(chain.verify(&forged), Err(TokenError::Signature));
}

#[test]
fn a_link_is_a_child_of_one_token_alone() {
    // The same key in two tokens of one cluster: a link of one is none of the other.
    let signer = SessionSigner::generate().unwrap();
    let verifier = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    let key = DelegationKey::generate().unwrap();
    let root = |jti: &str| {
        let dlg = Some(key.delegation(2));
        let claims = SessionClaims { jti: jti.to_owned(), targets: Vec::new(), dlg, ..session_claims() };
        signer.sign(&claims).unwrap()
    };
    let (narrow, wide) = (root("tok_narrow"), root("tok_wide"));
    let child = key.hand_on(&narrow, named("child"), now()).unwrap();
    assert!(verifier.verify(&child, now()).is_ok());
    let moved = child.replace(&narrow, &wide);
    assert!(claims_of(verifier.verify(&moved, now())).contains("another token"));
    // What was remembered of the one is not taken for the other either way.
    assert!(verifier.verify(&child, now()).is_ok() && verifier.verify(&moved, now()).is_err());
}

#[test]
fn chains_end_where_they_may_go_no_further() {
    let chain = Chain::new(|claims, key| claims.dlg = Some(key.delegation(2)));
    let again = |depth| NewLink { delegation: Some(chain.key.delegation(depth)), ..named("again") };
    let one = chain.key.hand_on(&chain.root, again(5), now()).unwrap();
    // It asks for more than is left: the second may be shown, but not be handed on.
    let two = chain.key.hand_on(&one, named("last"), now()).unwrap();
    assert_eq!(chain.verify(&two).unwrap().depth, Some(2));
    let on = chain.key.hand_on(&one, again(1), now()).unwrap();
    assert!(claims_of(chain.verify(&on)).contains("no further"));
    assert!(claims_of(chain.verify(&chain.key.hand_on(&on, named("x"), now()).unwrap())).contains("no further"));
    let none = chain.key.hand_on(&chain.root, again(0), now()).unwrap();
    assert!(claims_of(chain.verify(&none)).contains("no further"));
    let long = [chain.root.as_str()].into_iter().chain(std::iter::repeat_n("a.b.c", 6)).collect::<Vec<_>>();
    assert!(claims_of(chain.verify(&long.join("~"))).contains("more links"));
    // One that the control plane made of five others has none left.
    let deep = Chain::new(|claims, _| claims.depth = MAX_DEPTH);
    assert!(claims_of(deep.verify(&deep.root)).contains("no further"));
}

#[test]
fn refuses_links_that_do_not_fit() {
    let chain = Chain::new(|_, _| {});
    let link = |change: &dyn Fn(&mut NewLink)| {
        let mut new = named("x");
        change(&mut new);
        chain.verify(&chain.key.hand_on(&chain.root, new, now()).unwrap())
    };
    assert!(link(&|_| {}).is_ok());
    assert_eq!(link(&|new| new.expires_at = now()), Err(TokenError::Expired));
    for bad in ["", "a\nb", "\u{7f}", &"x".repeat(129)] {
        assert!(link(&|new| new.name = Some(bad.to_owned())).is_err(), "{bad:?}");
    }
    let many = (0..=64).map(|n| name(&format!("t{n}")));
    assert!(link(&|new| new.scope = Scope::of_targets(many.clone())).is_err());
    assert!(link(&|new| new.delegation = Some(Delegation { x: "AAAA".to_owned(), depth: 1 })).is_err());

    // In any other shape: another type, another algorithm, what is not known, an empty part.
    let pem = chain.key.to_pem();
    let key = EncodingKey::from_ed_pem(secrecy::ExposeSecret::expose_secret(&pem).as_bytes()).unwrap();
    let sealed = chain.key.hand_on(&chain.root, named("x"), now()).unwrap();
    let link = sealed.rsplit_once('~').unwrap().1;
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(link.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let shaped = |typ: Option<&str>, claims: &Value| {
        let mut header = Header::new(Alg::EdDSA);
        header.typ = typ.map(str::to_owned);
        format!("{}~{}", chain.root, jsonwebtoken::encode(&header, claims, &key).unwrap())
    };
    assert!(chain.verify(&shaped(Some("postern-link+jwt"), &claims)).is_ok());
    for typ in [None, Some("JWT"), Some("postern-session+jwt"), Some("postern-scoped+jwt")] {
        assert!(chain.verify(&shaped(typ, &claims)).is_err(), "{typ:?}");
    }
    let mut unknown = claims.clone();
    unknown["once"] = json!(true);
    assert!(chain.verify(&shaped(Some("postern-link+jwt"), &unknown)).is_err());
    let mut unknown = claims;
    unknown["scope"]["columns"] = json!(["email"]);
    assert!(chain.verify(&shaped(Some("postern-link+jwt"), &unknown)).is_err());
    for odd in
        [format!("{}~", chain.root), format!("~{}", chain.root), format!("{sealed}~"), "~".to_owned(), "~~".to_owned()]
    {
        assert!(chain.verify(&odd).is_err(), "{odd}");
    }
    assert_eq!(
        chain.verify(&format!("{}~{}", chain.root, chain.root)).map(drop),
        Err(TokenError::claims("a link's typ"))
    );
}

#[test]
fn a_bound_token_is_not_taken_without_what_it_is_bound_to() {
    let thumb = Confirmation::Certificate("AAAA".to_owned());
    let chain = Chain::new(|claims, _| claims.cnf = Some(thumb.clone()));
    // A child that says nothing of it is bound as its parent is.
    let found = chain.verify(&chain.key.hand_on(&chain.root, named("x"), now()).unwrap()).unwrap();
    assert_eq!(found.confirmation, Some(thumb));
    assert_eq!(found.shown_from(None), Err(TokenError::Unconfirmed));
}

fn targets() -> impl Strategy<Value = Vec<Name>> {
    prop::collection::vec("[abc]".prop_map(|text| name(&text)), 0..3)
}

fn actions() -> impl Strategy<Value = Vec<ActionPattern>> {
    let one = prop::sample::select(vec!["*", "sql:*", "sql:select", "sql:update", "sql:delete"]);
    prop::collection::vec(one.prop_map(|text| ActionPattern::parse(text).unwrap()), 0..3)
}

fn networks() -> impl Strategy<Value = Vec<Network>> {
    let one = prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.0.2.0/24", "::/0"]);
    prop::collection::vec(one.prop_map(|text| text.parse().unwrap()), 0..2)
}

fn scope() -> impl Strategy<Value = Scope> {
    (targets(), actions(), networks()).prop_map(|(targets, actions, networks)| Scope {
        targets: targets.into_iter().collect(),
        actions,
        networks,
        ..Scope::default()
    })
}

/// Everything that a token may be asked for here.
fn asked() -> Vec<(Name, Action, IpAddr)> {
    let object = || Object::new(ObjectKind::Relation, ["shop", "public", "orders"]);
    let mut all = Vec::new();
    for target in ["a", "b", "c", "d"] {
        for verb in [Verb::SqlSelect, Verb::SqlUpdate, Verb::SqlDelete, Verb::SqlDrop] {
            for from in ["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "::1"] {
                all.push((name(target), Action::new(verb, object()), from.parse().unwrap()));
            }
        }
    }
    all
}

fn allowed(verified: &Verified) -> Vec<bool> {
    let scopes = Scopes::of(&verified.principal);
    let is = |(target, action, from): &(Name, Action, IpAddr)| {
        verified.principal.reaches(target) && scopes.cover(action) && verified.shown_from(Some(*from)).is_ok()
    };
    asked().iter().map(is).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I6: whatever a chain's links say, made by the control plane or by their holders, a child may do nothing that its parent may not.
    #[test]
    fn what_a_child_may_do_its_parent_may(
        root in scope(),
        links in prop::collection::vec((scope(), 1..2_000_u64), 1..5),
    ) {
        let chain = Chain::new(|claims, _| {
            claims.principal.chain.push(Link { token: claims.jti.as_str().into(), actor: None, scope: root.clone() });
        });
        let mut keys = vec![DelegationKey::from_pem(&chain.key.to_pem()).unwrap()];
        // As it would be shown by the holder itself.
        let shown = |token: &str, key: &DelegationKey| {
            let own = NewLink { expires_at: Timestamp::from_secs(NOW + 9_999), ..NewLink::default() };
            chain.verify(&key.hand_on(token, own, now()).unwrap()).unwrap()
        };
        let mut token = chain.root.clone();
        let mut parent = shown(&token, &keys[0]);
        for (scope, ttl) in links {
            let next = DelegationKey::generate().unwrap();
            let new = NewLink {
                scope,
                expires_at: Timestamp::from_secs(NOW + ttl),
                delegation: Some(next.delegation(9)),
                ..named("child")
            };
            token = keys.last().unwrap().hand_on(&token, new, now()).unwrap();
            let child = shown(&token, &next);
            for (is, was) in allowed(&child).into_iter().zip(allowed(&parent)) {
                prop_assert!(was || !is);
            }
            prop_assert!(child.principal.expires_at <= parent.principal.expires_at);
            prop_assert_eq!(&child.principal.id, &parent.principal.id);
            prop_assert_eq!(&child.principal.groups, &parent.principal.groups);
            // Whatever is denied to a token is denied to its children.
            prop_assert!(parent.principal.chain.iter().all(|link| child.principal.tokens().any(|id| *id == link.token)
                || Some(&link.token) == parent.principal.token_id.as_ref()));
            parent = child;
            keys.push(next);
        }
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,200}", cut in 0_usize..400, flip in 0_usize..400) {
        let chain = Chain::new(|_, _| {});
        prop_assert!(chain.verify(&text).is_err());
        let token = chain.key.hand_on(&chain.root, named("x"), now()).unwrap();
        let cut: String = token.chars().take(cut).collect();
        prop_assert!(chain.verify(&cut).is_err());
        let flipped: String = token
            .char_indices()
            .map(|(at, c)| if at == flip { if c == 'A' { 'B' } else { 'A' } } else { c })
            .collect();
        prop_assert!(flipped == token || chain.verify(&flipped).is_err());
        let longer = format!("{token}{LINK_SEPARATOR}{text}");
        prop_assert!(chain.verify(&longer).is_err());
    }
}

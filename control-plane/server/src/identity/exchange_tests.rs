use std::collections::BTreeSet;

use postern_core::Principal;
use postern_core::policy::ActionPattern;
use postern_core::principal::PrincipalId;
use postern_runtime::jwt::{DelegationKey, NewLink, SessionVerifier, TokenError};

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn subject(ends_in: u64) -> Verified {
    let principal = Principal {
        id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
        groups: BTreeSet::from(["dev".into()]),
        token_id: Some("idp-1".into()),
        expires_at: Some(Timestamp::from_secs(NOW.secs() + ends_in)),
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    };
    Verified::fresh(principal, NOW)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn targets(of: &[&str]) -> Wanted {
    Wanted { scope: Scope::of_targets(of.iter().map(|target| name(target))), ..Wanted::default() }
}

struct House {
    signer: SessionSigner,
    verifier: SessionVerifier,
}

impl House {
    fn new() -> Self {
        let signer = SessionSigner::generate().unwrap();
        let verifier = SessionVerifier::new("c", &signer.jwks()).unwrap();
        Self { signer, verifier }
    }

    fn mint(&self, subject: Verified, wanted: Wanted) -> Result<Minted, ExchangeError> {
        exchange(&self.signer, "c", subject, wanted, NOW)
    }

    fn shown(&self, token: &str) -> Verified {
        self.verifier.verify(token, NOW).unwrap()
    }

    fn made(&self, subject: Verified, wanted: Wanted) -> Verified {
        self.shown(&self.mint(subject, wanted).unwrap().token)
    }
}

fn reaches(verified: &Verified, target: &str) -> bool {
    verified.principal.reaches(&name(target))
}

#[test]
fn never_outlives_or_outreaches_its_subject() {
    let house = House::new();
    let whole = house.made(subject(9_000), Wanted::default());
    assert!(whole.principal.is_whole() && whole.depth == Some(0));
    let narrow = house.made(subject(100), targets(&["db"]));
    assert_eq!(narrow.principal.expires_at.unwrap().secs(), NOW.secs() + 100);
    assert!(reaches(&narrow, "db") && !reaches(&narrow, "other") && !narrow.principal.is_whole());
    assert_eq!(&*narrow.principal.id.subject, "alice");

    let wider = house.mint(narrow.clone(), targets(&["db", "other"]));
    assert!(matches!(wider, Err(ExchangeError::Wider(_))));
    // Asked for nothing, it stays as narrow.
    let same = house.made(narrow, Wanted { ttl: 60, ..Wanted::default() });
    assert!(reaches(&same, "db") && !reaches(&same, "other"));
    assert_eq!(same.principal.expires_at.unwrap().secs(), NOW.secs() + 60);
    assert!(matches!(house.mint(subject(0), Wanted::default()), Err(ExchangeError::Expired)));
    let long = Wanted { ttl: SESSION_TOKEN_MAX_TTL + 1, ..Wanted::default() };
    assert!(matches!(house.mint(subject(90_000), long), Err(ExchangeError::TooLong(SESSION_TOKEN_MAX_TTL))));
    let stranger = SessionVerifier::new("other", &house.signer.jwks()).unwrap();
    let token = house.mint(subject(100), Wanted::default()).unwrap().token;
    assert_eq!(stranger.verify(&token, NOW), Err(TokenError::Issuer));
}

#[test]
fn a_token_of_targets_alone_is_as_former_versions_know_it() {
    let house = House::new();
    let typ = |token: &str| {
        use base64::Engine as _;
        let header = token.split('.').next().unwrap();
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
        serde_json::from_slice::<serde_json::Value>(&header).unwrap()["typ"].as_str().unwrap().to_owned()
    };
    let plain = house.mint(subject(900), targets(&["db"])).unwrap();
    assert_eq!(typ(&plain.token), "postern-session+jwt");
    // What they would pass over, they do not take for a session token at all.
    let mut wanted = targets(&["db"]);
    wanted.scope.actions.push(ActionPattern::parse("sql:select").unwrap());
    assert_eq!(typ(&house.mint(subject(900), wanted).unwrap().token), "postern-scoped+jwt");
    let child = house.mint(house.shown(&plain.token), Wanted::default()).unwrap();
    assert_eq!(typ(&child.token), "postern-scoped+jwt");
}

#[test]
fn children_say_whose_they_are_and_who_acts() {
    let house = House::new();
    let as_actor =
        |actor: &str| Wanted { actor: Some(Actor { issuer: None, name: actor.into() }), ..Wanted::default() };
    let parent = house.mint(subject(900), Wanted::default()).unwrap();
    let planner = house.mint(house.shown(&parent.token), as_actor("planner")).unwrap();
    let executor = house.made(house.shown(&planner.token), as_actor("executor"));
    assert_eq!(executor.depth, Some(2));
    let tokens: Vec<&str> = executor.principal.tokens().map(|id| &**id).collect();
    let own = executor.principal.token_id.as_deref().unwrap();
    assert_eq!(tokens, [&*parent.id, &*planner.id, own]);
    assert_eq!(executor.principal.to_string(), "corp/alice by planner > executor");
    let mut deep = executor;
    for _ in 2..MAX_DEPTH {
        deep = house.made(deep, Wanted::default());
    }
    assert!(matches!(house.mint(deep.clone(), Wanted::default()), Err(ExchangeError::TooDeep)));
}

#[test]
fn a_delegation_key_leaves_room_for_what_may_still_follow() {
    let house = House::new();
    let key = DelegationKey::generate().unwrap();
    let wanted = |depth| Wanted { delegation: Some((key.public().to_vec(), depth)), ..Wanted::default() };
    let token = house.mint(subject(900), wanted(2)).unwrap().token;
    assert_eq!(house.verifier.verify(&token, NOW), Err(TokenError::Delegable));
    let end = Timestamp::from_secs(NOW.secs() + 60);
    let own = key.hand_on(&token, NewLink { expires_at: end, ..NewLink::default() }, NOW).unwrap();
    // The holder may go on from its own link; what comes out is deeper by it.
    let child = house.made(house.shown(&own), Wanted::default());
    assert_eq!((child.depth, child.principal.tokens().count()), (Some(2), 3));
    let mut deep = child;
    while deep.depth != Some(MAX_DEPTH) {
        deep = house.made(deep, Wanted::default());
    }
    assert!(matches!(house.mint(deep, wanted(0)), Err(ExchangeError::TooDeep)));
}

#[test]
fn who_acts_is_named_and_the_token_ends_with_theirs() {
    let house = House::new();
    let agent = Actor { issuer: Some(name("agents")), name: "planner".into() };
    let until = Some(Timestamp::from_secs(NOW.secs() + 60));
    let made = house.made(subject(900), Wanted { actor: Some(agent), until, ..Wanted::default() });
    assert_eq!(made.principal.to_string(), "corp/alice by agents/planner");
    assert_eq!(made.principal.expires_at, until);
    assert!(!made.principal.is_whole());
}

#[test]
fn a_bound_token_is_of_no_use_without_its_certificate() {
    let house = House::new();
    let confirmation = Some(postern_core::token::Confirmation::certificate(&[7; 32]));
    let wanted = || Wanted { confirmation: confirmation.clone(), ..Wanted::default() };
    let made = house.made(subject(900), wanted());
    assert_eq!((&made.confirmation, made.shown_from(None)), (&confirmation, Err(TokenError::Unconfirmed)));
    assert_eq!(made.shown_with(None, Some(&[8; 32])), Err(TokenError::Unconfirmed));
    assert_eq!(made.shown_with(None, Some(&[7; 32])), Ok(()));
    // What is made from it is bound like it.
    assert_eq!(house.made(made, Wanted::default()).confirmation, confirmation);
}

#[test]
fn what_is_made_stands_for_every_key_that_it_comes_of() {
    let (old, new) = (House::new(), House::new());
    let kid = |house: &House| Revoked::SigningKey(house.signer.kid().into()).key();
    let both = format!(r#"{{"keys":[{},{}]}}"#, old.signer.jwk(), new.signer.jwk());
    let new = House { verifier: SessionVerifier::new("c", &both).unwrap(), ..new };
    let parent = old.made(subject(900), Wanted::default());
    assert_eq!(parent.signers, [kid(&old)]);
    // The child is signed by another key; who revokes the parent's means it, and its own children.
    let child = new.made(parent, Wanted::default());
    assert_eq!(child.signers, [kid(&new), kid(&old)]);
    let grandchild = new.made(child, Wanted::default());
    assert_eq!(grandchild.signers, [kid(&new), kid(&old)]);
    assert!(grandchild.signers.iter().all(|signer| grandchild.bearer.keys().contains(signer)));
}

#[test]
fn it_lives_as_long_as_is_usual_and_no_longer_than_may_be() {
    let house = House::new();
    let lives = |ttl, usual, most, no_wish| {
        let wanted = Wanted { ttl, usual, most, no_wish, ..Wanted::default() };
        house.mint(subject(90_000), wanted).map(|minted| minted.lives)
    };
    for (ttl, usual, most, no_wish, wanted) in [
        (0, None, None, false, 900),
        (0, Some(1_800), None, false, 1_800),
        (0, None, Some(600), false, 600),
        (0, Some(1_800), Some(600), false, 600),
        (3_600, Some(1_800), None, false, 3_600),
        (3_600, None, Some(600), true, 600),
        (3_600, Some(300), Some(600), true, 300),
        (3_600, None, None, true, 3_600),
        (99_999, None, None, true, 43_200),
    ] {
        assert_eq!(lives(ttl, usual, most, no_wish).unwrap(), wanted, "{ttl} {usual:?} {most:?} {no_wish}");
    }
    assert!(matches!(lives(601, None, Some(600), false), Err(ExchangeError::TooLong(600))));
}

#[test]
fn others_may_know_the_issuer_by_its_url() {
    let house = House::new();
    let at = |iss: &str| house.mint(subject(900), Wanted { iss: Some(iss.to_owned()), ..Wanted::default() });
    assert_eq!(&*house.shown(&at("https://postern.example").unwrap().token).principal.id.subject, "alice");
    let refused = house.verifier.verify(&at("corp").unwrap().token, NOW);
    assert_eq!(refused, Err(TokenError::Issuer));
}

//! What is not a good token opens nothing, and says only what its bearer may know.

use postern_chaos::live::Postern;
use postern_chaos::live::token::{tampered, unsigned};
use postern_chaos::live::wire::Wire;

use crate::{assert_has, assert_lacks, shop};

/// The SQLSTATE and message that a login with `token` gets.
fn refusal(postern: &Postern, token: &str) -> (String, String) {
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.startup("shop", "shop").unwrap();
    wire.read().unwrap();
    wire.message('p', format!("{token}\0").as_bytes()).unwrap();
    let error = wire.read().unwrap();
    assert_eq!(error.kind, 'E', "{error:?}");
    let refusal = (error.field('C').unwrap_or_default(), error.field('M').unwrap_or_default());
    assert_eq!(error.field('S').as_deref(), Some("FATAL"));
    assert!(wire.closes().unwrap());
    refusal
}

#[test]
fn every_kind_of_bad_token_is_refused() {
    let (_postgres, postern) = shop();
    let good = postern.token("alice", &["analysts"]).unwrap();
    let other = |options: &[&str]| postern.token_with("alice", &["analysts"], options).unwrap();
    let to_dba = |claims: &mut serde_json::Value| claims["groups"] = serde_json::json!(["dba"]);
    let cases = [
        ("expired", other(&["--issued-ago", "2h", "--ttl", "1h"])),
        ("future", other(&["--not-before-in", "1h", "--ttl", "2h"])),
        ("audience", other(&["--audience", "somebody-else"])),
        ("issuer", other(&["--issuer-claim", "https://issuer.example"])),
        ("none", unsigned(&good).unwrap()),
        ("tampered", tampered(&good, to_dba).unwrap()),
        ("unsigned and tampered", unsigned(&tampered(&good, to_dba).unwrap()).unwrap()),
        ("no signature", format!("{}.", good.rsplit_once('.').unwrap().0)),
        ("empty", String::new()),
        ("garbage", "hunter2-not-a-token".to_owned()),
        ("huge", "x".repeat(60_000)),
        ("not UTF-8 at all", "\u{1}\u{2}".to_owned()),
    ];
    let before = postern.counter("postern_gateway_tokens_refused_total", "").unwrap_or_default();
    for (name, token) in &cases {
        let (state, message) = refusal(&postern, token);
        assert!(["28P01", "28000", "08P01"].contains(&state.as_str()), "{name}: {state} {message}");
        if token.len() > 10 {
            assert_lacks(&message, &[token]);
            assert_lacks(&postern.log(), &[token, token.rsplit('.').next().unwrap_or("-").get(..20).unwrap_or(token)]);
        }
        match *name {
            "expired" => assert_has(&message, &["expired"]),
            "future" => assert_has(&message, &["not valid yet"]),
            _ => {}
        }
    }
    // Which check it failed is for the log, not for who presents it.
    let said: Vec<_> = cases[2..6].iter().map(|(_, token)| refusal(&postern, token)).collect();
    assert!(said.windows(2).all(|pair| pair[0] == pair[1]), "{said:?}");
    let after = postern.counter("postern_gateway_tokens_refused_total", "").unwrap_or_default();
    assert!(after >= before + 10.0, "refusals are counted: {before} {after}");

    let session = postern.cli_as(&good, ["token", "--target", "shop-direct"]).unwrap().ok().unwrap();
    let session = session.trim();
    assert_eq!(refusal(&postern, session).0, "3D000", "a session token of another target");
    assert_eq!(
        refusal(&postern, &tampered(session, |claims| claims["targets"] = serde_json::json!([])).unwrap()).0,
        "28P01"
    );
    let connection = postern.connection("shop-direct", session).unwrap();
    connection.run("SELECT count(*) FROM orders").unwrap().ok().unwrap();
}

//! A real OpenID provider: its tokens log in, through the rotation of its keys and while it is away.

use std::time::Duration;

use postern_chaos::live::{Postern, Provider, wait_until};

use crate::{assert_has, shop};

const LIMIT: Duration = Duration::from_secs(30);

fn object(provider: &Provider) -> String {
    format!(
        "apiVersion: postern/v1\nkind: Issuer\nmetadata: {{name: real}}\nspec:\n  url: {}\n  audiences: [postern, brief]\n  leeway: 0s\n  \
         claimGroups: [{{claim: /acme/teams}}]\n  requiredClaims: [{{claim: acme.repository, values: [\"acme/*\"]}}]\n",
        provider.url()
    )
}

/// One login, one statement.
fn logs_in(postern: &Postern, token: &str) -> bool {
    let out = postern.connection("shop", token).unwrap().run("SELECT count(*) FROM orders").unwrap();
    out.ok().is_ok()
}

fn refusal(postern: &Postern, token: &str) -> String {
    postern.connection("shop", token).unwrap().run("SELECT 1").unwrap().fails().unwrap()
}

#[test]
fn tokens_of_a_real_provider_log_in_while_its_keys_rotate_and_while_it_is_away() {
    let (_postgres, postern) = shop();
    let mut provider = Provider::start().unwrap();
    postern.apply(&object(&provider)).unwrap();
    let first = provider.token("postern").unwrap();
    wait_until(LIMIT, "a token of the provider to log in", || Ok(logs_in(&postern, &first))).unwrap();
    let who = postern.cli_as(&first, ["whoami"]).unwrap().ok().unwrap();
    assert_has(&who, &["real/robot", "analysts"]);

    // A new key, by another algorithm: its tokens log in at once (or as soon as the bound on looking lets it), and the old ones go on.
    provider.rotate("EdDSA", true).unwrap();
    let second = provider.token("postern").unwrap();
    wait_until(LIMIT, "a token by the new key to log in", || Ok(logs_in(&postern, &second))).unwrap();
    assert!(logs_in(&postern, &first));
    assert!(postern.counter("postern_gateway_issuer_key_demands_total", "").unwrap_or_default() >= 1.0);

    // The provider is away: what is known holds.
    provider.stop().unwrap();
    for token in [&first, &second] {
        assert!(logs_in(&postern, token));
    }
    assert!(postern.cli_as(&second, ["whoami"]).unwrap().ok().is_ok());
    provider.resume().unwrap();

    // Its old keys are compromised, and dropped: tokens by them are refused once the new one is known.
    provider.rotate("ES256", false).unwrap();
    let third = provider.token("postern").unwrap();
    wait_until(LIMIT, "a token by the newest key to log in", || Ok(logs_in(&postern, &third))).unwrap();
    for token in [&first, &second] {
        assert_has(&refusal(&postern, token), &["the token is not accepted"]);
    }

    // Another audience, another issuer with the same claims, and one whose time is over.
    assert_has(&refusal(&postern, &provider.token("elsewhere").unwrap()), &["the token is not accepted"]);
    let stranger = Provider::start().unwrap();
    assert_has(&refusal(&postern, &stranger.token("postern").unwrap()), &["the token is not accepted"]);
    let brief = provider.token("brief").unwrap();
    wait_until(LIMIT, "a token to expire", || Ok(!logs_in(&postern, &brief))).unwrap();
    assert_has(&refusal(&postern, &brief), &["expired"]);
}

//! Tokens that are bound to a key (DPoP): by a client library off the shelf, by the guide, and by who has stolen one.

use serde_json::Value;

use super::oauth::{GUIDE, House, block};
use crate::{assert_has, assert_lacks};

/// Tokens that the library got: bound to its key, and to the certificate in the folder.
fn by_the_library(house: &House, more: &[(&str, &str)]) -> Value {
    house.sh("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=job -keyout client.key -out client.crt; chmod 600 client.key
        openssl x509 -in client.crt -outform DER | openssl dgst -sha256 -binary | openssl base64 -A | tr '+/' '-_' | tr -d '=' > thumbprint");
    let subject = house.postern.token("ci", &["dba"]).unwrap();
    let reader = house.postern.token("reader", &["postern-auditors"]).unwrap();
    let said = house.node("chaos/idp/oauth/client.mjs", &[&house.web, &subject, &reader], more);
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_library_gets_and_uses_bound_tokens_and_a_thief_none() {
    let house = House::start();
    let tokens = by_the_library(&house, &[]);
    // No client of PostgreSQL can prove it; one that is bound to a certificate instead is good.
    let bound = tokens["bound"].as_str().unwrap();
    let without = house.postern.connection("shop", bound).unwrap().run("SELECT 1;").unwrap();
    assert_has(&without.stderr, &["bound to a key by DPoP", "client certificate"]);
    house.put("bound.token", tokens["certified"].as_str().unwrap());
    assert_has(&house.sh(block(GUIDE, "PGSSLCERT=")), &["20"]);
    // Over gRPC, too, it is no bearer's; but whoever finds it may end it.
    house.put("stolen.token", bound);
    let refused = house.sh("! postern --token-file stolen.token whoami 2>&1");
    assert_has(&refused, &["token-invalid"]);
    let revoke = house.browser.post_all(&format!("{}/oauth/revoke", house.web), &[("token", bound)]).unwrap();
    assert_eq!(revoke.status, 200, "{revoke:?}");
    let audit = house.postern.cli(["audit", "list"]).unwrap().ok().unwrap();
    assert_has(&audit, &["/oauth/token", "invalid-dpop-proof"]);
    assert_lacks(&house.postern.log(), &[bound, &bound[..60]]);

    house.put("job.token", &house.postern.token("ci", &["dba"]).unwrap());
    house.put("reader.token", &house.postern.token("reader", &["postern-auditors"]).unwrap());
    let told: Value = serde_json::from_str(&house.python(block(GUIDE, "dpop+jwt"), &[&house.web])).unwrap();
    assert_eq!((&told["active"], &told["token_type"]), (&true.into(), &"DPoP".into()), "{told}");
    by_the_command_line(&house);
}

/// As the guide has it.
fn by_the_command_line(house: &House) {
    house.put("job.token", &house.postern.token("ci", &["dba"]).unwrap());
    assert_has(&house.sh(block(GUIDE, "holder.key")), &["dev/ci"]);
    assert_has(&house.sh(block(GUIDE, "PGSSLCERT=")), &["20"]);
    let without = house.sh("! postern --token-file holder.token whoami 2>&1");
    assert_has(&without, &["token-invalid"]);
    let exec = house.sh("! POSTERN_DPOP_KEY=holder.key postern --token-file holder.token exec shop -- true 2>&1");
    assert_has(&exec, &["postern token --certificate"]);
}

#[test]
fn nonces_are_learned_where_they_are_demanded() {
    let house = House::start_with(&["--dpop-nonces"]);
    by_the_library(&house, &[("NONCES", "1")]);
    by_the_command_line(&house);
}

//! Logins by SAML at a real identity provider, across the members of a cluster.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postern_chaos::live::cluster::{Caller, ClusterOptions, LiveCluster};
use postern_chaos::live::saml::{Browser, RsaKey, SamlIdp, assertion_of};
use postern_chaos::live::{free_port, postern_binary};
use postern_proto::admin::v1::ExchangeTokenRequest;
use serde_json::{Value, json};
use tonic::Code;

use crate::{assert_has, assert_lacks};

const SAML2: &str = "urn:ietf:params:oauth:token-type:saml2";

/// A cluster with a listener for browsers on each member, all under one name, and an issuer.
struct House {
    cluster: LiveCluster,
    idp: SamlIdp,
    own: RsaKey,
    web: String,
    /// To each member.
    browsers: Vec<Browser>,
}

impl House {
    fn start(members: usize) -> Self {
        let (idp, own) = (SamlIdp::start().unwrap(), RsaKey::new().unwrap());
        let mut cluster = LiveCluster::start(ClusterOptions { members, ..ClusterOptions::default() }).unwrap();
        let ports: Vec<u16> = (0..members).map(|_| free_port().unwrap()).collect();
        let web = format!("https://localhost:{}", ports[0]);
        for (number, port) in ports.iter().enumerate() {
            let member = cluster.member(number).unwrap();
            member.stop().unwrap();
            let section = format!("[control.web]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"{web}\"\n");
            member.reconfigure(|config| format!("{config}\n{section}")).unwrap();
            member.start().unwrap();
        }
        if members > 1 {
            cluster.wait_healthy().unwrap();
        }
        let ca_pem = std::fs::read_to_string(cluster.admin().join("ca.crt")).unwrap();
        let browser = |port: &u16| Browser { ca_pem: ca_pem.clone(), instead: [(ports[0], *port)].into() };
        let browsers = ports.iter().map(browser).collect();
        let house = Self { cluster, idp, own, web, browsers };
        house.declare("corp", "");
        house.idp.set(&json!({})).unwrap();
        house
    }

    fn declare(&self, name: &str, saml: &str) {
        let indented = |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
        let (key, metadata) = (format!("{}{}", self.own.key, self.own.certificate), self.idp.metadata().unwrap());
        let yaml = format!(
            "apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: saml-key}}\nspec:\n  value: |\n{}---\napiVersion: postern/v1\nkind: Issuer\nmetadata: {{name: {name}}}\nspec:\n  url: urn:postern:test:idp\n  groupsPrefix: \"corp:\"\n  saml:\n    entityId: {}/saml/{name}/metadata\n    groupsAttribute: http://schemas.xmlsoap.org/claims/Group\n    keySecret: saml-key\n{saml}    metadata: |\n{}",
            indented(&key, "    "),
            self.web,
            indented(&metadata, "      "),
        );
        self.cluster.cli().apply(&yaml).unwrap();
    }

    /// A login that nobody waits for: where the answer goes, and what it is.
    fn login(&self, binding: &str) -> (String, String) {
        let challenge = URL_SAFE_NO_PAD.encode([7; 32]);
        let url = format!("{}/saml/corp/login?challenge={challenge}{binding}", self.web);
        self.browsers[0].login(&url).unwrap()
    }

    fn exchange(&self, member: usize, assertion: &str) -> Result<String, Code> {
        let request = ExchangeTokenRequest {
            subject_token: URL_SAFE_NO_PAD.encode(assertion),
            subject_token_type: SAML2.to_owned(),
            ..ExchangeTokenRequest::default()
        };
        let caller = Caller::new(&self.cluster).unwrap();
        caller.exchange_as(member, request).map_err(|status| status.code())
    }
}

/// The code that a page shows.
fn code_of(page: &str) -> String {
    let code = page.split("<code id=\"code\">").nth(1).and_then(|rest| rest.split('<').next());
    code.unwrap_or_else(|| panic!("no code in {page}")).to_owned()
}

#[test]
fn a_person_logs_in_at_one_member_and_is_answered_by_others() {
    let mut house = House::start(3);
    let admin = house.cluster.admin();
    let mut login = Command::new(postern_binary().unwrap())
        .args(["login", "--saml", "corp", "--print"])
        .env("POSTERN_SERVER", format!("https://{}", house.cluster.addresses()[2]))
        .env("POSTERN_CA", admin.join("ca.crt"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(login.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("/login?challenge=") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "no URL");
    }
    let (acs, response) = house.browsers[0].login(line.trim()).unwrap();
    assert_eq!(acs, format!("{}/saml/corp/acs", house.web));
    let page = house.browsers[1].post(&acs, "SAMLResponse", &response).unwrap();
    assert_eq!(page.status, 200, "{page:?}");
    assert_has(&page.body, &["corp/alice@example.test", "Give it to nobody"]);
    assert_has(&page.headers["content-security-policy"], &["default-src 'none'", "frame-ancestors 'none'"]);
    assert_eq!(page.headers["cache-control"], "no-store");
    assert!(!page.headers.contains_key("set-cookie"));
    let code = code_of(&page.body);
    writeln!(login.stdin.take().unwrap(), "{code}").unwrap();
    let mut token = String::new();
    login.stdout.take().unwrap().read_to_string(&mut token).unwrap();
    assert!(login.wait().unwrap().success());
    let token = token.trim();
    assert_lacks(&page.body, &[token]);
    let who = house.cluster.cli().cli_as(token, ["whoami", "-o", "json"]).unwrap().ok().unwrap();
    let who: Value = serde_json::from_str(&who).unwrap();
    assert_eq!(
        (&who["principal"], &who["groups"]),
        (&json!("corp/alice@example.test"), &json!(["corp:dev", "corp:ops"]))
    );

    // Once: at any member, and when another has taken over.
    for browser in &house.browsers {
        let again = browser.post(&acs, "SAMLResponse", &response).unwrap();
        assert_eq!(again.status, 403);
        assert_has(&again.body, &["presented before"]);
    }
    let leader = house.cluster.leader().unwrap();
    house.cluster.member(leader).unwrap().kill9().unwrap();
    house.cluster.leader().unwrap();
    let left = (0..3).find(|number| *number != leader).unwrap();
    let again = house.browsers[left].post(&acs, "SAMLResponse", &response).unwrap();
    assert_eq!(again.status, 403, "{again:?}");
    assert_has(&again.body, &["presented before"]);
    // The record says who, by whose word, and that somebody tried again.
    let audit = house.cluster.cli().cli(["audit", "list"]).unwrap().ok().unwrap();
    assert_has(&audit, &["/saml/acs", "Issuer/corp", "corp/alice@example.test", "presented before"]);
    let taken = audit.lines().find(|line| line.contains("TokenService/ExchangeToken")).unwrap();
    assert_has(taken, &["corp/alice@example.test", "OK"]);
    assert_lacks(&house.cluster.logs(), &[code.as_str(), token]);
}

#[test]
fn what_a_real_provider_signs_and_encrypts_is_judged() {
    let house = House::start(1);
    let browser = &house.browsers[0];
    let post = |(acs, response): (String, String)| browser.post(&acs, "SAMLResponse", &response).unwrap();
    let metadata = browser.get(&format!("{}/saml/corp/metadata", house.web)).unwrap();
    assert_eq!(metadata.headers["content-type"], "application/samlmetadata+xml");
    assert_has(&metadata.body, &["AuthnRequestsSigned=\"true\"", "use=\"encryption\"", "/saml/corp/acs"]);

    // The provider checks our signature, by both bindings; with another certificate it refuses.
    house.idp.set(&json!({"signingCert": house.own.certificate})).unwrap();
    assert_eq!(post(house.login("")).status, 200);
    assert_eq!(post(house.login("&binding=post")).status, 200);
    house.idp.set(&json!({"signingCert": RsaKey::new().unwrap().certificate})).unwrap();
    let challenge = URL_SAFE_NO_PAD.encode([7; 32]);
    let refused = browser.login(&format!("{}/saml/corp/login?challenge={challenge}", house.web)).unwrap_err();
    assert_has(&format!("{refused:#}"), &["refused"]);

    house.idp.set(&json!({"signResponse": true, "signAssertion": false})).unwrap();
    assert_eq!(post(house.login("")).status, 200);
    house
        .idp
        .set(&json!({"signResponse": true, "signatureAlgorithm": "rsa-sha256", "signatureNamespacePrefix": "ds"}))
        .unwrap();
    assert_eq!(post(house.login("")).status, 200);
    house.idp.set(&json!({"signAssertion": false})).unwrap();
    let unsigned = post(house.login(""));
    assert_eq!(unsigned.status, 403);
    assert_has(&unsigned.body, &["neither the response nor the assertion is signed"]);
    house.idp.set(&json!({"signatureAlgorithm": "rsa-sha1", "digestAlgorithm": "sha1"})).unwrap();
    assert_has(&post(house.login("")).body, &["signature algorithm is not accepted"]);

    let encrypted = |algorithm: &str| {
        json!({
            "encryptionPublicKey": house.own.public, "encryptionCert": house.own.certificate, "encryptionAlgorithm": algorithm,
            "disallowEncryptionWithInsecureAlgorithm": false,
        })
    };
    house.idp.set(&encrypted("http://www.w3.org/2009/xmlenc11#aes256-gcm")).unwrap();
    let (acs, response) = house.login("");
    assert!(assertion_of(&response).is_err());
    assert_eq!(post((acs, response)).status, 200);
    house.idp.set(&encrypted("http://www.w3.org/2001/04/xmlenc#aes256-cbc")).unwrap();
    assert_has(&post(house.login("")).body, &["encryption algorithm is not accepted"]);

    // What is not for us, or from them, or as it was.
    house.idp.set(&json!({"issuer": "urn:somebody:else"})).unwrap();
    assert_has(&post(house.login("")).body, &["of another issuer"]);
    house.idp.set(&json!({"audience": "urn:somebody:else"})).unwrap();
    assert_has(&post(house.login("")).body, &["for another audience"]);
    house.idp.set(&json!({"recipient": "https://localhost/other"})).unwrap();
    assert_has(&post(house.login("")).body, &["for another recipient"]);
    house.idp.set(&json!({"lifetimeInSeconds": -3600})).unwrap();
    assert_has(&post(house.login("")).body, &["its time is over"]);
    house.idp.set(&json!({})).unwrap();
    let (acs, response) = house.login("");
    let changed = String::from_utf8(STANDARD.decode(&response).unwrap()).unwrap().replace("alice@", "admin@");
    assert_has(&post((acs.clone(), STANDARD.encode(changed))).body, &["its signature is wrong"]);
    assert_eq!(browser.post(&acs, "SAMLResponse", "!").unwrap().status, 403);
    assert_eq!(browser.post(&acs, "Other", "").unwrap().status, 400);
    assert_eq!(browser.post(&acs, "SAMLResponse", &"A".repeat(600 << 10)).unwrap().status, 400);
    assert_eq!(browser.post(&acs.replace("corp", "none"), "SAMLResponse", &response).unwrap().status, 404);
    assert_eq!(browser.get(&format!("{}/saml/corp/login", house.web)).unwrap().status, 400);
    // All that was refused has spent nothing.
    assert_eq!(post((acs, response)).status, 200);
}

#[test]
fn an_assertion_is_exchanged_once_where_it_is_let_in() {
    let house = House::start(1);
    house.idp.set(&json!({"unsolicited": true})).unwrap();
    let fresh = || assertion_of(&house.login("").1).unwrap();
    assert_eq!(house.exchange(0, &fresh()), Err(Code::Unauthenticated));
    house.declare("corp", "    allowUnsolicited: true\n");
    let assertion = fresh();
    let token = house.exchange(0, &assertion).unwrap();
    let who = house.cluster.cli().cli_as(&token, ["whoami"]).unwrap().ok().unwrap();
    assert_has(&who, &["corp/alice@example.test", "corp:dev"]);
    assert_eq!(house.exchange(0, &assertion), Err(Code::Unauthenticated));
    assert_eq!(house.exchange(0, &fresh().replace("alice", "admin")), Err(Code::Unauthenticated));
    // One that answers a login in a browser is for whoever began that.
    house.idp.set(&json!({})).unwrap();
    assert_eq!(house.exchange(0, &fresh()), Err(Code::Unauthenticated));
    // When the issuer goes, so does what it vouched for.
    house.cluster.cli().cli(["delete", "issuer", "corp"]).unwrap().ok().unwrap();
    assert!(house.cluster.cli().cli_as(&token, ["whoami"]).unwrap().fails().is_ok());
}

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use postern_core::Timestamp;
use postern_core::node::{CONTROL_PLANE_NAME, GATEWAYS_NAME, NodeRole};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{clock, tls};

const DAY: Duration = Duration::from_secs(86_400);

fn identity(text: &str) -> NodeIdentity {
    NodeIdentity::from_dns_name(&format!("{text}.postern.internal")).unwrap()
}

fn credential(authority: &Authority, who: &str, alt_names: &[&str]) -> NodeCredential {
    let request = KeyRequest::generate().unwrap();
    let names: Vec<String> = alt_names.iter().map(ToString::to_string).collect();
    let certificate_pem = authority.issue(&identity(who), &request.csr_der, &names, clock::now(), DAY).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
}

/// What the server and the client each know of the other after a handshake, or that it failed.
async fn handshake(
    server: ServerConfig,
    client: ClientConfig,
    name: &str,
) -> Result<(Option<NodeIdentity>, Option<NodeIdentity>), std::io::Error> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        let peer = stream.get_ref().1.peer_certificates().and_then(tls::peer_identity);
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        Ok::<_, std::io::Error>(peer)
    };
    let connect = async {
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        let peer = stream.get_ref().1.peer_certificates().and_then(tls::peer_identity);
        // In TLS 1.3 the server judges the client's certificate after the client's handshake is done.
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        assert_eq!(text, b"hello");
        Ok::<_, std::io::Error>(peer)
    };
    tokio::try_join!(accept, connect)
}

#[tokio::test]
async fn nodes_of_a_cluster_know_each_other() {
    let authority = Authority::create("c1").unwrap();
    let (gateway, agent) = (credential(&authority, "g1.gateway", &[]), credential(&authority, "e.lab.agent", &[]));
    for name in [GATEWAYS_NAME, "g1.gateway.postern.internal"] {
        let server = tls::server_mtls(&gateway, &[b"x"]).unwrap();
        let client = tls::client_mtls(&agent, &[b"x"]).unwrap();
        let (client, server) = handshake(server, client, name).await.unwrap();
        assert_eq!(client.unwrap(), identity("e.lab.agent"));
        assert_eq!(server.unwrap(), identity("g1.gateway"));
    }
}

#[tokio::test]
async fn a_role_does_not_pass_for_another() {
    let authority = Authority::create("c1").unwrap();
    let gateway = credential(&authority, "g1.gateway", &["10.0.0.1", "gw.example.com"]);
    let agent = credential(&authority, "e.lab.agent", &["gw.example.com"]);
    let client = || tls::client_mtls(&agent, &[]).unwrap();
    let dial = |name| handshake(tls::server_mtls(&gateway, &[]).unwrap(), client(), name);
    assert!(dial(CONTROL_PLANE_NAME).await.is_err());
    assert!(dial("g2.gateway.postern.internal").await.is_err());
    assert!(dial("gw.example.com").await.is_ok());
    assert!(dial("10.0.0.1").await.is_ok());
    // An agent's certificate is no server's at all, whatever name it has.
    assert!(handshake(tls::server_mtls(&agent, &[]).unwrap(), client(), "gw.example.com").await.is_err());
}

#[tokio::test]
async fn another_authority_is_refused_on_both_sides() {
    let (ours, theirs) = (Authority::create("c1").unwrap(), Authority::create("c1").unwrap());
    let gateway = credential(&ours, "g1.gateway", &[]);
    let stranger = credential(&theirs, "e.lab.agent", &[]);
    let mut posing = stranger.clone();
    posing.ca_pem = ours.ca_pem().to_owned();
    for client in [tls::client_mtls(&stranger, &[]), tls::client_mtls(&posing, &[])] {
        assert!(handshake(tls::server_mtls(&gateway, &[]).unwrap(), client.unwrap(), GATEWAYS_NAME).await.is_err());
    }
    let optional = tls::server_optional_client(&gateway, &[]).unwrap();
    assert!(handshake(optional, tls::client_mtls(&posing, &[]).unwrap(), GATEWAYS_NAME).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_required_or_optional() {
    let authority = Authority::create("c1").unwrap();
    let control = credential(&authority, "a.control", &[]);
    let nobody = || tls::client_with_ca(authority.ca_pem(), &[]).unwrap();
    assert!(handshake(tls::server_mtls(&control, &[]).unwrap(), nobody(), CONTROL_PLANE_NAME).await.is_err());
    let optional = || tls::server_optional_client(&control, &[]).unwrap();
    let (client, server) = handshake(optional(), nobody(), CONTROL_PLANE_NAME).await.unwrap();
    assert_eq!((client, server.unwrap()), (None, identity("a.control")));
    let admin = credential(&authority, "root.admin", &[]);
    let known = tls::client_mtls(&admin, &[]).unwrap();
    let (client, _) = handshake(optional(), known, CONTROL_PLANE_NAME).await.unwrap();
    assert_eq!(client.unwrap(), identity("root.admin"));
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::create("c1").unwrap();
    let gateway = credential(&authority, "g1.gateway", &[]);
    let mut agent = credential(&authority, "e.lab.agent", &[]);
    let request = KeyRequest::renew(&agent.key_pem).unwrap();
    let past = Timestamp::from_secs(clock::now().secs() - 7200);
    agent.certificate_pem =
        authority.issue(&identity("e.lab.agent"), &request.csr_der, &[], past, Duration::from_secs(3600)).unwrap();
    assert!(agent.expires_at().unwrap() < clock::now());
    let client = tls::client_mtls(&agent, &[]).unwrap();
    assert!(handshake(tls::server_mtls(&gateway, &[]).unwrap(), client, GATEWAYS_NAME).await.is_err());
}

#[tokio::test]
async fn a_self_signed_listener_serves_its_names() {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (certificate, key) = self_signed_listener(&names).unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let server = tls::listener(&certificate, &key, &[]).unwrap();
        let client = tls::client_with_ca(&certificate, &[]).unwrap();
        assert!(handshake(server, client, name).await.is_ok(), "{name}");
    }
    assert!(self_signed_listener(&["not a name\u{e9}".to_owned()]).is_err());
}

#[tokio::test]
async fn a_listener_shows_the_nodes_own_certificate_to_who_asks_for_it_by_name() {
    let authority = Authority::create("c1").unwrap();
    let own = RotatingCredential::new(credential(&authority, "g1.gateway", &[])).unwrap();
    let (certificate, key) = self_signed_listener(&["localhost".to_owned()]).unwrap();
    let dial = |ca_pem: &str, name: &'static str| {
        let server = tls::listener_for_clients(&certificate, &key, (GATEWAYS_NAME, own.clone()), &[]).unwrap();
        handshake(server, tls::client_with_ca(ca_pem, &[]).unwrap(), name)
    };
    let (_, server) = dial(authority.ca_pem(), GATEWAYS_NAME).await.unwrap();
    assert_eq!(server.unwrap(), identity("g1.gateway"));
    assert!(dial(&certificate, "localhost").await.is_ok());
    assert!(dial(&certificate, GATEWAYS_NAME).await.is_err());
    assert!(dial(authority.ca_pem(), "localhost").await.is_err());
    // Renewed while it listens.
    own.replace(credential(&authority, "g1.gateway", &[])).unwrap();
    assert!(dial(authority.ca_pem(), GATEWAYS_NAME).await.is_ok());
}

#[test]
fn node_names_cannot_be_smuggled_in() {
    let authority = Authority::create("c1").unwrap();
    let csr = KeyRequest::generate().unwrap().csr_der;
    let issue = |name: &str| {
        let names = [name.to_owned()];
        authority.issue(&identity("g1.gateway"), &csr, &names, clock::now(), DAY)
    };
    for name in [
        "postern.internal",
        "a.control.postern.internal",
        "A.Control.POSTERN.internal",
        CONTROL_PLANE_NAME,
        "*.postern.internal",
        "a.control.postern.internal.",
        "a.control.postern.internal\0.example.com",
        "a..b",
        "*",
        "*.example.com",
        "",
        ".",
        "a b",
        "-a.example",
        "caf\u{e9}.example",
        "10.0.0.1/8",
        "a.control.postern\u{3002}internal",
    ] {
        assert!(matches!(issue(name), Err(PkiError::AltName(..))), "{name:?}");
    }
    for name in ["gw.example.com", "localhost", "::1", "notpostern.internal", "GW.example.com"] {
        assert!(issue(name).is_ok(), "{name}");
    }
    let many: Vec<String> = (0..33).map(|n| format!("n{n}.example")).collect();
    assert!(authority.issue(&identity("g1.gateway"), &csr, &many, clock::now(), DAY).is_err());
}

#[test]
fn of_a_request_only_the_key_counts() {
    let authority = Authority::create("c1").unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut wishes = CertificateParams::new(vec![CONTROL_PLANE_NAME.to_owned()]).unwrap();
    wishes.distinguished_name.push(rcgen::DnType::CommonName, "a.control.postern.internal");
    wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::CodeSigning];
    let csr = wishes.serialize_request(&key).unwrap();
    let pem = authority.issue(&identity("e.lab.agent"), csr.der(), &[], clock::now(), DAY).unwrap();
    let der = certificate(&pem).unwrap();
    assert_eq!(tls::peer_identity(std::slice::from_ref(&der)), Some(identity("e.lab.agent")));
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=e");
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    let usages = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usages.client_auth && !usages.server_auth && !usages.code_signing);
    assert!(!parsed.is_ca());
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
}

fn public_key(pem: &str) -> Vec<u8> {
    let der = certificate(pem).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    parsed.public_key().subject_public_key.data.to_vec()
}

#[test]
fn a_request_has_to_be_signed_by_its_own_ed25519_key() {
    let authority = Authority::create("c1").unwrap();
    let issue = |csr: &[u8]| authority.issue(&identity("g1.gateway"), csr, &[], clock::now(), DAY);
    let good = KeyRequest::generate().unwrap().csr_der;
    assert!(issue(&good).is_ok());
    for (index, _) in good.iter().enumerate() {
        let mut bent = good.clone();
        bent[index] ^= 1;
        // The signature's own algorithm is outside of what it signs: its tag may be bent, the key may not.
        match issue(&bent) {
            Ok(pem) => assert_eq!(public_key(&pem), public_key(&issue(&good).unwrap()), "byte {index}"),
            Err(error) => assert!(matches!(error, PkiError::Request(_)), "byte {index}"),
        }
        assert!(issue(&good[..index]).is_err(), "prefix {index}");
    }
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let other = CertificateParams::default().serialize_request(&p256).unwrap();
    assert!(matches!(issue(other.der()), Err(PkiError::Request(_))));
    assert!(matches!(issue(&[0; 5000]), Err(PkiError::Request(_))));
}

#[test]
fn a_certificate_of_two_nodes_names_none() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let names = ["g1.gateway.postern.internal".to_owned(), "a.control.postern.internal".to_owned()];
    let two = CertificateParams::new(names.to_vec()).unwrap().self_signed(&key).unwrap();
    assert_eq!(tls::peer_identity(&[two.der().clone()]), None);
    assert_eq!(tls::peer_identity(&[]), None);
    assert_eq!(tls::peer_identity(&[vec![1, 2, 3].into()]), None);
}

#[test]
fn the_authority_survives_a_restart() {
    let authority = Authority::create("c1").unwrap();
    let again = Authority::from_pem(authority.ca_pem(), &authority.key_pem()).unwrap();
    let node = credential(&again, "a.control", &[]);
    assert_eq!(node.ca_pem, authority.ca_pem());
    assert_eq!(node.identity().unwrap().role, NodeRole::Control);
    let other = Authority::create("c1").unwrap();
    assert!(matches!(Authority::from_pem(authority.ca_pem(), &other.key_pem()), Err(PkiError::KeyMismatch)));
}

#[test]
fn credentials_are_kept_private_and_whole() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a/b");
    assert!(!NodeCredential::exists(&dir));
    let authority = Authority::create("c1").unwrap();
    let node = credential(&authority, "g1.gateway", &[]);
    node.save(&dir).unwrap();
    node.save(&dir).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["node.crt", "node.key", "ca.crt"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 3, "no temporary file stays");
    let read = NodeCredential::load(&dir).unwrap();
    assert_eq!(read.identity().unwrap(), identity("g1.gateway"));
    assert_eq!(read.certificate_der(), node.certificate_der());
    assert!(!format!("{read:?}").contains("PRIVATE"));

    // A key of another certificate is found at once, not at the first handshake.
    let other = KeyRequest::generate().unwrap();
    write_private(&dir.join("node.key"), other.key_pem.expose_secret().as_bytes()).unwrap();
    assert!(matches!(NodeCredential::load(&dir), Err(PkiError::KeyMismatch)));
    std::fs::remove_file(dir.join("node.key")).unwrap();
    let error = NodeCredential::load(&dir).unwrap_err().to_string();
    assert!(error.contains("node.key"), "{error}");
}

#[test]
fn seals_verify_under_the_certificates_key() {
    let node = credential(&Authority::create("c1").unwrap(), "g1.gateway", &[]);
    let signer = node.signer().unwrap();
    let signature = signer.sign(b"the chain's head");
    let certificate = signer.certificate_der();
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ED25519,
        parsed.public_key().subject_public_key.data.as_ref(),
    );
    assert!(key.verify(b"the chain's head", &signature).is_ok());
    assert!(key.verify(b"another head", &signature).is_err());
}

/// What this crate issues and signs is what the offline verifier of `core` accepts (I10).
#[test]
fn a_recording_sealed_by_a_gateway_verifies_under_the_authority() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use postern_core::principal::{Principal, PrincipalId};
    use postern_core::recording::{self, Chain, Event, MAGIC, Started, seal_message, verify};

    let authority = Authority::create("c1").unwrap();
    let again = Authority::from_pem(authority.ca_pem(), &authority.key_pem()).unwrap();
    let report = |authority: &Authority, who: &str, ca: &[u8]| {
        let signer = credential(authority, who, &[]).signer().unwrap();
        let session = clock::session_id();
        let (mut chain, mut file) = (Chain::start(session), MAGIC.to_vec());
        let started = Event::Started(Box::new(Started {
            session,
            principal: Principal {
                id: PrincipalId { issuer: "ci".parse().unwrap(), subject: "robot".into() },
                groups: [].into(),
                token_id: None,
                expires_at: None,
                chain: Vec::new(),
                claims: postern_core::KeptClaims::default(),
            },
            target: "orders".parse().unwrap(),
            protocol: postern_core::target::Protocol::Postgres,
            database: "orders".to_owned(),
            cluster: "c1".to_owned(),
            gateway: "g1".to_owned(),
            client_address: "127.0.0.1:1".to_owned(),
            application: String::new(),
            revision: 1,
        }));
        let ended = Event::Ended { code: None, reason: "client closed".to_owned(), interrupted: false, gap: None };
        for event in [started, ended] {
            chain.append(clock::now(), &event, &mut file).unwrap();
        }
        let message = seal_message(session, chain.next_seq(), chain.head());
        let sealed = Event::Sealed {
            events: chain.next_seq(),
            head: chain.head(),
            signature: STANDARD.encode(signer.sign(&message)),
            certificate: STANDARD.encode(signer.certificate_der()),
        };
        chain.append(clock::now(), &sealed, &mut file).unwrap();
        verify(&file, recording::Authority(ca))
    };
    let ca = credential(&authority, "g1.gateway", &[]).ca_der();
    for issuing in [&authority, &again] {
        let good = report(issuing, "g1.gateway", &ca);
        assert!(good.is_good() && good.sealed, "{good}");
    }
    assert!(!report(&authority, "e.lab.agent", &ca).is_good());
    assert!(!report(&Authority::create("c1").unwrap(), "g1.gateway", &ca).is_good());
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_on_both_sides() {
    let authority = Authority::create("c1").unwrap();
    let rotating = |who: &str| RotatingCredential::new(credential(&authority, who, &[])).unwrap();
    let (control, gateway) = (rotating("a.control"), rotating("g1.gateway"));
    let (revoke, known) = tokio::sync::watch::channel(Arc::default());
    let revoked = Revocations::new(known);
    let dial = || {
        let client = tls::client_mtls_rotating(&gateway, revoked.clone(), &[]).unwrap();
        handshake(tls::server_mtls_rotating(&control, revoked.clone(), &[]).unwrap(), client, CONTROL_PLANE_NAME)
    };
    let (client, server) = dial().await.unwrap();
    assert_eq!((client.unwrap(), server.unwrap()), (identity("g1.gateway"), identity("a.control")));
    for who in [&control, &gateway] {
        revoke.send_replace(Arc::new([who.current().serial().unwrap()].into()));
        assert!(dial().await.is_err());
    }
    // What took its place is good.
    gateway.replace(credential(&authority, "g1.gateway", &[])).unwrap();
    assert!(dial().await.is_ok());
}

#[tokio::test]
async fn whoever_answers_tells_its_authority_and_the_pin_decides() {
    let authority = Authority::create("c1").unwrap();
    let control = RotatingCredential::new(credential(&authority, "a.control", &[])).unwrap();
    let both = Compatible { own: control.clone(), other: control };
    let server = tls::server_optional_client_rotating(&both, Revocations::none(), &[]).unwrap();
    let (_, server) = handshake(server, tls::client_unverified(&[]).unwrap(), "anything").await.unwrap();
    assert_eq!(server.unwrap(), identity("a.control"));
    let other = Authority::create("c1").unwrap();
    assert_eq!(fingerprint(authority.ca_pem()).unwrap(), fingerprint(authority.ca_pem()).unwrap());
    assert_ne!(fingerprint(authority.ca_pem()).unwrap(), fingerprint(other.ca_pem()).unwrap());
}

#[test]
fn a_certificate_tells_what_it_was_asked_for() {
    let authority = Authority::create("c1").unwrap();
    let credential = credential(&authority, "a.control", &["control.example.com", "10.0.0.1", "::1"]);
    let names = extra_alt_names(&credential.certificate_der());
    assert_eq!(names, ["control.example.com", "10.0.0.1", "::1"]);
    let serial = credential.serial().unwrap();
    assert!(serial.len() >= 16 && serial.bytes().all(|byte| byte.is_ascii_hexdigit()), "{serial}");
    assert_eq!(serial_of_pem(&credential.certificate_pem).unwrap(), serial);
}

/// Recordings and snapshots are signed with Ed25519; an administrator's programs may know ECDSA alone.
#[test]
fn who_may_have_a_p256_key() {
    let authority = Authority::create("c1").unwrap();
    let request = KeyRequest::generate_for(NodeRole::Admin).unwrap();
    for (dns, good) in [("a.admin", true), ("a.control", true), ("g.gateway", false), ("e.lab.agent", false)] {
        let issued = authority.issue(&identity(dns), &request.csr_der, &[], clock::now(), Duration::from_secs(60));
        assert_eq!(issued.is_ok(), good, "{dns}");
    }
}

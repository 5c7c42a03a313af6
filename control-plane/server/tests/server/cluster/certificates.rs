//! Certificates by join tokens, and what becomes of those that are revoked.

use postern_core::recording::Authority;
use postern_core::signed::{self, Purpose};
use postern_proto::tunnel::v1::RevokedGateways;
use postern_runtime::pki::KeyRequest;
use prost::Message as _;
use secrecy::SecretString;

use super::*;

/// The answer to a token that is good for one use is lost: who asks again by the same key has the same certificate, and nobody else has one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_given_again() {
    let house = House::found().await;
    let peer = [house.member(1).address()];
    let token = house.token(NodeRole::Gateway, false).await;
    let key = KeyRequest::generate().unwrap().key_pem;
    let ask = async |name: &str, key: Option<&SecretString>| {
        let applicant = Applicant { name: name.into(), key: key.cloned(), ..Default::default() };
        redeem(&peer, &token, applicant, |_| Ok(())).await.map(|admitted| admitted.credential)
    };
    let first = ask("g1", Some(&key)).await.unwrap();
    let again = ask("g1", Some(&key)).await.unwrap();
    assert_eq!(
        (first.serial().unwrap(), first.identity().unwrap()),
        (again.serial().unwrap(), again.identity().unwrap())
    );
    assert_eq!(first.expires_at().unwrap(), again.expires_at().unwrap());
    // The same key for another name, another key, and none that was shown before.
    let other = KeyRequest::generate().unwrap().key_pem;
    for (name, key) in [("g2", Some(&key)), ("g1", Some(&other)), ("g1", None)] {
        assert!(ask(name, key).await.is_err(), "{name}");
    }
    let mut certificates = CertificateServiceClient::new(house.channel(1, Some(&house.admin)).await);
    let list = certificates.list_certificates(pb::ListCertificatesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.certificates.iter().filter(|listed| listed.name.starts_with('g')).count(), 1);
    // Revoked: it is not given again.
    let request = pb::RevokeCertificatesRequest { serials: vec![first.serial().unwrap()], ..Default::default() };
    certificates.revoke_certificates(request).await.unwrap();
    assert!(ask("g1", Some(&key)).await.is_err());
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_ends_what_is_open_within_a_second() {
    let house = House::of(2).await;
    let token = house.token(NodeRole::Gateway, false).await;
    let applicant = Applicant { name: "g1".into(), alt_names: vec!["g1.example.com".into()], ..Default::default() };
    let gateway = redeem(&[house.member(2).address()], &token, applicant, |_| Ok(())).await.unwrap().credential;
    let channel = house.channel(2, Some(&gateway)).await;
    // It renews its own certificate, and keeps its names.
    let request = postern_runtime::pki::KeyRequest::renew(&gateway.key_pem).unwrap();
    let mut certificates = CertificateServiceClient::new(channel.clone());
    let renewed = certificates.renew_certificate(pb::RenewCertificateRequest { csr: request.csr_der }).await.unwrap();
    let renewed = NodeCredential { certificate_pem: renewed.into_inner().certificate_pem, ..gateway.clone() };
    assert_ne!(renewed.serial().unwrap(), gateway.serial().unwrap());
    assert_eq!(renewed.identity().unwrap(), gateway.identity().unwrap());

    let mut feed = postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient::new(channel);
    let mut stream = feed.watch(postern_proto::gateway::v1::WatchRequest::default()).await.unwrap().into_inner();
    assert!(stream.message().await.is_ok());
    // Another gateway, whose agents are to be told.
    let token = house.token(NodeRole::Gateway, false).await;
    let applicant = Applicant { name: "g2".into(), ..Default::default() };
    let other = redeem(&[house.member(2).address()], &token, applicant, |_| Ok(())).await.unwrap().credential;
    let channel = house.channel(2, Some(&other)).await;
    let mut feed = postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient::new(channel);
    let mut told = feed.watch(postern_proto::gateway::v1::WatchRequest::default()).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().unwrap().revoked_gateways.is_none());
    let mut admin = CertificateServiceClient::new(house.channel(1, Some(&house.admin)).await);
    let revoke = pb::RevokeCertificatesRequest {
        role: NodeRole::Gateway.into(),
        name: "g1".into(),
        because: "lost".into(),
        ..Default::default()
    };
    let revoked = admin.revoke_certificates(revoke).await.unwrap().into_inner().revoked;
    assert_eq!(revoked, 2);
    let list = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            if let Some(list) = told.message().await.unwrap().unwrap().revoked_gateways {
                return list;
            }
        }
    });
    let list = list.await.unwrap();
    let (purpose, anchor, now) = (Purpose::RevokedGateways, other.ca_der(), postern_runtime::clock::now());
    signed::verify(purpose, &list.payload, &list.signature, &list.certificate, Authority(&anchor), now).unwrap();
    let serials = RevokedGateways::decode(list.payload).unwrap().serials;
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut serials: Vec<String> = serials.iter().map(hex).collect();
    let mut expected = [gateway.serial().unwrap(), renewed.serial().unwrap()];
    serials.sort();
    expected.sort();
    assert_eq!(serials, expected);
    // Open on the other member.
    let ended =
        tokio::time::timeout(Duration::from_secs(1), async { while let Ok(Some(_)) = stream.message().await {} });
    ended.await.expect("the stream ends within a second");
    for credential in [&gateway, &renewed] {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&house.admin.ca_pem))
            .domain_name(CONTROL_PLANE_NAME)
            .identity(Identity::from_pem(&credential.certificate_pem, credential.key_pem.expose_secret()));
        let endpoint = Endpoint::from_shared(format!("https://{}", house.member(2).address())).unwrap();
        let refused = match endpoint.tls_config(tls).unwrap().connect().await {
            Err(_) => true,
            Ok(channel) => {
                let mut feed =
                    postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient::new(channel);
                feed.watch(postern_proto::gateway::v1::WatchRequest::default()).await.is_err()
            }
        };
        assert!(refused);
    }
    house.end().await;
}

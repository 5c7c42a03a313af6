//! Certificates by join tokens, and what becomes of those that are revoked.

use postern_core::recording::Authority;
use postern_core::signed::{self, Purpose};
use postern_proto::tunnel::v1::RevokedGateways;
use postern_runtime::pki::KeyRequest;
use postern_runtime::supervisor::OnEnd;
use postern_server::cluster::JoiningKey;
use prost::Message as _;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// The answer to a token that is good for one use is lost: who asks again by the same key has the same certificate, and nobody else has one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_given_again() {
    let house = House::found().await;
    let peer = [house.member(1).address()];
    let token = house.token(NodeRole::Gateway, false).await;
    let key = KeyRequest::generate().unwrap().key_pem;
    let ask = async |name: &str, key: Option<&SecretString>| {
        let key = key.cloned().map_or(JoiningKey::Fresh, JoiningKey::Given);
        let applicant = Applicant { name: name.into(), key, ..Default::default() };
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

/// Passes bytes on to the first member until the cluster knows of `name`, and no byte of what it says after that.
async fn until_let_in(house: &House, name: &'static str) -> (String, Supervisor) {
    let (supervisor, asked) = (Supervisor::new(), house.cluster(1).await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, member) = (listener.local_addr().unwrap().to_string(), house.member(1).address());
    let spawner = supervisor.clone();
    supervisor.spawn("lossy", OnEnd::EndPart, async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(&member).await.unwrap();
            let ((mut from, mut to), (mut asks, mut told)) = (server.into_split(), client.into_split());
            spawner.spawn("asks", OnEnd::EndPart, async move { drop(tokio::io::copy(&mut asks, &mut to).await) });
            let mut asked = asked.clone();
            spawner.spawn("told", OnEnd::EndPart, async move {
                let mut bytes = vec![0; 16 << 10];
                while let Ok(read @ 1..) = from.read(&mut bytes).await {
                    let status = asked.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner();
                    let known = |it: &pb::MemberStatus| it.node.as_ref().is_some_and(|node| node.name == name);
                    if status.members.iter().any(known) || told.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, supervisor)
}

/// A new member whose answer was lost joins by the same token, from the same data directory, and is one member; the key is sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_answer_was_lost_joins_by_the_same_command() {
    let mut house = House::found().await;
    let token = house.token(NodeRole::Control, false).await;
    let (lossy, _proxy) = until_let_in(&house, "c2").await;
    let (config, direct) = (house.config(2), [house.member(1).address()]);
    let lost = cluster::join(&config, &token, &[lossy]).await.unwrap_err();
    assert!(!lost.to_string().contains("used"), "{lost}");
    let sealed = std::fs::read(config.data_dir.join("joining.key.sealed")).unwrap();
    assert!(!sealed.windows(7).any(|window| window == b"PRIVATE"));
    // Another machine has another key.
    let mut other = house.config(3);
    other.node_name = Some("c2".parse().unwrap());
    let refused = cluster::join(&other, &token, &direct).await.unwrap_err();
    assert!(refused.to_string().contains("used"), "{refused}");
    // Another name by the same key neither.
    let mut renamed = config.clone();
    renamed.node_name = Some("c9".parse().unwrap());
    assert!(cluster::join(&renamed, &token, &direct).await.is_err());

    let joined = cluster::join(&config, &token, &direct).await.unwrap();
    assert!(!config.data_dir.join("joining.key.sealed").exists());
    house.members.push(Some(run(config).await));
    house.voters(2).await;
    let members = house.status(1).await.members;
    let ids: Vec<u64> = members.iter().filter_map(|member| member.node.as_ref()).map(|node| node.id).collect();
    assert_eq!((ids.len(), ids.contains(&joined.node_id)), (2, true), "{members:?}");
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

use base64::Engine as _;
use postern_core::node::NodeRole;
use postern_core::principal::PrincipalId;
use postern_core::recording::{Authority, Chain, Event, Started, seal_message, verify};
use postern_core::target::Protocol;
use postern_core::{Principal, SessionId};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::session_service_client::SessionServiceClient;
use postern_proto::gateway::v1::recording_service_client::RecordingServiceClient;
use postern_proto::gateway::v1::{UploadRequest, UploadResponse};
use postern_proto::resource::v1::SessionState;
use postern_runtime::clock;
use postern_runtime::pki::NodeCredential;
use postern_server::ControlHandle;
use tonic::Code;
use tonic::transport::Channel;

use crate::issuer::Issuer;
use crate::node::{start, with_token};

/// A whole recording of gateway `g1`: each event's frame.
pub(crate) fn recording(control: &ControlHandle, credential: &NodeCredential, session: SessionId) -> Vec<Vec<u8>> {
    let principal = Principal {
        id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
        groups: Default::default(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    };
    let started = Started {
        session,
        principal,
        target: "db".parse().unwrap(),
        protocol: Protocol::Postgres,
        database: "shop".into(),
        cluster: control.cluster_id.clone(),
        gateway: "g1".into(),
        client_address: "127.0.0.1:1".into(),
        application: "psql".into(),
        revision: 1,
    };
    let mut chain = Chain::start(session);
    let mut frames = Vec::new();
    let mut add = |chain: &mut Chain, event: &Event| {
        let mut out = Vec::new();
        chain.append(clock::now(), event, &mut out).unwrap();
        frames.push(out);
    };
    add(&mut chain, &Event::Started(Box::new(started)));
    for _ in 0..3 {
        add(&mut chain, &Event::CancelRequested { client_address: "127.0.0.1:2".into() });
    }
    add(&mut chain, &Event::Ended { code: None, reason: "closed".into(), interrupted: false, gap: None });
    let (events, head) = (chain.next_seq(), chain.head());
    let signer = credential.signer().unwrap();
    let base64 = base64::engine::general_purpose::STANDARD;
    let signature = base64.encode(signer.sign(&seal_message(session, events, head)));
    let certificate = base64.encode(signer.certificate_der());
    add(&mut chain, &Event::Sealed { events, head, signature, certificate });
    frames
}

pub(crate) fn upload(session: SessionId, first_seq: u64, frames: &[Vec<u8>]) -> UploadRequest {
    UploadRequest { session: session.to_string(), first_seq, frames: frames.concat(), held_from: 0 }
}

pub(crate) async fn send(channel: Channel, requests: Vec<UploadRequest>) -> Vec<UploadResponse> {
    let mut client = RecordingServiceClient::new(channel);
    let mut stream = client.upload(futures::stream::iter(requests)).await.unwrap().into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        answers.push(answer);
    }
    answers
}

async fn export(client: &mut SessionServiceClient<Channel>, session: SessionId) -> Vec<u8> {
    let request = pb::ExportSessionRequest { id: session.to_string(), ..Default::default() };
    let mut stream = client.export_session(request).await.unwrap().into_inner();
    let mut file = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        file.extend_from_slice(&piece.data);
    }
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn uploaded_exported_and_verified_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let credential = node.credential(NodeRole::Gateway, "g1").await;
    let session = clock::session_id();
    let all = recording(&node.control, &credential, session);
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    let answers = send(gateway, vec![upload(session, 0, &all[..2]), upload(session, 2, &all[2..3])]).await;
    assert_eq!(answers.iter().map(|answer| answer.next_seq).collect::<Vec<_>>(), [2, 3]);
    let mut admin = SessionServiceClient::new(node.admin().await);
    let id = pb::GetSessionRequest { id: session.to_string() };
    let open = admin.get_session(id.clone()).await.unwrap().into_inner().session.unwrap();
    assert_eq!((open.state(), &*open.gateway), (SessionState::Open, "g1"));
    drop(admin);
    node.end().await;

    let node = start(dir.path()).await;
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    // A gap, a repetition, the rest.
    let rest = vec![upload(session, 5, &all[5..]), upload(session, 0, &all[..3]), upload(session, 3, &all[3..])];
    let answers = send(gateway, rest).await;
    assert_eq!(answers.iter().map(|answer| answer.next_seq).collect::<Vec<_>>(), [3, 3, 6]);
    assert!(answers.iter().all(|answer| answer.refused.is_empty()), "{answers:?}");
    // What a gateway has no more and no member has is lost: it is told, and keeps the rest no longer.
    let gone = clock::session_id();
    let late = recording(&node.control, &credential, gone);
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    let request = UploadRequest { held_from: 3, ..upload(gone, 3, &late[3..]) };
    let answers = send(gateway, vec![request]).await;
    assert_eq!(answers[0].next_seq, 0);
    assert!(answers[0].refused.contains("events before 3"), "{answers:?}");

    let mut admin = SessionServiceClient::new(node.admin().await);
    let file = export(&mut admin, session).await;
    let ca = NodeCredential::load(&node.control.admin_credential_dir).unwrap().ca_der();
    let report = verify(&file, Authority(&ca));
    assert!(report.is_good(), "{report}");
    let ended = admin.get_session(id).await.unwrap().into_inner().session.unwrap();
    assert_eq!((ended.state(), ended.events, &*ended.end_reason), (SessionState::Ended, report.events, "closed"));
    assert_eq!(ended.head, report.head.unwrap().0);

    // Its own principal and auditors may read it, others do not learn of it.
    let issuer = Issuer::trusted_by(&node).await;
    let mut people = SessionServiceClient::new(node.anonymous().await);
    let list = pb::ListSessionsRequest::default;
    for (subject, groups, sees) in [("alice", &[][..], 1), ("ada", &["auditors"][..], 1), ("sam", &["dev"][..], 0)] {
        let token = issuer.token(subject, groups, 600);
        let seen = people.list_sessions(with_token(list(), &token)).await.unwrap().into_inner().sessions;
        assert_eq!(seen.len(), sees, "{subject}");
        let request = pb::ExportSessionRequest { id: session.to_string(), ..Default::default() };
        let exported = people.export_session(with_token(request, &token)).await.map(drop).map_err(|s| s.code());
        assert_eq!(exported, if sees == 1 { Ok(()) } else { Err(Code::NotFound) }, "{subject}");
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_writes_its_own_sessions_only_and_only_whole_chains() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let credential = node.credential(NodeRole::Gateway, "g1").await;
    let session = clock::session_id();
    let all = recording(&node.control, &credential, session);
    let other = node.as_node(NodeRole::Gateway, "g2").await;
    let answers = send(other.clone(), vec![upload(session, 0, &all)]).await;
    assert!(answers[0].refused.contains("another gateway"), "{answers:?}");
    let gateway = node.as_node(NodeRole::Gateway, "g1").await;
    let mut changed = all.clone();
    changed[1][8] ^= 1;
    let answers = send(gateway.clone(), vec![upload(session, 0, &changed), upload(session, 0, &all[..2])]).await;
    assert!(answers[0].refused.contains("hash mismatch"), "{answers:?}");
    assert_eq!(answers[1].next_seq, 2);
    assert!(!send(other, vec![upload(session, 2, &all[2..])]).await[0].refused.is_empty());

    let mut client = RecordingServiceClient::new(gateway);
    let traversal = UploadRequest { session: "../../etc/passwd".into(), ..upload(session, 0, &all) };
    let mut stream = client.upload(futures::stream::iter([traversal])).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::InvalidArgument);
    let mut admin = RecordingServiceClient::new(node.admin().await);
    let refused = admin.upload(futures::stream::iter([upload(session, 0, &all)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    node.end().await;
}

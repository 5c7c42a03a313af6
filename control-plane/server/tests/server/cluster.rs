//! Clusters of several members in one process, over real sockets.

mod certificates;
mod log;

use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_core::node::CONTROL_PLANE_NAME;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::audit_service_client::AuditServiceClient;
use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
use postern_proto::admin::v1::cluster_service_client::ClusterServiceClient;
use postern_proto::resource::v1::NodeRole;
use postern_runtime::pki::{JoinTokenText, NodeCredential};
use postern_runtime::supervisor::Supervisor;
use postern_server::cluster::{self, Applicant, Founded, redeem};
use postern_server::{ControlConfig, ControlError, ControlHandle};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::node::eventually;

const DAY: Duration = Duration::from_secs(86_400);

struct Member {
    control: ControlHandle,
    supervisor: Supervisor,
}

struct House {
    dir: TempDir,
    admin: NodeCredential,
    founded: Founded,
    members: Vec<Option<Member>>,
}

fn config(dir: &Path, n: usize) -> ControlConfig {
    serde_json::from_value(serde_json::json!({
        "data_dir": dir.join(format!("c{n}")), "listen": "127.0.0.1:0", "peer_listen": "127.0.0.1:0",
        "node_name": format!("c{n}"), "kek_file": dir.join("kek"),
    }))
    .unwrap()
}

async fn run(config: ControlConfig) -> Member {
    let supervisor = Supervisor::new();
    let started = tokio::time::timeout(Duration::from_secs(60), postern_server::run(config, supervisor.clone())).await;
    match started.expect("the member does not start") {
        Ok(control) => Member { control, supervisor },
        Err(error) => panic!("{error}; {:?}", supervisor.failure()),
    }
}

impl Member {
    fn address(&self) -> String {
        self.control.grpc_addr.to_string()
    }

    async fn end(self) {
        drop(self.control);
        assert!(self.supervisor.drain(Duration::from_secs(20)).await.all_ended);
    }
}

impl House {
    /// A cluster of one, and its administrator.
    async fn found() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let founded = cluster::init(&config(dir.path(), 1), DAY).await.unwrap();
        let first = run(config(dir.path(), 1)).await;
        let applicant = Applicant { name: "op".into(), ..Default::default() };
        let admitted = redeem(&[first.address()], &founded.bootstrap_token, applicant, |_| Ok(())).await.unwrap();
        Self { dir, admin: admitted.credential, founded, members: vec![Some(first)] }
    }

    /// `count` members, all of them voters.
    async fn of(count: usize) -> Self {
        let mut house = Self::found().await;
        for n in 2..=count {
            house.join(n, false).await;
        }
        house.voters(count).await;
        house
    }

    fn config(&self, n: usize) -> ControlConfig {
        config(self.dir.path(), n)
    }

    fn member(&self, n: usize) -> &Member {
        self.members[n - 1].as_ref().unwrap()
    }

    fn running(&self) -> usize {
        (1..=self.members.len()).find(|n| self.members[n - 1].is_some()).unwrap()
    }

    async fn token(&self, role: NodeRole, learner: bool) -> JoinTokenText {
        let request = pb::CreateJoinTokenRequest { role: role.into(), learner, ..Default::default() };
        let mut client = self.cluster(self.running()).await;
        client.create_join_token(request).await.unwrap().into_inner().token.parse().unwrap()
    }

    async fn join(&mut self, n: usize, learner: bool) {
        let token = self.token(NodeRole::Control, learner).await;
        let peer = self.member(self.running()).address();
        cluster::join(&self.config(n), &token, &[peer]).await.unwrap();
        let member = run(self.config(n)).await;
        self.members.push(Some(member));
    }

    async fn channel(&self, n: usize, credential: Option<&NodeCredential>) -> Channel {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.admin.ca_pem))
            .domain_name(CONTROL_PLANE_NAME);
        if let Some(credential) = credential {
            let key = credential.key_pem.expose_secret();
            tls = tls.identity(Identity::from_pem(&credential.certificate_pem, key));
        }
        let uri = format!("https://{}", self.member(n).address());
        Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
    }

    async fn cluster(&self, n: usize) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel(n, Some(&self.admin)).await)
    }

    async fn status(&self, n: usize) -> pb::GetClusterStatusResponse {
        self.cluster(n).await.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner()
    }

    /// Until there are `count` voters, and all is well.
    async fn voters(&self, count: usize) -> pb::GetClusterStatusResponse {
        let at = self.running();
        eventually("a healthy cluster", async || {
            let status = self.status(at).await;
            let voters = status.members.iter().filter(|member| member.part() == pb::MemberPart::Voter).count();
            (status.healthy && voters == count).then_some(status)
        })
        .await
    }

    /// The leader's place here.
    async fn leader(&self) -> usize {
        let at = self.running();
        let name = eventually("a leader", async || {
            let status = self.status(at).await;
            let leader = status.members.into_iter().find(|member| member.leader)?;
            Some(leader.node?.name)
        })
        .await;
        name.trim_start_matches('c').parse().unwrap()
    }

    async fn end(mut self) {
        for member in std::mem::take(&mut self.members).into_iter().flatten() {
            member.end().await;
        }
    }
}

fn data_dir(house: &House, n: usize) -> PathBuf {
    house.config(n).data_dir
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_form_a_cluster_and_come_back() {
    let mut house = House::of(3).await;
    let status = house.voters(3).await;
    assert_eq!(status.cluster_id, house.founded.cluster_id);
    assert!(status.members.iter().all(|member| member.reachable), "{status:?}");
    // Any member takes a write, and any member knows of it.
    for n in 1..=3 {
        let mut client = house.cluster(n).await;
        let request = pb::CreateJoinTokenRequest { role: NodeRole::Gateway.into(), ..Default::default() };
        let token = client.create_join_token(request);
        let id = token.await.unwrap().into_inner().join_token.unwrap().id;
        for at in 1..=3 {
            let tokens = house.cluster(at).await.list_join_tokens(pb::ListJoinTokensRequest::default()).await.unwrap();
            assert!(tokens.into_inner().join_tokens.iter().any(|token| token.id == id), "{n} at {at}");
        }
    }
    // All of them stop and start again: one where the others know it to be, those elsewhere.
    let mut configs = [house.config(1), house.config(2), house.config(3)];
    configs[0].peer_listen = house.member(1).control.peer_addr;
    for place in 0..3 {
        let member = house.members[place].take().unwrap();
        member.end().await;
    }
    let [one, two, three] = configs;
    let (one, two, three) = tokio::join!(run(one), run(two), run(three));
    house.members = vec![Some(one), Some(two), Some(three)];
    house.voters(3).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_and_members_leave() {
    let mut house = House::of(3).await;
    let leader = house.leader().await;
    let other = (1..=3).find(|n| *n != leader).unwrap();
    // Asked of a member that does not lead.
    let request = pb::TransferLeaderRequest { member: format!("c{other}") };
    house.cluster(other).await.transfer_leader(request).await.unwrap();
    eventually("the new leader", async || (house.leader().await == other).then_some(())).await;

    // The leader itself is asked to go: it hands over, answers, stops, and says why.
    let request = pb::RemoveMemberRequest { member: format!("c{other}"), ..Default::default() };
    house.cluster(other).await.remove_member(request).await.unwrap();
    let gone = house.members[other - 1].take().unwrap();
    tokio::time::timeout(Duration::from_secs(30), gone.supervisor.until_shutdown()).await.unwrap();
    let why = gone.supervisor.failure().unwrap();
    assert!(why.contains("removed from the cluster"), "{why}");
    assert!(gone.supervisor.drain(Duration::from_secs(20)).await.all_ended);
    house.voters(2).await;
    let at = house.channel(house.running(), Some(&house.admin)).await;
    let removals = pb::ListAuditRecordsRequest { method: "RemoveMember".into(), ..Default::default() };
    let told = AuditServiceClient::new(at).list_audit_records(removals).await.unwrap().into_inner().records;
    assert!(matches!(&told[..], [one] if one.code == "OK" && one.objects.len() == 1), "{told:?}");

    // It does not come back as it was.
    let supervisor = Supervisor::new();
    let back =
        tokio::time::timeout(Duration::from_secs(30), postern_server::run(house.config(other), supervisor.clone()))
            .await
            .expect("it is told");
    if back.is_ok() {
        tokio::time::timeout(Duration::from_secs(30), supervisor.until_shutdown()).await.unwrap();
    }
    let why = supervisor.failure().unwrap_or_default();
    assert!(why.contains("removed") || back.is_err(), "{why}");
    drop(back);
    supervisor.drain(Duration::from_secs(20)).await;

    // Under the same name, as a new member.
    std::fs::remove_dir_all(data_dir(&house, other)).unwrap();
    let token = house.token(NodeRole::Control, false).await;
    let peer = house.member(house.running()).address();
    let joined = cluster::join(&house.config(other), &token, &[peer]).await.unwrap();
    assert_eq!(joined.node_id, 4);
    house.members[other - 1] = Some(run(house.config(other)).await);
    house.voters(3).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_stays_one_until_it_is_promoted() {
    let mut house = House::found().await;
    house.join(2, true).await;
    let part = async || {
        let status = house.status(1).await;
        status.members.iter().find(|member| member.node.as_ref().is_some_and(|node| node.name == "c2")).unwrap().part()
    };
    eventually("a learner", async || (part().await == pb::MemberPart::Learner).then_some(())).await;
    let request = pb::PromoteMemberRequest { member: "c2".into(), ..Default::default() };
    eventually("its promotion", async || {
        let mut client = house.cluster(2).await;
        client.promote_member(request.clone()).await.ok()
    })
    .await;
    assert_eq!(part().await, pb::MemberPart::Voter);
    let no_such = pb::RemoveMemberRequest { member: "c9".into(), ..Default::default() };
    let refused = house.cluster(1).await.remove_member(no_such).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_is_not_given_away_and_lost_voters_are_told() {
    let mut house = House::of(3).await;
    let leader = house.leader().await;
    let dead = (1..=3).find(|n| *n != leader).unwrap();
    let alive = (1..=3).find(|n| *n != leader && *n != dead).unwrap();
    house.members[dead - 1].take().unwrap().end().await;
    // Two are left of three; without another one there would be one of two.
    let request = pb::RemoveMemberRequest { member: format!("c{alive}"), ..Default::default() };
    let refused = eventually("the refusal", async || {
        house
            .cluster(leader)
            .await
            .remove_member(request.clone())
            .await
            .err()
            .filter(|it| it.message().contains("reachable"))
    })
    .await;
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    let status = house.status(leader).await;
    assert!(!status.healthy && status.problems.iter().any(|it| it.contains(&format!("c{dead}"))), "{status:?}");
    // The dead one can go.
    let request = pb::RemoveMemberRequest { member: format!("c{dead}"), ..Default::default() };
    house.cluster(alive).await.remove_member(request).await.unwrap();
    let status = eventually("two members", async || {
        let status = house.status(leader).await;
        (status.healthy && status.members.len() == 2).then_some(status)
    })
    .await;
    assert_eq!(status.members.len(), 2);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_why() {
    let house = House::found().await;
    let peer = [house.member(1).address()];
    let refused = async |config: &ControlConfig, token: &JoinTokenText| -> String {
        match cluster::join(config, token, &peer).await {
            Ok(_) => panic!("let in"),
            Err(error) => error.to_string(),
        }
    };
    // Used up: the founder's own token.
    let applicant = Applicant { name: "other".into(), ..Default::default() };
    let used = redeem(&peer, &house.founded.bootstrap_token, applicant.clone(), |_| Ok(())).await;
    assert!(used.err().unwrap().to_string().contains("used up"));
    // Taken back, so unknown.
    let token = house.token(NodeRole::Control, false).await;
    let request = pb::DeleteJoinTokenRequest { id: token.id.clone(), ..Default::default() };
    house.cluster(1).await.delete_join_token(request).await.unwrap();
    assert!(refused(&house.config(2), &token).await.contains("unknown"));
    // For another role.
    let token = house.token(NodeRole::Gateway, false).await;
    assert!(refused(&house.config(2), &token).await.contains("not for control"));
    // Another key-encryption key: nothing is used up by it.
    let token = house.token(NodeRole::Control, false).await;
    let mut other = house.config(2);
    let kek = house.dir.path().join("other-kek");
    std::fs::write(&kek, "ab".repeat(32)).unwrap();
    other.kek_file = Some(kek);
    assert!(refused(&other, &token).await.contains("key-encryption key"));
    // The founder's name.
    let mut same = house.config(2);
    same.node_name = Some("c1".parse().unwrap());
    assert!(refused(&same, &token).await.contains("remove it first"));
    // A data directory that is in use.
    let mut busy = house.config(2);
    busy.data_dir = data_dir(&house, 1);
    assert!(refused(&busy, &token).await.contains("is not empty"));
    // Somebody else's cluster.
    let stranger = House::found().await;
    let theirs = stranger.token(NodeRole::Control, false).await;
    assert!(refused(&house.config(2), &theirs).await.contains("another certificate authority"));
    stranger.end().await;
    // And after all that it is still good.
    cluster::join(&house.config(2), &token, &peer).await.unwrap();
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_founds_nothing_and_a_lost_log_does_not_vote() {
    let dir = tempfile::tempdir().unwrap();
    let error = postern_server::run(config(dir.path(), 1), Supervisor::new()).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, ControlError::Identity(_)) && error.to_string().contains("control init"), "{error}");
    cluster::init(&config(dir.path(), 1), DAY).await.unwrap();
    let again = cluster::init(&config(dir.path(), 1), DAY).await.map(|_| ()).unwrap_err();
    assert!(again.to_string().contains("is not empty"), "{again}");
    std::fs::remove_dir_all(dir.path().join("c1/raft")).unwrap();
    let error = postern_server::run(config(dir.path(), 1), Supervisor::new()).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("not its log"), "{error}");
}

/// Everything that was acknowledged before the backup began is in it, and the restored cluster goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_writes_becomes_a_new_cluster() {
    let house = House::of(3).await;
    let write = async |client: &mut ClusterServiceClient<Channel>| -> String {
        let request = pb::CreateJoinTokenRequest {
            role: NodeRole::Gateway.into(),
            name: "g".into(),
            request_id: postern_runtime::clock::request_id().to_string(),
            ..Default::default()
        };
        client.create_join_token(request).await.unwrap().into_inner().join_token.unwrap().id
    };
    let resources = async |client: Channel, name: String| {
        let mut client = postern_proto::admin::v1::resource_service_client::ResourceServiceClient::new(client);
        client.apply(crate::resources::apply(vec![crate::resources::secret(&name, "s3cret")])).await.unwrap();
    };
    for n in 0..20 {
        resources(house.channel(1 + n % 3, Some(&house.admin)).await, format!("before-{n}")).await;
    }
    let saved = async {
        let mut pieces = house.cluster(2).await.backup(pb::BackupRequest {}).await.unwrap().into_inner();
        let mut file = Vec::new();
        while let Some(piece) = pieces.message().await.unwrap() {
            file.extend_from_slice(&piece.data);
        }
        file
    };
    let busy = async {
        let mut client = house.cluster(1).await;
        for _ in 0..40 {
            write(&mut client).await;
        }
    };
    let (file, ()) = tokio::join!(saved, busy);
    let path = house.dir.path().join("backup");
    std::fs::write(&path, &file).unwrap();
    assert!(!file.windows(6).any(|window| window == b"before"), "in clear");

    // Into a directory that is in use, with another key, of a damaged file: nothing comes of it.
    let refused = async |config: &ControlConfig, path: &Path| {
        postern_server::backup::restore(config, path, DAY).await.map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused(&house.config(1), &path).await.contains("is not empty"));
    let mut other = house.config(8);
    other.kek_file = Some(house.dir.path().join("other-kek"));
    std::fs::write(house.dir.path().join("other-kek"), "cd".repeat(32)).unwrap();
    assert!(refused(&other, &path).await.contains("key-encryption key"));
    let cut = house.dir.path().join("cut");
    std::fs::write(&cut, &file[..file.len() / 2]).unwrap();
    let why = refused(&house.config(7), &cut).await;
    assert!(why.contains("cut short") || why.contains("damaged"), "{why}");

    let former = house.status(1).await;
    let restored = postern_server::backup::restore(&house.config(9), &path, DAY).await.unwrap();
    assert_eq!((restored.node_id, restored.node_name.as_str()), (4, "c9"));
    let member = run(house.config(9)).await;
    let applicant = Applicant { name: "op2".into(), ..Default::default() };
    let admitted = redeem(&[member.address()], &restored.bootstrap_token, applicant, |_| Ok(())).await.unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&admitted.credential.ca_pem))
        .domain_name(CONTROL_PLANE_NAME)
        .identity(Identity::from_pem(
            &admitted.credential.certificate_pem,
            admitted.credential.key_pem.expose_secret(),
        ));
    let uri = format!("https://{}", member.address());
    let channel = Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
    let mut client = postern_proto::admin::v1::resource_service_client::ResourceServiceClient::new(channel.clone());
    for n in 0..20 {
        let request =
            pb::GetRequest { kind: postern_proto::resource::v1::Kind::Secret.into(), name: format!("before-{n}") };
        client.get(request).await.unwrap();
    }
    let mut client = ClusterServiceClient::new(channel);
    let status = client.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.cluster_id, former.cluster_id);
    assert_ne!(status.incarnation, former.incarnation);
    assert_eq!(status.members.len(), 1);
    member.end().await;
    house.end().await;
}

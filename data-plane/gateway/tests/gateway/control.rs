//! A control plane that is played: policy is what the test says, approvals are decided by the test, recordings are kept in memory.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use postern_core::recording::{Authority, Chain, Entry, Event, MAGIC, Report, frames, verify};
use postern_core::secret::SecretBytes;
use postern_core::signed::{Purpose, message};
use postern_core::snapshot::Snapshot;
use postern_core::wire::{snapshot::to_proto, timestamp_to_proto};
use postern_core::{Name, SessionId};
use postern_proto::gateway::v1::fleet_service_server::{FleetService, FleetServiceServer};
use postern_proto::gateway::v1::hold_service_server::{HoldService, HoldServiceServer};
use postern_proto::gateway::v1::issuer_service_server::{IssuerService, IssuerServiceServer};
use postern_proto::gateway::v1::policy_feed_service_server::{PolicyFeedService, PolicyFeedServiceServer};
use postern_proto::gateway::v1::recording_service_server::{RecordingService, RecordingServiceServer};
use postern_proto::gateway::v1::*;
use postern_proto::resource::v1 as pb;
use postern_proto::tunnel::v1::RevokedGateways;
use postern_runtime::clock;
use postern_runtime::pki::{NodeCredential, SealSigner};
use prost::Message as _;
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) policy: watch::Sender<Option<Arc<Snapshot>>>,
    pub(crate) approvals: watch::Sender<BTreeMap<String, pb::Approval>>,
    /// Takes no recordings while it is set.
    pub(crate) away: watch::Sender<bool>,
    /// The directory, whole; none: no leader is to be found.
    pub(crate) fleet: watch::Sender<Option<ReportResponse>>,
    /// What the gateway told of itself last.
    pub(crate) reported: watch::Sender<Vec<ReportRequest>>,
    /// What issuers' keys it was asked for.
    pub(crate) keys_asked: watch::Sender<Vec<String>>,
    /// The policy that asking for keys brings about.
    pub(crate) with_new_keys: watch::Sender<Option<Arc<Snapshot>>>,
    recordings: Arc<Mutex<BTreeMap<SessionId, Stored>>>,
    signer: Option<SealSigner>,
}

#[derive(Clone)]
struct Stored {
    chain: Chain,
    file: Vec<u8>,
    /// What the gateway said last that it still has.
    held_from: u64,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self {
            policy: watch::Sender::new(None),
            approvals: watch::Sender::default(),
            away: watch::Sender::new(false),
            fleet: watch::Sender::new(None),
            reported: watch::Sender::default(),
            keys_asked: watch::Sender::default(),
            with_new_keys: watch::Sender::new(None),
            recordings: Arc::default(),
            signer: None,
        }
    }

    /// Another member: the same policy, and a disk of its own.
    pub(crate) fn other(&self) -> Self {
        Self { away: watch::Sender::new(false), recordings: Arc::default(), ..self.clone() }
    }

    /// How many events of the only session it has, and from which on the gateway said that it still has them.
    pub(crate) fn has(&self) -> (u64, u64) {
        let all = self.recordings.lock().unwrap();
        all.values().next().map_or((0, 0), |stored| (stored.chain.next_seq(), stored.held_from))
    }

    /// Gets from another member what that one has more.
    pub(crate) fn fetch(&self, from: &Self) {
        let theirs = from.recordings.lock().unwrap().clone();
        let mut own = self.recordings.lock().unwrap();
        for (session, stored) in theirs {
            if own.get(&session).is_none_or(|own| own.chain.next_seq() < stored.chain.next_seq()) {
                own.insert(session, stored);
            }
        }
    }

    pub(crate) async fn serve(mut self, listener: tokio::net::TcpListener, credential: NodeCredential) {
        self.signer = Some(credential.signer().unwrap());
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&credential.certificate_pem, credential.key_pem.expose_secret()))
            .client_ca_root(Certificate::from_pem(&credential.ca_pem));
        Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(PolicyFeedServiceServer::new(self.clone()))
            .add_service(HoldServiceServer::new(self.clone()))
            .add_service(FleetServiceServer::new(self.clone()))
            .add_service(IssuerServiceServer::new(self.clone()))
            .add_service(RecordingServiceServer::new(self))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
            .await
            .unwrap();
    }

    /// The next approval that is asked for.
    pub(crate) async fn asked(&self) -> pb::Approval {
        let mut approvals = self.approvals.subscribe();
        let pending = |approval: &&pb::Approval| approval.state() == pb::ApprovalState::Pending;
        let found = approvals.wait_for(|all| all.values().any(|approval| pending(&approval)));
        let found = tokio::time::timeout(Duration::from_secs(10), found).await.unwrap().unwrap();
        found.values().find(pending).unwrap().clone()
    }

    pub(crate) fn set(&self, id: &str, state: pb::ApprovalState) {
        self.approvals.send_modify(|all| all.get_mut(id).unwrap().state = state.into());
    }

    pub(crate) async fn until(&self, id: &str, state: pb::ApprovalState) -> pb::Approval {
        let mut approvals = self.approvals.subscribe();
        let found = approvals.wait_for(|all| all.get(id).is_some_and(|approval| approval.state() == state));
        tokio::time::timeout(Duration::from_secs(10), found).await.unwrap().unwrap()[id].clone()
    }

    /// The recordings that are sealed, in the order of their beginning.
    pub(crate) fn sealed(&self, ca: &[u8]) -> Vec<(SessionId, Report, Vec<Entry>)> {
        let all = self.recordings.lock().unwrap();
        let judge = |(session, stored): (&SessionId, &Stored)| {
            let mut chain = Chain::start(*session);
            let entries = frames(&stored.file[MAGIC.len()..]).map(|frame| chain.accept(&frame.unwrap()).unwrap());
            (*session, verify(&stored.file, Authority(ca)), entries.collect())
        };
        all.iter().map(judge).filter(|(_, report, _)| report.sealed).collect()
    }

    fn change(&self, id: &str, from: &[pb::ApprovalState], to: pb::ApprovalState) -> Result<pb::Approval, Status> {
        let mut outcome = Err(Status::not_found("no such approval"));
        self.approvals.send_modify(|all| {
            if let Some(approval) = all.get_mut(id) {
                outcome = if from.contains(&approval.state()) {
                    approval.state = to.into();
                    Ok(approval.clone())
                } else {
                    Err(Status::failed_precondition("it is in another state"))
                };
            }
        });
        outcome
    }
}

fn sign(signer: &SealSigner, purpose: Purpose, payload: Vec<u8>) -> Signed {
    Signed {
        signature: signer.sign(&message(purpose, &payload)).into(),
        certificate: signer.certificate_der().to_vec().into(),
        payload: payload.into(),
    }
}

/// The whole policy, as a node of the control plane that is up to date sends it.
fn whole(snapshot: &Snapshot, signer: &SealSigner) -> WatchResponse {
    let payload = to_proto(snapshot).encode_to_vec();
    let signed = sign(signer, Purpose::Snapshot, payload);
    let credential = |(target, password): (&Name, &SecretBytes)| Credential {
        target: target.to_string(),
        username: String::new(),
        password: password.expose().to_vec(),
    };
    let credentials = Credentials {
        whole: true,
        credentials: snapshot.credentials.iter().map(credential).collect(),
        removed: Vec::new(),
        mask_key: snapshot.mask_key.expose().to_vec(),
    };
    WatchResponse {
        at: Some(timestamp_to_proto(clock::now())),
        policy: Some(watch_response::Policy::Whole(signed)),
        credentials: Some(credentials),
        confirmation: Some(Confirmation { revision: snapshot.revision, asked_ms: 1, sent_ms: 1 }),
        because: String::new(),
        // As if all of them were gateways'.
        revoked_gateways: (!snapshot.revoked.is_empty()).then(|| {
            let serial = |text: &String| {
                (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
            };
            let payload = RevokedGateways { serials: snapshot.revoked.iter().map(serial).collect() }.encode_to_vec();
            sign(signer, Purpose::RevokedGateways, payload)
        }),
    }
}

#[tonic::async_trait]
impl PolicyFeedService for Control {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let signer = self.signer.clone().unwrap();
        let newest = WatchStream::new(self.policy.subscribe()).filter_map(move |snapshot| {
            let answer = snapshot.map(|snapshot| Ok(whole(&snapshot, &signer)));
            std::future::ready(answer)
        });
        Ok(Response::new(newest.boxed()))
    }
}

#[tonic::async_trait]
impl FleetService for Control {
    type ReportStream = Answers<ReportResponse>;

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Result<Response<Self::ReportStream>, Status> {
        if self.fleet.borrow().is_none() {
            return Err(Status::unavailable("this node does not lead"));
        }
        self.reported.send_replace(Vec::new());
        let (mut reports, reported) = (request.into_inner(), self.reported.clone());
        let heard = async move {
            while let Ok(Some(report)) = reports.message().await {
                reported.send_modify(|all| all.push(report));
            }
        };
        let told = WatchStream::new(self.fleet.subscribe());
        let answers = told.map(|whole| whole.ok_or_else(|| Status::unavailable("this node does not lead")));
        Ok(Response::new(answers.take_until(heard).boxed()))
    }
}

#[tonic::async_trait]
impl IssuerService for Control {
    async fn refresh_keys(
        &self,
        request: Request<RefreshKeysRequest>,
    ) -> Result<Response<RefreshKeysResponse>, Status> {
        let policy = self.with_new_keys.send_replace(None);
        let changed = policy.is_some();
        if changed {
            self.policy.send_replace(policy);
        }
        self.keys_asked.send_modify(|all| all.extend(request.into_inner().issuers));
        Ok(Response::new(RefreshKeysResponse { changed, retry_after_ms: 0 }))
    }
}

#[tonic::async_trait]
impl HoldService for Control {
    type WatchApprovalStream = Answers<WatchApprovalResponse>;

    async fn request_approval(
        &self,
        request: Request<RequestApprovalRequest>,
    ) -> Result<Response<RequestApprovalResponse>, Status> {
        let approval = request.into_inner().approval.unwrap();
        self.approvals.send_modify(|all| drop(all.insert(approval.id.clone(), approval.clone())));
        Ok(Response::new(RequestApprovalResponse { approval: Some(approval) }))
    }

    async fn watch_approval(
        &self,
        request: Request<WatchApprovalRequest>,
    ) -> Result<Response<Self::WatchApprovalStream>, Status> {
        let id = request.into_inner().id;
        let now = WatchStream::new(self.approvals.subscribe()).map(move |all| {
            let approval = all.get(&id).cloned();
            Ok(WatchApprovalResponse { approval })
        });
        Ok(Response::new(now.boxed()))
    }

    async fn consume_approval(
        &self,
        request: Request<ConsumeApprovalRequest>,
    ) -> Result<Response<ConsumeApprovalResponse>, Status> {
        let request = request.into_inner();
        let approval = self.change(&request.id, &[pb::ApprovalState::Approved], pb::ApprovalState::Consumed)?;
        assert_eq!((approval.digest.clone(), approval.session.clone()), (request.digest, request.session));
        Ok(Response::new(ConsumeApprovalResponse { approval: Some(approval) }))
    }

    async fn withdraw_approval(
        &self,
        request: Request<WithdrawApprovalRequest>,
    ) -> Result<Response<WithdrawApprovalResponse>, Status> {
        let request = request.into_inner();
        let open = [pb::ApprovalState::Pending, pb::ApprovalState::Approved];
        self.approvals.send_modify(|all| {
            if let Some(approval) = all.get_mut(&request.id) {
                approval.withdrawn_because = request.because;
            }
        });
        let approval = self.change(&request.id, &open, pb::ApprovalState::Withdrawn)?;
        Ok(Response::new(WithdrawApprovalResponse { approval: Some(approval) }))
    }
}

#[tonic::async_trait]
impl RecordingService for Control {
    type UploadStream = Answers<UploadResponse>;

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<Self::UploadStream>, Status> {
        let recordings = Arc::clone(&self.recordings);
        if *self.away.borrow() {
            return Err(Status::unavailable("away"));
        }
        let mut away = self.away.subscribe();
        let goes = async move { drop(away.wait_for(|away| *away).await) };
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            let session: SessionId = request.session.parse().unwrap();
            let mut all = recordings.lock().unwrap();
            let stored = all.entry(session).or_insert_with(|| Stored {
                chain: Chain::start(session),
                file: MAGIC.to_vec(),
                held_from: 0,
            });
            stored.held_from = request.held_from;
            for (frame, seq) in frames(&request.frames).zip(request.first_seq..) {
                let frame = frame.unwrap();
                if seq == stored.chain.next_seq() {
                    let entry = stored.chain.accept(&frame).unwrap();
                    stored.file.extend_from_slice(frame.bytes);
                    if let Event::Started(started) = entry.event {
                        assert_eq!(started.session, session);
                    }
                }
            }
            Ok(UploadResponse { session: request.session, next_seq: stored.chain.next_seq(), refused: String::new() })
        });
        let end = futures::stream::once(std::future::ready(Err(Status::unavailable("away"))));
        Ok(Response::new(answers.take_until(goes).chain(end).boxed()))
    }
}

//! The called side: who may call, and what becomes of what they send.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use postern_core::node::NodeRole;
use postern_core::wire::cluster::audit_from_proto;
use postern_core::{Name, RequestId};
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::peer_service_server::PeerService as Contract;
use postern_runtime::clock;
use postern_state::Command;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use tokio::sync::watch;
use tonic::codegen::http::Extensions;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::book::{Book, Said};
use super::install::Installs;
use super::known::MAX_ADDRESS;
use super::lane::BATCH_MESSAGES;
use super::wire::{self, PROTOCOL, Reason};
use super::{RaftSide, Shared, install};
use crate::raft::ForwardedProposal;
use crate::serve::PeerInfo;

/// How long a caller may take to say who it is.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// A refused caller is told of again after this long.
const NEWS_AFTER: Duration = Duration::from_secs(60);
/// While the node starts. Members tell by it that nothing was proposed.
pub(super) const STARTING: &str = "this member starts";

/// Answers the other members.
pub struct PeerService {
    shared: Arc<Shared>,
    installs: Arc<Installs>,
}

/// A caller that was let in.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) id: u64,
    name: Name,
    serial: Option<String>,
}

/// The refusal that was logged last.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Option<(u64, Reason, Instant)>>);

impl Refusals {
    fn is_news(&self, id: u64, reason: Reason) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = last.is_some_and(|(who, why, at)| who == id && why == reason && at.elapsed() < NEWS_AFTER);
        if !same {
            *last = Some((id, reason, Instant::now()));
        }
        !same
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl PeerService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, installs: Arc::default() }
    }
}

#[tonic::async_trait]
impl Contract for PeerService {
    type MessagesStream = Answers<pb::MessagesResponse>;
    type InstallSnapshotStream = Answers<pb::InstallSnapshotResponse>;

    async fn messages(
        &self,
        request: Request<Streaming<pb::MessagesRequest>>,
    ) -> Result<Response<Self::MessagesStream>, Status> {
        let (_, extensions, mut incoming) = request.into_parts();
        let first = tokio::time::timeout(HELLO_LIMIT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(pb::messages_request::Request::Hello(hello)) = first.and_then(|first| first.request) else {
            return Err(Status::invalid_argument("a stream begins with a hello"));
        };
        let (caller, protocol) = self.shared.admit(&extensions, &hello)?;
        let raft = Arc::clone(self.shared.raft().ok_or_else(|| Status::unavailable(STARTING))?);
        let welcome = pb::Welcome {
            node_id: self.shared.config.node_id,
            protocol,
            feature_level: self.shared.config.feature_level,
        };
        let mut book = self.shared.book.subscribe();
        book.mark_unchanged();
        let incoming = Incoming {
            welcome: Some(welcome),
            told: pb::KnownMembers::default(),
            untold: true,
            shared: Arc::clone(&self.shared),
            raft,
            caller,
            incoming,
            book,
        };
        Ok(Response::new(Box::pin(incoming.answers())))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let (_, extensions, mut incoming) = request.into_parts();
        let first = tokio::time::timeout(HELLO_LIMIT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no header"))??;
        let Some(pb::install_snapshot_request::Request::Header(header)) = first.and_then(|first| first.request) else {
            return Err(Status::invalid_argument("a snapshot begins with a header"));
        };
        let hello = header.hello.clone().ok_or_else(|| Status::invalid_argument("hello is missing"))?;
        let (caller, _) = self.shared.admit(&extensions, &hello)?;
        let raft = Arc::clone(self.shared.raft().ok_or_else(|| Status::unavailable(STARTING))?);
        let answers = install::begin(&self.shared, &self.installs, raft, &caller, header, incoming).await?;
        Ok(Response::new(Box::pin(answers)))
    }

    async fn propose(&self, request: Request<pb::ProposeRequest>) -> Result<Response<pb::ProposeResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        // The same checks as for a stream, which has more to say.
        let hello = pb::Hello {
            cluster_id: request.cluster_id,
            node_id: request.node_id,
            to: self.shared.config.node_id,
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            ..pb::Hello::default()
        };
        self.shared.admit(&extensions, &hello)?;
        if request.hops > 1 {
            return Err(Status::invalid_argument("a write is passed on once"));
        }
        let raft = self.shared.raft().ok_or_else(|| Status::unavailable(STARTING))?;
        let command = Command::decode(&request.command).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Status::invalid_argument(faults.join("; "))
        })?;
        let request_id = <[u8; 16]>::try_from(request.request_id.as_ref())
            .map(RequestId::from_bytes)
            .map_err(|_| Status::invalid_argument("request_id has 16 bytes"))?;
        let audit = request
            .audit
            .map(audit_from_proto)
            .transpose()
            .map_err(|error| Status::invalid_argument(format!("audit.{error}")))?;
        let outcome = raft.propose(ForwardedProposal { command, request_id, audit }).await;
        Ok(Response::new(wire::answer(outcome)?))
    }
}

impl Shared {
    /// Lets a caller in who proves to be the member that it says it is; with the protocol version that both speak.
    fn admit(&self, extensions: &Extensions, hello: &pb::Hello) -> Result<(Caller, u32), Status> {
        let refused = |reason: Reason, text: String| {
            metrics::counter!("postern_control_peer_refused_total", "reason" => reason.as_str()).increment(1);
            // It comes again and again: told once a minute.
            if self.refusals.is_news(hello.node_id, reason) {
                warn!(peer = hello.node_id, reason = reason.as_str(), "a caller is not let in: {text}");
            }
            reason.status(text)
        };
        let info = extensions.get::<PeerInfo>();
        let identity = info.and_then(|info| info.identity.as_ref());
        let Some(identity) = identity.filter(|identity| identity.role == NodeRole::Control) else {
            return Err(refused(Reason::WrongIdentity, "only members of the control plane call here".to_owned()));
        };
        if hello.cluster_id != self.config.cluster_id {
            let text = format!(
                "this member is of cluster {}, the caller of cluster {}",
                self.config.cluster_id,
                super::wire::shown(&hello.cluster_id)
            );
            return Err(refused(Reason::WrongCluster, text));
        }
        let caller = Caller {
            id: hello.node_id,
            name: identity.name.clone(),
            serial: info.and_then(|info| info.serial.clone()),
        };
        self.book.with(|book| check(book, &caller)).map_err(|(reason, text)| refused(reason, text))?;
        if hello.to != self.config.node_id {
            let text = format!("this is node {}, not node {}", self.config.node_id, hello.to);
            return Err(refused(Reason::WrongReceiver, text));
        }
        let (lowest, highest) = (hello.protocol_min.max(*PROTOCOL.start()), hello.protocol_max.min(*PROTOCOL.end()));
        if lowest > highest {
            let text = format!(
                "the caller speaks versions {} to {} of the protocol, this member {} to {}",
                hello.protocol_min,
                hello.protocol_max,
                PROTOCOL.start(),
                PROTOCOL.end()
            );
            return Err(refused(Reason::ProtocolMismatch, text));
        }
        if (1..=MAX_ADDRESS).contains(&hello.peer_address.len()) && hello.node_id != self.config.node_id {
            let said = Said { address: hello.peer_address.clone(), starts: hello.starts };
            self.book.heard(caller.id, &caller.name, said);
        }
        Ok((caller, highest))
    }
}

/// Whether `caller` is, or still is, a member.
pub(super) fn check(book: &Book, caller: &Caller) -> Result<(), (Reason, String)> {
    let Caller { id, name, serial } = caller;
    if book.removed.contains_key(id) {
        return Err((Reason::NodeRemoved, format!("node {id} ({name}) was removed from the cluster")));
    }
    if serial.as_ref().is_some_and(|serial| book.revoked.contains(serial)) {
        return Err((Reason::CertificateRevoked, format!("the certificate of {name} was revoked")));
    }
    let known = book.members.get(id).is_some_and(|entry| entry.name == *name);
    // A joiner that nobody has heard of may come with a fresh id and a fresh name; nobody takes another's.
    let fresh = !book.members.contains_key(id) && book.members.values().all(|entry| entry.name != *name);
    if *id == 0 || !(known || fresh) {
        return Err((Reason::WrongIdentity, format!("the certificate of {name} is not that of node {id}")));
    }
    Ok(())
}

/// A stream of messages from a peer: read whenever the connection asks for the next answer.
struct Incoming {
    welcome: Option<pb::Welcome>,
    /// What the caller was told last of where members are, and whether there may be more to tell.
    told: pb::KnownMembers,
    untold: bool,
    shared: Arc<Shared>,
    raft: Arc<dyn RaftSide>,
    caller: Caller,
    incoming: Streaming<pb::MessagesRequest>,
    book: watch::Receiver<Book>,
}

impl Incoming {
    fn answers(self) -> impl Stream<Item = Result<pb::MessagesResponse, Status>> + Send + 'static {
        futures::stream::unfold(Some(self), |this| async move {
            let mut this = this?;
            match this.next().await {
                Ok(Some(answer)) => Some((Ok(pb::MessagesResponse { response: Some(answer) }), Some(this))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<pb::messages_response::Response>, Status> {
        use pb::messages_request::Request;
        use pb::messages_response::Response;
        if let Some(welcome) = self.welcome.take() {
            return Ok(Some(Response::Welcome(welcome)));
        }
        loop {
            if std::mem::take(&mut self.untold)
                && let Some(known) = self.news()
            {
                return Ok(Some(Response::KnownMembers(known)));
            }
            let request = tokio::select! {
                () = self.shared.stop.cancelled() => return Err(Status::unavailable("this member stops")),
                changed = self.book.changed() => {
                    changed.map_err(|_| Status::unavailable("this member stops"))?;
                    check(&self.book.borrow_and_update(), &self.caller).map_err(|(reason, text)| reason.status(text))?;
                    self.untold = true;
                    continue;
                }
                request = self.incoming.message() => request?,
            };
            match request.and_then(|request| request.request) {
                None => return Ok(None),
                Some(Request::Batch(batch)) => self.take(&batch)?,
                Some(Request::Ping(ping)) => {
                    let pong = pb::Pong { number: ping.number, unix_millis: clock::now().millis() };
                    return Ok(Some(Response::Pong(pong)));
                }
                Some(Request::Hello(_)) => return Err(Status::invalid_argument("one hello is enough")),
            }
        }
    }

    /// Where members are, when the caller was not yet told.
    fn news(&mut self) -> Option<pb::KnownMembers> {
        let known = self.shared.known_members(self.caller.id);
        (known != self.told).then(|| {
            self.told = known.clone();
            known
        })
    }

    fn take(&self, batch: &pb::Batch) -> Result<(), Status> {
        if batch.messages.len() > BATCH_MESSAGES {
            return Err(Status::invalid_argument(format!("more than {BATCH_MESSAGES} messages in one batch")));
        }
        for bytes in &batch.messages {
            let message =
                Message::decode(bytes.as_ref()).map_err(|_| Status::invalid_argument("a message cannot be decoded"))?;
            match misplaced(&message, &self.caller, self.shared.config.node_id) {
                None => self.raft.step(message),
                Some(why) => {
                    metrics::counter!("postern_control_peer_dropped_total",
                        "peer" => self.caller.id.to_string(), "reason" => why)
                    .increment(1);
                }
            }
        }
        Ok(())
    }
}

/// Why a message of a stream is not for Raft.
fn misplaced(message: &Message, caller: &Caller, own: u64) -> Option<&'static str> {
    if message.from != caller.id {
        return Some("foreign");
    }
    if message.to != own {
        return Some("misdirected");
    }
    match message.msg_type() {
        // Snapshots are installed and writes proposed by calls of their own.
        MessageType::MsgSnapshot | MessageType::MsgPropose => Some("misplaced"),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => Some("local"),
        _ => None,
    }
}

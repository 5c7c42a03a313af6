//! `postern sessions`.

use std::io::Write as _;
use std::path::Path;

use postern_core::SessionId;
use postern_core::recording::{Authority, Entry, Verifier};
use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1::{ExportSessionRequest, GetSessionRequest, ListSessionsRequest};
use postern_proto::resource::v1 as pb;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::{principal, when};
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, connect, refused};
use crate::failure::Failure;
use crate::output;
use crate::recording::{ReadFault, Replay};
use crate::session_args::SessionsCommand;

const PIECE: usize = 64 << 10;

pub(crate) async fn run(command: &SessionsCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        SessionsCommand::List { limit, target, principal, output } => {
            let client = connect(connection).await?;
            let request = ListSessionsRequest {
                page_size: *limit,
                target: target.clone(),
                principal: principal.clone(),
                ..Default::default()
            };
            let most = usize::try_from(*limit).unwrap_or(usize::MAX);
            list(&found(&client, request, most).await?, output.format)
        }
        SessionsCommand::Show { id, output } => {
            let client = connect(connection).await?;
            let request = GetSessionRequest { id: id.clone() };
            let session = client.sessions().get_session(request).await.map_err(refused)?.into_inner().session;
            let session = session.unwrap_or_default();
            match output.format {
                Some(Format::Json) => output::json(&value(&session)),
                _ => output::yaml(&[value(&session)]),
            }
        }
        SessionsCommand::Replay(args) => super::replay::run(args, connection).await,
        SessionsCommand::Verify { recording } => verify(recording, connection).await,
        SessionsCommand::Export { id, output } => export(id, output, connection).await,
        SessionsCommand::Kill(args) => super::kill::run(args, connection).await,
    }
}

/// The sessions that a request asks for, page by page; at most so many.
pub(super) async fn found(
    client: &Client,
    mut request: ListSessionsRequest,
    most: usize,
) -> Result<Vec<pb::Session>, Failure> {
    let mut sessions = Vec::new();
    loop {
        let page = client.sessions().list_sessions(request.clone()).await.map_err(refused)?.into_inner();
        sessions.extend(page.sessions);
        if page.next_page_token.is_empty() || sessions.len() >= most {
            break;
        }
        request.page_token = page.next_page_token;
    }
    sessions.truncate(most);
    Ok(sessions)
}

pub(super) fn list(sessions: &[pb::Session], format: Option<Format>) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        Format::Json => output::json(&sessions.iter().map(value).collect()),
        Format::Yaml => output::yaml(&sessions.iter().map(value).collect::<Vec<_>>()),
        Format::Table if sessions.is_empty() => {
            output::note("there are no sessions");
            Ok(())
        }
        Format::Table => {
            let row = |session: &pb::Session| {
                let database =
                    if session.database.is_empty() { String::new() } else { format!("/{}", session.database) };
                vec![
                    session.id.clone(),
                    state(session).to_owned(),
                    principal(session.principal.as_ref()),
                    format!("{}{database}", session.target),
                    session.gateway.clone(),
                    when(session.started_at.as_ref()),
                    when(session.ended_at.as_ref()),
                    if session.events > 0 { session.events.to_string() } else { String::new() },
                ]
            };
            let heading = ["ID", "STATE", "PRINCIPAL", "TARGET", "GATEWAY", "STARTED", "ENDED", "EVENTS"];
            output::table(&heading, &sessions.iter().map(row).collect::<Vec<_>>())
        }
    }
}

/// Where a recording's bytes come from.
pub(crate) enum Source {
    File(std::fs::File),
    Remote(Box<tonic::Streaming<postern_proto::admin::v1::ExportSessionResponse>>),
}

impl Source {
    /// A session's id is asked of the control plane; anything else is a file.
    pub(crate) async fn open(recording: &str, connection: &ConnectionArgs) -> Result<Self, Failure> {
        if recording.parse::<SessionId>().is_ok() {
            return Self::remote(&connect(connection).await?, recording).await;
        }
        match std::fs::File::open(recording) {
            Ok(file) => Ok(Self::File(file)),
            Err(error) => {
                Err(Failure::failed(format!("{recording} is neither a session's id nor a readable file: {error}")))
            }
        }
    }

    pub(crate) async fn remote(client: &Client, id: &str) -> Result<Self, Failure> {
        let request = ExportSessionRequest { id: id.to_owned(), ..Default::default() };
        let stream = client.sessions().export_session(request).await.map_err(refused)?.into_inner();
        Ok(Self::Remote(Box::new(stream)))
    }

    /// The next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::File(file) => {
                let mut piece = vec![0; PIECE];
                let read = std::io::Read::read(file, &mut piece)?;
                piece.truncate(read);
                Ok(Some(piece).filter(|piece| !piece.is_empty()))
            }
            Self::Remote(stream) => Ok(stream.message().await.map_err(refused)?.map(|answer| answer.data)),
        }
    }
}

/// Why a replay ends.
pub(super) enum Stop {
    Fault(ReadFault),
    Failure(Failure),
}

impl From<ReadFault> for Stop {
    fn from(fault: ReadFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failure(failure) => failure,
            Stop::Fault(fault) => Self::failed(format!("the recording cannot be trusted from here on: {fault}")),
        }
    }
}

/// Prints one event.
pub(super) fn show(replay: &mut Replay, entry: &Entry, format: Option<Format>) -> Result<(), Stop> {
    match format {
        Some(Format::Json) => {
            let text = serde_json::to_string(entry).map_err(|error| Failure::failed(error.to_string()))?;
            Ok(output::line(text)?)
        }
        _ => Ok(output::raw(replay.entry(entry).as_bytes())?),
    }
}

async fn verify(recording: &str, connection: &ConnectionArgs) -> Result<(), Failure> {
    let mut source = Source::open(recording, connection).await?;
    let authority = authority(connection)?;
    let mut verifier = Verifier::new(Some(Authority(&authority)));
    while let Some(piece) = source.next().await? {
        verifier.push(&piece);
    }
    let report = verifier.finish();
    output::line(output::printable(&report.to_string()))?;
    if let (Ok(asked), Some(found)) = (recording.parse::<SessionId>(), report.session)
        && asked != found
    {
        return Err(Failure::failed(format!("asked for {asked}, but this is the recording of {found}")));
    }
    if report.is_good() { Ok(()) } else { Err(Failure::Told) }
}

/// The cluster's certificate authority as DER: from --ca or the profile; nothing is asked of the control plane, which could be the
/// one that lies.
pub(crate) fn authority(connection: &ConnectionArgs) -> Result<Vec<u8>, Failure> {
    let pem = crate::client::authority(connection)?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| Failure::failed(format!("the certificate authority is not PEM: {error}")))?;
    Ok(der.to_vec())
}

async fn export(id: &str, path: &Path, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    if path.as_os_str() == "-" {
        let mut source = Source::remote(&client, id).await?;
        while let Some(piece) = source.next().await? {
            output::raw(&piece)?;
        }
        return Ok(());
    }
    let size = save(&client, id, path).await?;
    output::line(format!("{}: {size} bytes written", path.display()))
}

/// Writes a recording to a file; how many bytes those were.
pub(crate) async fn save(client: &Client, id: &str, path: &Path) -> Result<usize, Failure> {
    let mut source = Source::remote(client, id).await?;
    let cannot = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let mut file = std::fs::File::create(path).map_err(cannot)?;
    let mut size = 0_usize;
    while let Some(piece) = source.next().await? {
        size = size.saturating_add(piece.len());
        file.write_all(&piece).map_err(cannot)?;
    }
    file.sync_all().map_err(cannot)?;
    Ok(size)
}

fn value(session: &pb::Session) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    let head: String = session.head.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "id": session.id, "state": state(session), "principal": principal(session.principal.as_ref()),
        "groups": session.principal.as_ref().map(|principal| principal.groups.clone()).unwrap_or_default(),
        "target": session.target, "database": session.database, "gateway": session.gateway,
        "clientAddress": session.client_address, "startedAt": time(session.started_at.as_ref()),
        "endedAt": time(session.ended_at.as_ref()), "endReason": session.end_reason, "events": session.events,
        "head": head, "orphaned": session.orphaned, "revision": session.revision,
    })
}

fn state(session: &pb::Session) -> &'static str {
    match session.state() {
        pb::SessionState::Open => "open",
        pb::SessionState::Ended => "ended",
        pb::SessionState::Interrupted => "interrupted",
        pb::SessionState::Unspecified => "unknown",
    }
}

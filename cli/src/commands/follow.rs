//! `postern sessions replay --follow`.

use std::time::{Duration, Instant};

use postern_core::SessionId;
use postern_proto::admin::v1::{ExportSessionRequest, GetSessionRequest};
use tonic::{Code, Status};

use super::sessions::{Stop, authority, show};
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, connect, refused};
use crate::failure::Failure;
use crate::output;
use crate::recording::{EntryReader, Replay};

/// How long nobody may answer, or have anything of the recording.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between tries.
const AGAIN: Duration = Duration::from_millis(500);

/// What has been read of a recording.
struct Read<'a> {
    reader: EntryReader<'a>,
    replay: Replay,
    format: Option<Format>,
    /// Bytes.
    offset: u64,
    /// When something came last.
    at: Instant,
}

/// Why a stream is of no more use.
enum Cut {
    /// Another may go on where it ended.
    Off(Status),
    For(Failure),
}

/// Shows what a session does until it has ended. Members that die in between are left for others.
pub(crate) async fn run(id: &str, format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let session = id.parse::<SessionId>().map_err(|_| Failure::usage("--follow needs a session's id"))?;
    let authority = authority(connection)?;
    let (reader, replay) = (EntryReader::new(Some(session), Some(&authority)), Replay::new(output::color()));
    let mut read = Read { reader, replay, format, offset: 0, at: Instant::now() };
    let mut client = connect(connection).await?;
    loop {
        let cut = read.on(&client, id).await;
        if read.reader.sealed() {
            output::note("the session is over, and its recording is sealed");
            return Ok(());
        }
        if cut.is_ok() && orphaned(&client, id).await {
            output::note("its gateway is gone: this is what there is of it. Follow it again if that comes back");
            return Ok(());
        }
        match cut {
            Err(Cut::For(failure)) => return Err(failure),
            Err(Cut::Off(status)) if read.at.elapsed() >= PATIENCE => return Err(refused(status)),
            Ok(()) if read.at.elapsed() >= PATIENCE => {
                return Err(Failure::failed("the recording ends without a seal, and nothing more comes"));
            }
            _ => tokio::time::sleep(AGAIN).await,
        }
        // The one that was asked may be gone; while none answers the old one is as good.
        if let Ok(another) = connect(connection).await {
            client = another;
        }
    }
}

/// Whether the control plane has closed it, because its gateway is gone; not so while nobody answers.
async fn orphaned(client: &Client, id: &str) -> bool {
    let answer = client.sessions().get_session(GetSessionRequest { id: id.to_owned() }).await;
    answer.is_ok_and(|answer| answer.into_inner().session.is_some_and(|session| session.orphaned))
}

impl Read<'_> {
    /// Reads on from where it is.
    async fn on(&mut self, client: &Client, id: &str) -> Result<(), Cut> {
        let request = ExportSessionRequest { id: id.to_owned(), offset: self.offset, follow: true };
        let mut stream = client.sessions().export_session(request).await.map_err(cut)?.into_inner();
        while let Some(answer) = stream.message().await.map_err(cut)? {
            let Self { reader, replay, format, .. } = self;
            let took = reader.push(&answer.data, |entry| show(replay, &entry, *format));
            took.map_err(|stop: Stop| Cut::For(stop.into()))?;
            self.offset = self.offset.saturating_add(u64::try_from(answer.data.len()).unwrap_or(u64::MAX));
            self.at = Instant::now();
        }
        Ok(())
    }
}

fn cut(status: Status) -> Cut {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted => Cut::Off(status),
        _ => Cut::For(refused(status)),
    }
}

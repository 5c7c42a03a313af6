//! `postern sessions kill`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _};
use std::time::{Duration, Instant};

use postern_proto::admin::v1::{GetSessionRequest, KillSessionsRequest, ListSessionsRequest};
use postern_proto::resource::v1 as pb;
use postern_proto::resource::v1::SessionState;
use postern_runtime::clock;
use tonic::Code;

use super::sessions::{found, list};
use crate::args::ConnectionArgs;
use crate::client::{Client, connect, refused};
use crate::failure::Failure;
use crate::output;
use crate::session_args::KillArgs;

/// In one request, as the control plane takes it.
const MOST: usize = 1_000;
/// Between looks at whether they have ended.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn run(args: &KillArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let ids = if args.ids.is_empty() { selected(args, &client).await? } else { args.ids.clone() };
    if ids.is_empty() {
        output::note("there are no such sessions");
        return Ok(());
    }
    let mut killed = Vec::new();
    for ids in ids.chunks(MOST) {
        let request = KillSessionsRequest {
            ids: ids.to_vec(),
            because: args.why.reason.clone(),
            request_id: clock::request_id().to_string(),
        };
        killed.extend(client.sessions().kill_sessions(request).await.map_err(refused)?.into_inner().sessions);
    }
    if args.wait == 0 {
        for session in &killed {
            output::line(format!("{}: is told to end", session.id))?;
        }
        return Ok(());
    }
    // Whatever becomes of the waiting, this much is so.
    output::note(match killed.as_slice() {
        [_] => "the session is told to end".to_owned(),
        all => format!("{} sessions are told to end", all.len()),
    });
    wait(&client, &killed, Duration::from_secs(args.wait)).await
}

/// All open ones that are meant, once somebody has said that they are; and those that were closed because their gateway is gone: it may be cut off, and
/// they go on there.
async fn selected(args: &KillArgs, client: &Client) -> Result<Vec<String>, Failure> {
    let request = |state: SessionState| ListSessionsRequest {
        page_size: u32::try_from(MOST).unwrap_or(u32::MAX),
        target: args.target.clone().unwrap_or_default(),
        principal: args.principal.clone().unwrap_or_default(),
        state: state.into(),
        ..Default::default()
    };
    let interrupted = found(client, request(SessionState::Interrupted), usize::MAX).await?;
    // Asked for last: one that is open again since is in both.
    let mut found = found(client, request(SessionState::Open), usize::MAX).await?;
    let open: BTreeSet<String> = found.iter().map(|session| session.id.clone()).collect();
    found.extend(interrupted.into_iter().filter(|session| session.orphaned && !open.contains(&session.id)));
    if !args.yes && !found.is_empty() {
        list(&found, None)?;
        agreed(found.len())?;
    }
    Ok(found.into_iter().map(|session| session.id).collect())
}

fn agreed(count: usize) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{count} sessions would be ended: say --yes")));
    }
    output::note(format!("end these {count} sessions? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(Failure::failed("nothing was ended")) }
}

/// Until the index knows that they are over: their recordings are sealed then.
async fn wait(client: &Client, killed: &[pb::Session], limit: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut open: Vec<&pb::Session> = killed.iter().collect();
    let mut unknown;
    loop {
        unknown = None;
        for session in std::mem::take(&mut open) {
            let request = GetSessionRequest { id: session.id.clone() };
            let over = match client.sessions().get_session(request).await {
                // One that is orphaned may go on where its gateway is.
                Ok(now) => now.into_inner().session.is_none_or(|now| now.ended_at.is_some() && !now.orphaned),
                // Those that ended longest ago leave the index.
                Err(status) if status.code() == Code::NotFound => true,
                Err(status) => {
                    unknown = Some(status);
                    false
                }
            };
            if over {
                output::line(format!("{}: ended", session.id))?;
            } else {
                open.push(session);
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= limit {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    if let Some(status) = unknown {
        return Err(Failure::failed(format!(
            "{} sessions are told to end; whether they have is not known: {}",
            open.len(),
            refused(status)
        )));
    }
    let still = |session: &&pb::Session| {
        format!(
            "{}: has not ended yet. Gateway {} ends it when it hears of it; one before feature level 7 has to be upgraded, or stopped",
            session.id, session.gateway
        )
    };
    Err(Failure::Many(open.iter().map(still).collect()))
}

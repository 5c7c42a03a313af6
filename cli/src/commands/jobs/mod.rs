//! `postern job`.

mod beats;
mod run;

use postern_proto::admin::v1::{BeatJobRequest, EndJobRequest, GetJobRequest, ListJobsRequest, StartJobRequest};
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::{principal, when};
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, GIVE_UP, again_and_again, connect, every_page, refused};
use crate::failure::Failure;
use crate::job_args::JobCommand;
use crate::output;
use crate::token_args::new_job;

pub(crate) async fn run(command: &JobCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    let id = |id: &Option<String>| id.clone().unwrap_or_default();
    match command {
        JobCommand::Run(args) => run::run(args, connection).await,
        JobCommand::Start { name, heartbeat, output } => {
            let request = StartJobRequest { job: Some(new_job(name, *heartbeat)) };
            let job = again_and_again(connection, GIVE_UP, async |client: Client| {
                client.jobs().start_job(request.clone()).await.map(|answer| answer.into_inner().job)
            });
            show(&job.await?.unwrap_or_default(), output.format)
        }
        JobCommand::Beat { id: of } => {
            let request = BeatJobRequest { token: id(of) };
            let job = again_and_again(connection, GIVE_UP, async |client: Client| {
                client.jobs().beat_job(request.clone()).await.map(|answer| answer.into_inner().job)
            });
            let job = job.await?.unwrap_or_default();
            output::line(format!("{} {}: to be heard of by {}", job.token, job.name, when(job.deadline.as_ref())))
        }
        JobCommand::End { id: of, because } => {
            let request = EndJobRequest { token: id(of), because: because.clone() };
            let ended = again_and_again(connection, GIVE_UP, async |client: Client| {
                client.jobs().end_job(request.clone()).await.map(drop)
            });
            ended.await?;
            output::note("ended: its token is revoked, and all that was made from it");
            Ok(())
        }
        JobCommand::List { output } => list(&connect(connection).await?, output.format).await,
        JobCommand::Show { id: of, output } => {
            let client = connect(connection).await?;
            let job = client.jobs().get_job(GetJobRequest { token: id(of) }).await.map_err(refused)?.into_inner().job;
            show(&job.unwrap_or_default(), output.format)
        }
    }
}

async fn list(client: &Client, format: Option<Format>) -> Result<(), Failure> {
    let found = every_page(async |page_token| {
        let request = ListJobsRequest { page_token, ..ListJobsRequest::default() };
        let page = client.jobs().list_jobs(request).await?.into_inner();
        Ok((page.jobs, page.next_page_token))
    });
    let found = found.await?;
    let row = |job: &pb::Job| {
        vec![
            job.token.clone(),
            job.name.clone(),
            principal(job.principal.as_ref()),
            super::access::duration(job.heartbeat_seconds),
            when(job.started_at.as_ref()),
            when(job.deadline.as_ref()),
            when(job.ends_at.as_ref()),
        ]
    };
    let heading = ["ID", "NAME", "PRINCIPAL", "HEARTBEAT", "STARTED", "TO BE HEARD OF BY", "ENDS"];
    output::list(&found, format, value, (&heading, row), "there are no jobs")
}

fn show(job: &pb::Job, format: Option<Format>) -> Result<(), Failure> {
    match format.unwrap_or(Format::Yaml) {
        Format::Json => output::json(&value(job)),
        Format::Yaml | Format::Table => output::yaml(&[value(job)]),
    }
}

fn value(job: &pb::Job) -> Value {
    let chain = job.principal.as_ref().map(|principal| principal.chain.as_slice()).unwrap_or_default();
    json!({
        "id": job.token,
        "name": job.name,
        "principal": principal(job.principal.as_ref()),
        "madeFrom": chain.iter().map(|link| link.token_id.as_str()).filter(|id| *id != job.token).collect::<Vec<_>>(),
        "heartbeat": super::access::duration(job.heartbeat_seconds),
        "startedAt": when(job.started_at.as_ref()),
        "deadline": when(job.deadline.as_ref()),
        "endsAt": when(job.ends_at.as_ref()),
    })
}

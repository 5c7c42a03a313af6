use std::time::{Duration, Instant};

use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::audit_service_client::AuditServiceClient;
use postern_proto::admin::v1::job_service_client::JobServiceClient;
use postern_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1::{Job, NewJob, RevokedThing, TokenName, revoked_thing};
use tonic::Code;
use tonic::transport::Channel;

use crate::issuer::Issuer;
use crate::node::{Node, eventually, start, with_token};

struct Desk {
    tokens: TokenServiceClient<Channel>,
    jobs: JobServiceClient<Channel>,
}

impl Desk {
    async fn of(node: &Node) -> Self {
        let channel = node.anonymous().await;
        Self { tokens: TokenServiceClient::new(channel.clone()), jobs: JobServiceClient::new(channel) }
    }

    /// A session token's text and id.
    async fn exchange(&mut self, from: &str, actor: &str, job: Option<NewJob>) -> Result<(String, String), Code> {
        let (subject_token, actor) = (from.to_owned(), actor.to_owned());
        let request = pb::ExchangeTokenRequest { subject_token, actor, job, ttl_seconds: 600, ..Default::default() };
        let answer = self.tokens.exchange_token(request).await.map_err(|status| status.code())?.into_inner();
        Ok((answer.token, answer.id))
    }

    async fn beat(&mut self, by: &str, job: &str) -> Result<Job, Code> {
        let request = with_token(pb::BeatJobRequest { token: job.into() }, by);
        let answer = self.jobs.beat_job(request).await.map_err(|status| status.code())?;
        Ok(answer.into_inner().job.unwrap())
    }

    async fn end(&mut self, by: &str, job: &str) -> Result<(), Code> {
        let request = with_token(pb::EndJobRequest { token: job.into(), ..Default::default() }, by);
        self.jobs.end_job(request).await.map(drop).map_err(|status| status.code())
    }

    async fn list(&mut self, by: &str) -> Vec<String> {
        let listed = self.jobs.list_jobs(with_token(pb::ListJobsRequest::default(), by)).await.unwrap().into_inner();
        listed.jobs.into_iter().map(|job| job.name).collect()
    }
}

fn named(name: &str, heartbeat_seconds: u32) -> Option<NewJob> {
    Some(NewJob { name: name.into(), heartbeat_seconds })
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_job_it_is_says_so_and_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut desk = Desk::of(&node).await;
    let robot = issuer.token("robot", &[], 900);
    for bad in [named("", 30), named("a\nb", 30), named("x", 4), named("x", 3_601)] {
        assert_eq!(desk.exchange(&robot, "", bad).await.unwrap_err(), Code::InvalidArgument);
    }
    let (planner, planners) = desk.exchange(&robot, "planner", None).await.unwrap();
    let (build, id) = desk.exchange(&planner, "build", named("build", 60)).await.unwrap();
    let (tool, tools) = desk.exchange(&build, "tool", None).await.unwrap();
    let stranger = issuer.token("stranger", &[], 900);

    // The job, and what was made from it, says that it is alive; nobody else does, nor sees it.
    let job = desk.beat(&build, "").await.unwrap();
    assert_eq!((&*job.token, &*job.name, job.heartbeat_seconds), (&*id, "build", 60));
    let chain: Vec<String> = job.principal.unwrap().chain.into_iter().map(|link| link.subject).collect();
    assert_eq!(chain, ["planner", "build"]);
    assert_eq!(desk.beat(&tool, "").await.unwrap().token, id);
    assert_eq!(desk.beat(&tool, &id).await.unwrap().token, id);
    for (other, code) in
        [(&planner, Code::PermissionDenied), (&robot, Code::PermissionDenied), (&stranger, Code::NotFound)]
    {
        assert_eq!(desk.beat(other, &id).await.unwrap_err(), code);
    }
    assert_eq!(desk.beat(&planner, "").await.unwrap_err(), Code::NotFound);
    assert_eq!(
        (desk.list(&planner).await, desk.list(&tool).await),
        (vec!["build".to_owned()], vec!["build".to_owned()])
    );
    assert!(desk.list(&stranger).await.is_empty());
    let auditor = issuer.token("ada", &["auditors"], 900);
    assert_eq!(desk.list(&auditor).await, ["build"]);

    // A child of its own has a job of its own; each says of the nearest.
    let tied = with_token(pb::StartJobRequest { job: named("step", 0) }, &tool);
    let step = desk.jobs.start_job(tied).await.unwrap().into_inner().job.unwrap();
    assert_eq!((&*step.token, step.heartbeat_seconds), (&*tools, 30));
    assert_eq!(desk.beat(&tool, "").await.unwrap().token, tools);
    let oidc = with_token(pb::StartJobRequest { job: named("x", 0) }, &robot);
    assert_eq!(desk.jobs.start_job(oidc).await.unwrap_err().code(), Code::FailedPrecondition);

    // Who may end it: not what was handed on, nor who may only look.
    for (other, code) in
        [(&tool, Code::PermissionDenied), (&auditor, Code::PermissionDenied), (&stranger, Code::NotFound)]
    {
        assert_eq!(desk.end(other, &id).await.unwrap_err(), code);
    }
    desk.end(&build, "").await.unwrap();
    for over in [&build, &tool] {
        assert_eq!(desk.exchange(over, "", None).await.unwrap_err(), Code::Unauthenticated);
        assert_eq!(desk.beat(over, "").await.unwrap_err(), Code::Unauthenticated);
    }
    // What was made from it went along, job and all; what it was made from is as good as before.
    assert!(desk.list(&auditor).await.is_empty());
    assert_eq!(desk.end(&planner, &id).await.unwrap_err(), Code::NotFound);
    for (end, is_good) in [(&robot, true), (&planner, true), (&auditor, false)] {
        let (token, id) = desk.exchange(&planner, "again", named("again", 60)).await.unwrap();
        assert_eq!(desk.end(end, &id).await.is_ok(), is_good);
        assert_eq!(desk.exchange(&token, "", None).await.is_err(), is_good);
    }
    // An administrator ends what is left, by what the planner's token is revoked with.
    let mut admin = RevocationServiceClient::new(node.admin().await);
    let things = vec![RevokedThing {
        thing: Some(revoked_thing::Thing::Subtree(TokenName { id: planners, ..Default::default() })),
    }];
    admin.revoke(pb::RevokeRequest { things, ..Default::default() }).await.unwrap();
    assert!(desk.list(&auditor).await.is_empty());

    let mut audit = AuditServiceClient::new(node.admin().await);
    let query = pb::ListAuditRecordsRequest { method: "EndJob".into(), ..Default::default() };
    let records = audit.list_audit_records(query).await.unwrap().into_inner().records;
    let found = records.iter().find(|record| record.objects.contains(&format!("Job/{id}")) && record.code == "OK");
    assert_eq!(found.unwrap().principal.as_ref().unwrap().subject, "robot");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_heard_of_is_over_and_who_is_lives() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let issuer = Issuer::trusted_by(&node).await;
    let mut desk = Desk::of(&node).await;
    let robot = issuer.token("robot", &[], 900);
    let (silent, _) = desk.exchange(&robot, "", named("silent", 5)).await.unwrap();
    let (lively, id) = desk.exchange(&robot, "", named("lively", 5)).await.unwrap();
    let began = Instant::now();
    let auditor = issuer.token("ada", &["auditors"], 900);
    let (mut revisions, mut beats) = (std::collections::BTreeSet::new(), 0);
    eventually("the end of the silent job", async || {
        beats += 1;
        revisions.insert(desk.beat(&lively, &id).await.unwrap().revision);
        (desk.list(&auditor).await == ["lively"]).then_some(())
    })
    .await;
    // Never within its heartbeat, and then soon.
    let took = began.elapsed();
    assert!(took > Duration::from_secs(5), "{took:?}");
    assert_eq!(desk.exchange(&silent, "", None).await.unwrap_err(), Code::Unauthenticated);
    assert!(desk.exchange(&lively, "", None).await.is_ok());
    // What is heard all the time is written down twice in a heartbeat.
    let most = usize::try_from(took.as_millis() / 2_500).unwrap() + 2;
    assert!(revisions.len() <= most && beats > revisions.len(), "{} of {beats} in {took:?}", revisions.len());

    let mut audit = AuditServiceClient::new(node.admin().await);
    let query = pb::ListAuditRecordsRequest { method: "EndJob".into(), ..Default::default() };
    let records = audit.list_audit_records(query).await.unwrap().into_inner().records;
    assert_eq!((records.len(), &*records[0].certificate, &*records[0].code), (1, "control-1.control", "OK"));
    let mut revocations = RevocationServiceClient::new(node.admin().await);
    let listed = revocations.list_revocations(pb::ListRevocationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.revocations[0].because, "job silent was not heard of in time");
    node.end().await;
}

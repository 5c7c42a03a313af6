//! `postern access`.

use std::time::Duration;

use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1::{
    EndAccessRequest, GetAccessRequest, ListAccessRequest, RequestAccessRequest, ReviewAccessRequest,
    WatchAccessRequest,
};
use postern_proto::resource::v1 as pb;
use postern_runtime::clock;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Code;

use super::{principal, when};
use crate::access_args::{AccessCommand, RequestArgs};
use crate::approval_args::ReviewArgs;
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, FIRST_RETRY, GIVE_UP, again_and_again, connect, every_page, passes, refused};
use crate::failure::Failure;
use crate::output::{self, printable};

/// What `--wait` ends with.
const DENIED: u8 = 3;
const UNANSWERED: u8 = 4;
const OVER: u8 = 5;

pub(crate) async fn run(command: &AccessCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        AccessCommand::Request(args) => request(args, connection).await,
        AccessCommand::List { mine, pending, all, target, output } => {
            let request = ListAccessRequest {
                all: *all,
                mine: *mine,
                pending: *pending,
                target: target.clone(),
                ..Default::default()
            };
            list(&connect(connection).await?, request, output.format).await
        }
        AccessCommand::Show { id, wait, output } => {
            let access = match wait.wait {
                Some(most) => wait_for(id, most, connection).await?,
                None => {
                    let request = GetAccessRequest { id: id.clone() };
                    let client = connect(connection).await?;
                    client.access().get_access(request).await.map_err(refused)?.into_inner().access.unwrap_or_default()
                }
            };
            show(&access, output.format)?;
            if wait.wait.is_some() { verdict(&access) } else { Ok(()) }
        }
        AccessCommand::Approve(args) => review(args, pb::Verdict::Approve, connection).await,
        AccessCommand::Deny(args) => review(args, pb::Verdict::Deny, connection).await,
        AccessCommand::End { id, because } => {
            let request = EndAccessRequest { id: id.clone(), because: because.clone() };
            let client = connect(connection).await?;
            let access = client.access().end_access(request).await.map_err(refused)?.into_inner().access;
            told(&access.unwrap_or_default())
        }
    }
}

/// Prints the id as soon as there is one: whoever waits can be told of it, and a script that is interrupted has it.
async fn request(args: &RequestArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let request = RequestAccessRequest {
        // The same for every try: it is one request, whatever becomes of the answer.
        id: clock::access_id().to_string(),
        target: args.target.to_string(),
        policy: args.policy.as_ref().map(ToString::to_string).unwrap_or_default(),
        reason: args.reason.clone(),
        duration_seconds: args.duration.map_or(0, |asked| u32::try_from(asked.as_secs()).unwrap_or(u32::MAX)),
    };
    let mut access = again_and_again(connection, GIVE_UP, async |client: Client| {
        client.access().request_access(request.clone()).await.map(|answer| answer.into_inner().access)
    })
    .await?
    .unwrap_or_default();
    let format = args.output.format.unwrap_or_default();
    if format == Format::Table {
        output::line(&access.id)?;
        if access.state() == pb::AccessState::Pending {
            output::note(format!("waits for {}, until {}", wanted(&access), when(access.expires_at.as_ref())));
        }
    }
    if let Some(most) = args.wait.wait {
        access = wait_for(&access.id, most, connection).await?;
    }
    if format != Format::Table {
        show(&access, Some(format))?;
    }
    if args.wait.wait.is_some() || access.state() != pb::AccessState::Pending { verdict(&access) } else { Ok(()) }
}

/// The request once it is decided, or as it stands after `most`. Goes on at another member, by a token that is read anew, when a stream ends.
async fn wait_for(id: &str, most: Duration, connection: &ConnectionArgs) -> Result<pb::AccessRequest, Failure> {
    let until = Instant::now() + most;
    let mut last = pb::AccessRequest { id: id.to_owned(), ..Default::default() };
    loop {
        let request = WatchAccessRequest { id: id.to_owned() };
        let mut answers = again_and_again(connection, GIVE_UP, async |client: Client| {
            client.access().watch_access(request.clone()).await.map(tonic::Response::into_inner)
        })
        .await?;
        loop {
            match tokio::time::timeout_at(until, answers.message()).await {
                Err(_) => return Ok(last),
                Ok(Ok(Some(answer))) => {
                    last = answer.access.unwrap_or_default();
                    if last.state() != pb::AccessState::Pending {
                        return Ok(last);
                    }
                }
                // A token that has ended meanwhile may have a successor in its file: whether it has is found out by asking again.
                Ok(Err(status)) if !passes(&status) && status.code() != Code::Unauthenticated => {
                    return Err(refused(status));
                }
                Ok(Ok(None) | Err(_)) => break,
            }
        }
        tokio::time::sleep(FIRST_RETRY).await;
    }
}

/// What came of it, as words and exit code.
fn verdict(access: &pb::AccessRequest) -> Result<(), Failure> {
    let because = |text: &str| if text.is_empty() { String::new() } else { format!(": {}", printable(text)) };
    let (text, code) = match access.state() {
        pb::AccessState::Active => {
            let by = if access.automatic.is_empty() { String::new() } else { format!(" by rule {}", access.automatic) };
            output::note(format!("granted{by}, until {}", when(access.ends_at.as_ref())));
            return Ok(());
        }
        pb::AccessState::Denied => {
            let no = access.reviews.iter().find(|review| review.verdict() == pb::Verdict::Deny);
            let by = no.map(|review| principal(review.reviewer.as_ref())).unwrap_or_default();
            (format!("denied by {by}{}", because(no.map_or("", |review| &review.comment))), DENIED)
        }
        pb::AccessState::Expired => ("nobody answered in time".to_owned(), UNANSWERED),
        pb::AccessState::Pending | pb::AccessState::Unspecified => {
            (format!("nobody has answered yet: wait on with `postern access show {} --wait`", access.id), UNANSWERED)
        }
        pb::AccessState::Withdrawn => {
            (format!("withdrawn by {}{}", access.ended_by, because(&access.ended_because)), OVER)
        }
        pb::AccessState::Ended => (format!("ended by {}{}", access.ended_by, because(&access.ended_because)), OVER),
        pb::AccessState::Over => (format!("over since {}", when(access.ends_at.as_ref())), OVER),
    };
    Err(Failure::Coded(format!("{} was not granted, or is so no more: {text}", access.id), code))
}

async fn list(client: &Client, request: ListAccessRequest, format: Option<Format>) -> Result<(), Failure> {
    let found = every_page(async |page_token| {
        let page = client.access().list_access(ListAccessRequest { page_token, ..request.clone() }).await?.into_inner();
        Ok((page.access, page.next_page_token))
    });
    let found = found.await?;
    let row = |access: &pb::AccessRequest| {
        vec![
            access.id.clone(),
            state(access).to_owned(),
            principal(access.requester.as_ref()),
            access.target.clone(),
            access.policy.clone(),
            duration(access.duration_seconds),
            when(access.ends_at.as_ref().or(access.expires_at.as_ref())),
            super::approvals::shorten(&access.reason, 60),
        ]
    };
    let heading = ["ID", "STATE", "REQUESTER", "TARGET", "POLICY", "FOR", "ENDS", "REASON"];
    output::list(&found, format, value, (&heading, row), "there are no such requests")
}

async fn review(args: &ReviewArgs, verdict: pb::Verdict, connection: &ConnectionArgs) -> Result<(), Failure> {
    let request = ReviewAccessRequest {
        id: args.id.clone(),
        verdict: verdict.into(),
        comment: args.comment.clone(),
        request_id: clock::request_id().to_string(),
    };
    let client = connect(connection).await?;
    let answer = client.access().review_access(request).await.map_err(refused)?.into_inner();
    told(&answer.access.unwrap_or_default())
}

fn told(access: &pb::AccessRequest) -> Result<(), Failure> {
    let more = match access.state() {
        pb::AccessState::Active => format!(" (until {})", when(access.ends_at.as_ref())),
        pb::AccessState::Pending => format!(" ({}; wanted: {})", approved(access), wanted(access)),
        _ => String::new(),
    };
    output::line(format!("{} {}{more}", access.id, state(access)))
}

fn show(access: &pb::AccessRequest, format: Option<Format>) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        Format::Json => output::json(&value(access)),
        Format::Yaml => output::yaml(&[value(access)]),
        Format::Table => output::raw(text(access).as_bytes()),
    }
}

/// All that a reviewer needs to judge it.
fn text(access: &pb::AccessRequest) -> String {
    let mut out = String::new();
    let mut field = |name: &str, text: &str| {
        if !text.is_empty() {
            out.push_str(&format!("{name:<12}{}\n", printable(text).replace('\n', &format!("\n{:12}", ""))));
        }
    };
    field("Access", &access.id);
    field("State", state(access));
    field("Requester", &principal(access.requester.as_ref()));
    field("Groups", &access.requester.as_ref().map(|requester| requester.groups.join(", ")).unwrap_or_default());
    field("Target", &access.target);
    field("Policy", &access.policy);
    field("Reason", &access.reason);
    field("For", &duration(access.duration_seconds));
    field("Requested", &when(access.requested_at.as_ref()));
    field("Expires", &when(access.expires_at.as_ref()));
    field("Reviewers", &wanted(access));
    for review in &access.reviews {
        let comment = if review.comment.is_empty() { String::new() } else { format!(": {}", review.comment) };
        let (said, by) = (super::approvals::verdict(review), principal(review.reviewer.as_ref()));
        field("Review", &format!("{said} by {by} at {}{comment}", when(review.at.as_ref())));
    }
    field("Rule", &access.automatic);
    field("Granted", &when(access.granted_at.as_ref()));
    field("Ends", &when(access.ends_at.as_ref()));
    field("Ended by", &access.ended_by);
    field("Because", &access.ended_because);
    out
}

fn value(access: &pb::AccessRequest) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    let asked = access.review.iter().map(|of| json!({"groups": of.groups, "count": of.count}));
    let reviews = access.reviews.iter().map(|review| {
        json!({
            "reviewer": principal(review.reviewer.as_ref()), "verdict": super::approvals::verdict(review),
            "comment": review.comment, "at": time(review.at.as_ref()),
        })
    });
    json!({
        "id": access.id, "state": state(access), "requester": principal(access.requester.as_ref()),
        "requesterGroups": access.requester.as_ref().map(|requester| requester.groups.clone()).unwrap_or_default(),
        "target": access.target, "policy": access.policy, "reason": access.reason,
        "for": duration(access.duration_seconds), "review": asked.collect::<Vec<_>>(),
        "reviews": reviews.collect::<Vec<_>>(), "requestedAt": time(access.requested_at.as_ref()),
        "expiresAt": time(access.expires_at.as_ref()), "grantedAt": time(access.granted_at.as_ref()),
        "endsAt": time(access.ends_at.as_ref()), "automatic": access.automatic, "endedBy": access.ended_by,
        "endedBecause": access.ended_because, "revision": access.revision,
    })
}

/// `2 of dba or lead, 1 of security`
fn wanted(access: &pb::AccessRequest) -> String {
    let each = access.review.iter().map(|of| format!("{} of {}", of.count, of.groups.join(" or ")));
    each.collect::<Vec<_>>().join(", ")
}

fn approved(access: &pb::AccessRequest) -> String {
    let count = access.reviews.iter().filter(|review| review.verdict() == pb::Verdict::Approve).count();
    format!("approved by {count}")
}

pub(super) fn duration(seconds: u32) -> String {
    crate::manifest::show_duration(seconds.into())
}

fn state(access: &pb::AccessRequest) -> &'static str {
    match access.state() {
        pb::AccessState::Pending => "pending",
        pb::AccessState::Active => "active",
        pb::AccessState::Denied => "denied",
        pb::AccessState::Expired => "expired",
        pb::AccessState::Withdrawn => "withdrawn",
        pb::AccessState::Ended => "ended",
        pb::AccessState::Over => "over",
        pb::AccessState::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reviewer_sees_what_is_asked_for_and_of_whom() {
        let access = pb::AccessRequest {
            id: "acc_x".into(),
            state: pb::AccessState::Pending.into(),
            reason: "fix it\u{1b}[8m".into(),
            duration_seconds: 1_800,
            review: vec![
                pb::Reviewers { groups: vec!["dba".into(), "lead".into()], count: 2 },
                pb::Reviewers { groups: vec!["security".into()], count: 1 },
            ],
            ..Default::default()
        };
        let text = text(&access);
        assert!(text.contains("Reason      fix it\\u{1b}[8m\nFor         30m\n"), "{text}");
        assert!(text.contains("Reviewers   2 of dba or lead, 1 of security\n"), "{text}");
    }

    #[test]
    fn every_end_has_its_code() {
        let code = |state: pb::AccessState| {
            let access = pb::AccessRequest { state: state.into(), ..Default::default() };
            match verdict(&access) {
                Ok(()) => 0,
                Err(Failure::Coded(_, code)) => code,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(code(pb::AccessState::Active), 0);
        assert_eq!([pb::AccessState::Denied].map(code), [3]);
        assert_eq!([pb::AccessState::Expired, pb::AccessState::Pending].map(code), [4, 4]);
        assert_eq!([pb::AccessState::Withdrawn, pb::AccessState::Ended, pb::AccessState::Over].map(code), [5, 5, 5]);
    }
}

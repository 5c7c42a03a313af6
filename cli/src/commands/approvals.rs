//! `postern approvals`.

use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1::{GetApprovalRequest, ListApprovalsRequest, ReviewApprovalRequest};
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::{principal, when};
use crate::approval_args::{ApprovalsCommand, ReviewArgs};
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, connect, every_page, refused};
use crate::failure::Failure;
use crate::output::{self, printable};

pub(crate) async fn run(command: &ApprovalsCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    match command {
        ApprovalsCommand::List { all, output } => list(&client, *all, output.format).await,
        ApprovalsCommand::Show { id, output } => {
            let request = GetApprovalRequest { id: id.clone() };
            let approval = client.approvals().get_approval(request).await.map_err(refused)?.into_inner().approval;
            show(&approval.unwrap_or_default(), output.format)
        }
        ApprovalsCommand::Approve(args) => review(&client, args, pb::Verdict::Approve).await,
        ApprovalsCommand::Deny(args) => review(&client, args, pb::Verdict::Deny).await,
    }
}

async fn list(client: &Client, all: bool, format: Option<Format>) -> Result<(), Failure> {
    let approvals = every_page(async |page_token| {
        let request = ListApprovalsRequest { all, page_token, ..ListApprovalsRequest::default() };
        let page = client.approvals().list_approvals(request).await?.into_inner();
        Ok((page.approvals, page.next_page_token))
    });
    let approvals = approvals.await?;
    let row = |approval: &pb::Approval| {
        vec![
            approval.id.clone(),
            state(approval).to_owned(),
            principal(approval.requester.as_ref()),
            approval.target.clone(),
            progress(approval),
            when(approval.expires_at.as_ref()),
            shorten(&approval.text, 60),
        ]
    };
    let heading = ["ID", "STATE", "REQUESTER", "TARGET", "APPROVED", "EXPIRES", "STATEMENT"];
    output::list(
        &approvals,
        format,
        value,
        (&heading, row),
        if all { "there are no approvals" } else { "no operation waits for approval" },
    )
}

fn show(approval: &pb::Approval, format: Option<Format>) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        Format::Json => output::json(&value(approval)),
        Format::Yaml => output::yaml(&[value(approval)]),
        Format::Table => output::raw(text(approval).as_bytes()),
    }
}

async fn review(client: &Client, args: &ReviewArgs, verdict: pb::Verdict) -> Result<(), Failure> {
    let request = ReviewApprovalRequest {
        id: args.id.clone(),
        verdict: verdict.into(),
        comment: args.comment.clone(),
        request_id: postern_runtime::clock::request_id().to_string(),
    };
    let answer = client.approvals().review_approval(request).await.map_err(refused)?.into_inner();
    let approval = answer.approval.unwrap_or_default();
    output::line(format!("{} {} ({})", approval.id, state(&approval), progress(&approval)))
}

/// All that a reviewer needs to judge it.
fn text(approval: &pb::Approval) -> String {
    let mut out = String::new();
    let mut field = |name: &str, text: &str| {
        if !text.is_empty() {
            out.push_str(&format!("{name:<12}{}\n", printable(text).replace('\n', &format!("\n{:12}", ""))));
        }
    };
    field("Approval", &approval.id);
    field("State", state(approval));
    field("Requester", &principal(approval.requester.as_ref()));
    field("Groups", &approval.requester.as_ref().map(|requester| requester.groups.join(", ")).unwrap_or_default());
    field("Target", &approval.target);
    field("Session", &approval.session);
    field("Requested", &when(approval.requested_at.as_ref()));
    field("Expires", &when(approval.expires_at.as_ref()));
    field("Held by", &approval.policies.join(", "));
    field("Reason", &approval.reason);
    field("Reviewers", &format!("{} of {}", approval.required, approval.reviewer_groups.join(", ")));
    for action in &approval.actions {
        field("Does", action);
    }
    field("Statement", &approval.text);
    for (place, parameter) in approval.parameters.iter().enumerate() {
        field(&format!("  ${}", place.saturating_add(1)), parameter);
    }
    let told = approval.background.clone().unwrap_or_default();
    if told.veiled {
        field("Hidden", "values that masks hide from you are shown as ****");
    }
    field("Estimate", &estimate(told.estimate.as_ref()));
    field("Transaction", &told.transaction_since.as_ref().map(since).unwrap_or_default());
    if let Some(ends) = &told.ends_at {
        let what = if told.ends_by == "idle_session_timeout" { "session" } else { "transaction" };
        field("Ends", &format!("the target ends this {what} at {} ({})", when(Some(ends)), told.ends_by));
    }
    field("Withdrawn", &approval.withdrawn_because);
    for review in &approval.reviews {
        let comment = if review.comment.is_empty() { String::new() } else { format!(": {}", review.comment) };
        let by = principal(review.reviewer.as_ref());
        field("Review", &format!("{} by {by} at {}{comment}", verdict(review), when(review.at.as_ref())));
    }
    if told.earlier > 0 {
        field("Before", &format!("{} operations that are not shown", told.earlier));
    }
    for past in &told.past {
        let outcome = if past.outcome.is_empty() { "goes on" } else { &past.outcome };
        field("Before", &format!("{}  {}  [{outcome}]", when(past.at.as_ref()), past.text));
    }
    out
}

/// The target's guess, in words.
fn estimate(estimate: Option<&pb::RowEstimate>) -> String {
    match estimate {
        None => String::new(),
        Some(estimate) if !estimate.unknown.is_empty() => format!("unknown: {}", estimate.unknown),
        Some(pb::RowEstimate { returned, written, cost, .. }) => {
            let mut parts = Vec::new();
            if *written > 0 {
                parts.push(format!("about {written} rows written"));
            }
            if *returned > 0 || *written == 0 {
                parts.push(format!("about {returned} rows returned"));
            }
            format!("{} (cost {cost})", parts.join(", "))
        }
    }
}

fn since(time: &prost_types::Timestamp) -> String {
    format!("open since {}", when(Some(time)))
}

fn value(approval: &pb::Approval) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    let reviews: Vec<Value> = approval
        .reviews
        .iter()
        .map(|review| {
            json!({
                "reviewer": principal(review.reviewer.as_ref()), "verdict": verdict(review), "comment": review.comment,
                "at": time(review.at.as_ref()),
            })
        })
        .collect();
    let digest: String = approval.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "id": approval.id, "state": state(approval), "requester": principal(approval.requester.as_ref()),
        "requesterGroups": approval.requester.as_ref().map(|requester| requester.groups.clone()).unwrap_or_default(),
        "target": approval.target, "session": approval.session, "operation": approval.operation, "digest": digest,
        "text": approval.text, "parameters": approval.parameters, "actions": approval.actions,
        "policies": approval.policies, "reason": approval.reason, "reviewerGroups": approval.reviewer_groups,
        "required": approval.required, "reviews": reviews, "requestedAt": time(approval.requested_at.as_ref()),
        "expiresAt": time(approval.expires_at.as_ref()), "withdrawnBecause": approval.withdrawn_because,
        "background": approval.background.as_ref().map(background),
        "revision": approval.revision,
    })
}

fn background(told: &pb::ApprovalBackground) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    let estimate = told.estimate.as_ref().map(|estimate| {
        if estimate.unknown.is_empty() {
            json!({ "returned": estimate.returned, "written": estimate.written, "cost": estimate.cost })
        } else {
            json!({ "unknown": estimate.unknown })
        }
    });
    let past = told.past.iter().map(
        |past| json!({ "at": time(past.at.as_ref()), "text": past.text, "outcome": past.outcome, "rows": past.rows }),
    );
    json!({
        "estimate": estimate, "transactionSince": time(told.transaction_since.as_ref()),
        "endsAt": time(told.ends_at.as_ref()), "endsBy": told.ends_by, "past": past.collect::<Vec<_>>(),
        "earlier": told.earlier, "veiled": told.veiled,
    })
}

fn state(approval: &pb::Approval) -> &'static str {
    match approval.state() {
        pb::ApprovalState::Pending => "pending",
        pb::ApprovalState::Approved => "approved",
        pb::ApprovalState::Denied => "denied",
        pb::ApprovalState::Consumed => "consumed",
        pb::ApprovalState::Expired => "expired",
        pb::ApprovalState::Withdrawn => "withdrawn",
        pb::ApprovalState::Unspecified => "unknown",
    }
}

pub(super) fn verdict(review: &pb::Review) -> &'static str {
    match review.verdict() {
        pb::Verdict::Approve => "approved",
        pb::Verdict::Deny => "denied",
        pb::Verdict::Unspecified => "unknown",
    }
}

fn progress(approval: &pb::Approval) -> String {
    let approved = approval.reviews.iter().filter(|review| review.verdict() == pb::Verdict::Approve).count();
    format!("{approved} of {}", approval.required)
}

pub(super) fn shorten(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(most) {
        Some((cut, _)) => format!("{}...", line.get(..cut).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reviewer_sees_the_whole_statement() {
        let approval = pb::Approval {
            id: "apr_x".into(),
            state: pb::ApprovalState::Pending.into(),
            text: "DELETE FROM a\nWHERE id = $1 \u{1b}[8m".into(),
            parameters: vec!["7".into()],
            required: 2,
            reviewer_groups: vec!["dba".into()],
            ..Default::default()
        };
        let text = text(&approval);
        assert!(
            text.contains("Statement   DELETE FROM a\n            WHERE id = $1 \\u{1b}[8m\n  $1        7\n"),
            "{text}"
        );
        assert!(text.contains("Reviewers   2 of dba\n"), "{text}");
        assert_eq!(shorten("a  b\nc", 3), "a b...");
    }
}

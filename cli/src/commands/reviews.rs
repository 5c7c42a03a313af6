//! `postern review`: what is reviewed after the fact.

use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1::{CloseReviewRequest, GetReviewRequest, ListReviewsRequest, ReviewSelection};
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::approvals::shorten;
use super::{principal, when};
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, connect, every_page, refused};
use crate::failure::Failure;
use crate::output::{self, printable};
use crate::review_args::{CloseArgs, FindingArg, ReviewCommand};

pub(crate) async fn run(command: &ReviewCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    match command {
        ReviewCommand::List { open: _, overdue, all, target, principal, session, output } => {
            let selection = match (overdue, all) {
                (true, _) => ReviewSelection::Overdue,
                (_, true) => ReviewSelection::All,
                _ => ReviewSelection::Open,
            };
            let request = ListReviewsRequest {
                selection: selection.into(),
                target: target.clone(),
                principal: principal.clone(),
                session: session.clone(),
                ..ListReviewsRequest::default()
            };
            list(&client, &request, output.format).await
        }
        ReviewCommand::Show { id, output } => {
            let request = GetReviewRequest { id: id.clone() };
            let item = client.reviews().get_review(request).await.map_err(refused)?.into_inner().review;
            show(&item.unwrap_or_default(), output.format)
        }
        ReviewCommand::Close(args) => close(&client, args).await,
    }
}

async fn list(client: &Client, request: &ListReviewsRequest, format: Option<Format>) -> Result<(), Failure> {
    let items = every_page(async |page_token| {
        let request = ListReviewsRequest { page_token, ..request.clone() };
        let page = client.reviews().list_reviews(request).await?.into_inner();
        Ok((page.reviews, page.next_page_token))
    });
    let items = items.await?;
    let row = |item: &pb::ReviewItem| {
        vec![
            item.id.clone(),
            state(item).to_owned(),
            principal(item.principal.as_ref()),
            item.target.clone(),
            item.policies.join(","),
            when(item.opened_at.as_ref()),
            when(item.due_at.as_ref()),
            shorten(&item.text, 60),
        ]
    };
    let heading = ["ID", "STATE", "PRINCIPAL", "TARGET", "POLICIES", "OPENED", "DUE", "FIRST STATEMENT"];
    let none = match request.selection() {
        ReviewSelection::All => "there are no reviews",
        ReviewSelection::Overdue => "no review is overdue",
        _ => "no review is open",
    };
    output::list(&items, format, value, (&heading, row), none)
}

fn show(item: &pb::ReviewItem, format: Option<Format>) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        Format::Json => output::json(&value(item)),
        Format::Yaml => output::yaml(&[value(item)]),
        Format::Table => output::raw(text(item).as_bytes()),
    }
}

async fn close(client: &Client, args: &CloseArgs) -> Result<(), Failure> {
    let finding = match args.verdict {
        FindingArg::Ok => pb::Finding::Ok,
        FindingArg::Concern => pb::Finding::Concern,
    };
    let request = CloseReviewRequest {
        id: args.id.clone(),
        finding: finding.into(),
        comment: args.comment.clone(),
        request_id: postern_runtime::clock::request_id().to_string(),
    };
    let answer = client.reviews().close_review(request).await.map_err(refused)?.into_inner();
    let item = answer.review.unwrap_or_default();
    output::line(format!("{} closed ({})", item.id, item.closed.as_ref().map_or("", verdict)))
}

/// All that a reviewer needs to find their way: the rest is in the recording.
fn text(item: &pb::ReviewItem) -> String {
    let mut out = String::new();
    let mut field = |name: &str, text: &str| {
        if !text.is_empty() {
            out.push_str(&format!("{name:<12}{}\n", printable(text).replace('\n', &format!("\n{:12}", ""))));
        }
    };
    field("Review", &item.id);
    field("State", state(item));
    field("Principal", &principal(item.principal.as_ref()));
    field("Groups", &item.principal.as_ref().map(|principal| principal.groups.join(", ")).unwrap_or_default());
    field("Target", &item.target);
    field("Gateway", &item.gateway);
    let goes_on = if item.session_over { "" } else { " (goes on: it can be closed when it has ended)" };
    field("Session", &format!("{}{goes_on}", item.session));
    field("Opened", &when(item.opened_at.as_ref()));
    field("Due", &when(item.due_at.as_ref()));
    field("Asked by", &format!("{} (revision {})", item.policies.join(", "), item.policy_revision));
    field("Reason", &item.reason);
    field("Reviewers", &item.reviewer_groups.join(", "));
    for action in &item.actions {
        field("Does", action);
    }
    field("Statement", &format!("{}{}", item.text, if item.text_cut { "\n..." } else { "" }));
    for (place, parameter) in item.parameters.iter().enumerate() {
        field(&format!("  ${}", place.saturating_add(1)), parameter);
    }
    if item.veiled {
        field("Hidden", "values that masks hide from you are shown as ****");
    }
    if let Some(closed) = &item.closed {
        let comment = if closed.comment.is_empty() { String::new() } else { format!(": {}", closed.comment) };
        let by = principal(closed.by.as_ref());
        field("Closed", &format!("{} by {by} at {}{comment}", verdict(closed), when(closed.at.as_ref())));
    }
    field("All of it", &format!("postern sessions replay {}", item.session));
    out
}

fn value(item: &pb::ReviewItem) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    let digest: String = item.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "id": item.id, "state": state(item), "principal": principal(item.principal.as_ref()),
        "principalGroups": item.principal.as_ref().map(|principal| principal.groups.clone()).unwrap_or_default(),
        "target": item.target, "gateway": item.gateway, "session": item.session, "sessionOver": item.session_over,
        "operation": item.operation, "digest": digest, "text": item.text, "textCut": item.text_cut,
        "parameters": item.parameters, "actions": item.actions, "policies": item.policies,
        "policyRevision": item.policy_revision, "reason": item.reason, "reviewerGroups": item.reviewer_groups,
        "openedAt": time(item.opened_at.as_ref()), "dueAt": time(item.due_at.as_ref()), "overdue": item.overdue,
        "closed": item.closed.as_ref().map(|closed| json!({
            "by": principal(closed.by.as_ref()), "verdict": verdict(closed), "comment": closed.comment,
            "at": time(closed.at.as_ref()),
        })),
        "veiled": item.veiled, "revision": item.revision,
    })
}

fn state(item: &pb::ReviewItem) -> &'static str {
    match (&item.closed, item.overdue) {
        (Some(_), _) => "closed",
        (None, true) => "overdue",
        (None, false) => "open",
    }
}

fn verdict(closed: &pb::ReviewClosing) -> &'static str {
    match closed.finding() {
        pb::Finding::Ok => "ok",
        pb::Finding::Concern => "concern",
        pb::Finding::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reviewer_sees_where_to_look() {
        let mut item = pb::ReviewItem {
            id: "rev_x".into(),
            session: "ses_x".into(),
            text: "DELETE FROM a\nWHERE id = $1 \u{1b}[8m".into(),
            parameters: vec!["7".into()],
            policies: vec!["break-glass".into()],
            policy_revision: 7,
            reviewer_groups: vec!["dba".into(), "security".into()],
            ..Default::default()
        };
        let shown = text(&item);
        assert!(
            shown.contains("Statement   DELETE FROM a\n            WHERE id = $1 \\u{1b}[8m\n  $1        7\n"),
            "{shown}"
        );
        assert!(shown.contains("Asked by    break-glass (revision 7)\n") && shown.contains("goes on"), "{shown}");
        assert!(shown.contains("postern sessions replay ses_x\n"), "{shown}");
        assert_eq!(value(&item)["state"], "open");
        item.overdue = true;
        assert_eq!(value(&item)["state"], "overdue");
        let finding = pb::Finding::Concern.into();
        item.closed = Some(pb::ReviewClosing { finding, comment: "why".into(), ..Default::default() });
        assert_eq!(
            (value(&item)["state"].as_str(), value(&item)["closed"]["verdict"].as_str()),
            (Some("closed"), Some("concern"))
        );
        assert!(text(&item).contains("Closed      concern by"));
    }
}

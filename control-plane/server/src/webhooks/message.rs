//! What is said to an endpoint.

use postern_core::webhook::{Delivery, WebhookEvent};
use postern_core::wire::timestamp_from_proto;
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::review_message;

/// Bytes of a statement that are told. The rest is for who asks.
pub(super) const TEXT: usize = 16 << 10;
/// In a message for people.
pub(super) const SHOWN: usize = 2_000;

/// What is told of: as anybody may see it. None: it is forgotten.
pub(super) enum About {
    Approval(Option<Box<pb::Approval>>),
    Review(Option<Box<pb::ReviewItem>>),
}

/// Postern's own form, version 1.
pub(super) fn postern(delivery: &Delivery, about: &About, cluster: &str) -> Value {
    let forgotten = || json!({ "id": delivery.of.to_string() });
    let data = match about {
        About::Approval(approval) => json!({ "approval": approval.as_deref().map_or_else(forgotten, of) }),
        About::Review(item) => json!({ "review": item.as_deref().map_or_else(forgotten, review_message::of) }),
    };
    json!({
        "version": 1,
        "id": delivery.id(),
        "type": delivery.event.as_str(),
        "timestamp": delivery.at.to_string(),
        "cluster": cluster,
        "data": data,
    })
}

/// Blocks for Slack.
pub(super) fn slack(delivery: &Delivery, about: &About) -> Value {
    match about {
        About::Approval(approval) => slack_approval(delivery, approval.as_deref()),
        About::Review(item) => review_message::slack(delivery, item.as_deref()),
    }
}

fn of(approval: &pb::Approval) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    let (text, whole) = cut(&approval.text, TEXT);
    let reviews = approval.reviews.iter().map(|review| {
        json!({
            "reviewer": principal(review.reviewer.as_ref()),
            "verdict": if review.verdict() == pb::Verdict::Approve { "approve" } else { "deny" },
            "comment": review.comment,
            "at": time(review.at.as_ref()),
        })
    });
    let told = approval.background.clone().unwrap_or_default();
    let estimate = told.estimate.map(|estimate| {
        if estimate.unknown.is_empty() {
            json!({ "rowsReturned": estimate.returned, "rowsWritten": estimate.written, "cost": estimate.cost })
        } else {
            json!({ "unknown": estimate.unknown })
        }
    });
    json!({
        "id": approval.id,
        "state": state(approval),
        "requester": principal(approval.requester.as_ref()),
        "target": approval.target,
        "session": approval.session,
        "operation": approval.operation,
        "statement": text,
        "statementCut": !whole,
        "parameters": approval.parameters,
        "valuesHidden": told.veiled,
        "actions": approval.actions,
        "policies": approval.policies,
        "reason": approval.reason,
        "reviewerGroups": approval.reviewer_groups,
        "reviewersNeeded": approval.required,
        "reviews": reviews.collect::<Vec<_>>(),
        "requestedAt": time(approval.requested_at.as_ref()),
        "expiresAt": time(approval.expires_at.as_ref()),
        "withdrawnBecause": approval.withdrawn_because,
        "estimate": estimate,
        "targetEndsAt": time(told.ends_at.as_ref()),
    })
}

pub(super) fn principal(principal: Option<&pb::Principal>) -> Value {
    let Some(principal) = principal else { return Value::Null };
    let chain = principal.chain.iter().map(|link| match (&*link.issuer, &*link.subject) {
        ("", subject) => subject.to_owned(),
        (issuer, subject) => format!("{issuer}:{subject}"),
    });
    json!({
        "issuer": principal.issuer,
        "subject": principal.subject,
        "chain": chain.collect::<Vec<_>>(),
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

fn slack_approval(delivery: &Delivery, approval: Option<&pb::Approval>) -> Value {
    let what = match delivery.event {
        WebhookEvent::Approved => "Approved",
        WebhookEvent::Denied => "Denied",
        WebhookEvent::Expired => "Expired",
        WebhookEvent::Withdrawn => "Withdrawn",
        WebhookEvent::Consumed => "Taken for execution",
        _ => "Review wanted",
    };
    let Some(approval) = approval else {
        let text = format!("{what}: {}", delivery.of);
        return json!({ "text": text, "blocks": [section(text.clone())] });
    };
    let who = approval.requester.as_ref().map(|who| format!("{}:{}", who.issuer, who.subject)).unwrap_or_default();
    let title = format!("{what}: {} on {}", escaped(&who), escaped(&approval.target));
    let mut facts = Vec::new();
    match approval.background.as_ref().and_then(|told| told.estimate.as_ref()) {
        Some(estimate) if !estimate.unknown.is_empty() => facts.push("estimate unknown".to_owned()),
        Some(estimate) if estimate.written > 0 => facts.push(format!("about {} rows written", estimate.written)),
        Some(estimate) => facts.push(format!("about {} rows returned", estimate.returned)),
        None => {}
    }
    for review in &approval.reviews {
        let by = review.reviewer.as_ref().map(|by| by.subject.clone()).unwrap_or_default();
        let said = if review.verdict() == pb::Verdict::Approve { "approved" } else { "denied" };
        let comment = if review.comment.is_empty() { String::new() } else { format!(": {}", review.comment) };
        facts.push(escaped(cut(&format!("{said} by {by}{comment}"), 300).0));
    }
    if !approval.withdrawn_because.is_empty() {
        facts.push(escaped(cut(&approval.withdrawn_because, 300).0));
    }
    if let Some(at) = approval.expires_at.as_ref().filter(|_| delivery.event == WebhookEvent::Requested) {
        facts.push(format!("until {}", timestamp_from_proto(at)));
        let groups = approval.reviewer_groups.join(", ");
        facts.push(escaped(cut(&format!("{} of {groups}", approval.required), 300).0));
        facts.push(format!("`postern approvals show {}`", approval.id));
    }
    json!({ "text": title, "blocks": blocks(&title, &approval.reason, (&approval.text, false), &facts, SHOWN) })
}

pub(super) fn section(text: String) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } })
}

/// A title, why, the statement, whose end may be missing already, and a line of facts, each of `most` bytes.
pub(super) fn blocks(
    title: &str,
    reason: &str,
    (text, ends): (&str, bool),
    facts: &[String],
    most: usize,
) -> Vec<Value> {
    let mut blocks = vec![section(format!("*{title}*"))];
    if !reason.is_empty() {
        blocks.push(section(escaped(cut(reason, most).0)));
    }
    let (text, whole) = cut(text, most);
    let more = if whole && !ends { "" } else { "\n..." };
    blocks.push(section(format!("```{}{more}```", escaped(&text.replace("```", "` ` `")))));
    if !facts.is_empty() {
        let text = cut(&facts.join("  |  "), most).0.to_owned();
        blocks.push(json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": text }] }));
    }
    blocks
}

/// Nothing in it is a link, a mention or markup's beginning.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The beginning of a text, and whether it is all of it.
pub(super) fn cut(text: &str, most: usize) -> (&str, bool) {
    let end = text.floor_char_boundary(most);
    (text.get(..end).unwrap_or_default(), end == text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::webhook::Subject;
    use postern_core::{ApprovalId, Timestamp};

    fn delivery(event: WebhookEvent) -> Delivery {
        Delivery {
            webhook: "ops".parse().unwrap(),
            sequence: 1,
            event,
            of: Subject::Approval(ApprovalId::from_bytes([1; 16])),
            at: Timestamp::from_millis(1_000),
        }
    }

    fn approval(text: &str) -> About {
        About::Approval(Some(Box::new(pb::Approval {
            id: "apr_x".into(),
            state: pb::ApprovalState::Pending.into(),
            requester: Some(pb::Principal { issuer: "ci".into(), subject: "<!channel>".into(), ..Default::default() }),
            target: "shop".into(),
            text: text.into(),
            expires_at: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            reviewer_groups: vec!["dba".into()],
            required: 1,
            ..Default::default()
        })))
    }

    #[test]
    fn says_what_happened() {
        let said = postern(&delivery(WebhookEvent::Requested), &approval("DELETE FROM t"), "c1");
        assert_eq!((said["version"].as_u64(), said["type"].as_str()), (Some(1), Some("approval.requested")));
        assert_eq!(said["data"]["approval"]["statement"], "DELETE FROM t");
        assert_eq!(said["id"].as_str().unwrap(), format!("{}.approval.requested", ApprovalId::from_bytes([1; 16])));
        let long = postern(&delivery(WebhookEvent::Denied), &approval(&"ä".repeat(TEXT)), "c1");
        assert_eq!(long["data"]["approval"]["statementCut"], true);
        assert!(long.to_string().len() < 2 * TEXT);
        assert!(postern(&delivery(WebhookEvent::Expired), &About::Approval(None), "c1").to_string().contains("apr_"));
    }

    #[test]
    fn nothing_breaks_out_of_slacks_markup() {
        let said = slack(&delivery(WebhookEvent::Requested), &approval("SELECT '```<!here> & <http://x|y>'"));
        let text = said.to_string();
        assert!(!text.contains("<!") && !text.contains("<http"), "{text}");
        assert!(text.contains("&lt;!channel&gt;") && text.contains("postern approvals show apr_x"), "{text}");
        let code = said["blocks"][1]["text"]["text"].as_str().unwrap();
        assert_eq!(code.matches("```").count(), 2, "{code}");
        assert!(
            slack(&delivery(WebhookEvent::Expired), &About::Approval(None))["text"]
                .as_str()
                .unwrap()
                .contains("Expired")
        );
    }
}

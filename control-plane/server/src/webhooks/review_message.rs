//! What an endpoint is told of reviews after the fact.

use postern_core::webhook::{Delivery, WebhookEvent};
use postern_core::wire::timestamp_from_proto;
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::message::{SHOWN, TEXT, blocks, cut, escaped, principal, section};

/// Part of Postern's own form.
pub(super) fn of(item: &pb::ReviewItem) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    let (text, whole) = cut(&item.text, TEXT);
    json!({
        "id": item.id,
        "state": state(item),
        "principal": principal(item.principal.as_ref()),
        "target": item.target,
        "session": item.session,
        "gateway": item.gateway,
        "operation": item.operation,
        "statement": text,
        "statementCut": item.text_cut || !whole,
        "parameters": item.parameters,
        "valuesHidden": item.veiled,
        "actions": item.actions,
        "policies": item.policies,
        "policyRevision": item.policy_revision,
        "reason": item.reason,
        "reviewerGroups": item.reviewer_groups,
        "openedAt": time(item.opened_at.as_ref()),
        "dueAt": time(item.due_at.as_ref()),
        "overdue": item.overdue,
        "sessionOver": item.session_over,
        "closed": item.closed.as_ref().map(|closed| json!({
            "by": principal(closed.by.as_ref()),
            "finding": finding(closed),
            "comment": closed.comment,
            "at": time(closed.at.as_ref()),
        })),
    })
}

fn state(item: &pb::ReviewItem) -> &'static str {
    if item.closed.is_some() { "closed" } else { "open" }
}

fn finding(closed: &pb::ReviewClosing) -> &'static str {
    match closed.finding() {
        pb::Finding::Ok => "ok",
        pb::Finding::Concern => "concern",
        pb::Finding::Unspecified => "unknown",
    }
}

/// Blocks for Slack.
pub(super) fn slack(delivery: &Delivery, item: Option<&pb::ReviewItem>) -> Value {
    let what = match (delivery.event, item.and_then(|item| item.closed.as_ref())) {
        (WebhookEvent::ReviewOverdue, _) => "Review overdue",
        (WebhookEvent::ReviewClosed, Some(closed)) if closed.finding() == pb::Finding::Concern => {
            "Reviewed, with a concern"
        }
        (WebhookEvent::ReviewClosed, _) => "Reviewed",
        _ => "To be reviewed afterwards",
    };
    let Some(item) = item else {
        let text = format!("{what}: {}", delivery.of);
        return json!({ "text": text, "blocks": [section(text.clone())] });
    };
    let who = item.principal.as_ref().map(|who| format!("{}:{}", who.issuer, who.subject)).unwrap_or_default();
    let title = format!("{what}: {} on {}", escaped(&who), escaped(&item.target));
    let mut facts = vec![format!("session {}", escaped(&item.session))];
    facts.push(escaped(cut(&format!("by {}", item.policies.join(", ")), 300).0));
    if let Some(closed) = &item.closed {
        let by = closed.by.as_ref().map(|by| by.subject.clone()).unwrap_or_default();
        let comment = if closed.comment.is_empty() { String::new() } else { format!(": {}", closed.comment) };
        facts.push(escaped(cut(&format!("{} by {by}{comment}", finding(closed)), 300).0));
    } else {
        if let Some(at) = &item.due_at {
            facts.push(format!("due {}", timestamp_from_proto(at)));
        }
        facts.push(escaped(cut(&item.reviewer_groups.join(", "), 300).0));
        facts.push(format!("`postern review show {}`", item.id));
    }
    let text = (item.text.as_str(), item.text_cut);
    json!({ "text": title, "blocks": blocks(&title, &item.reason, text, &facts, SHOWN) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::webhook::Subject;
    use postern_core::{ReviewId, Timestamp};

    fn item(text: &str) -> pb::ReviewItem {
        pb::ReviewItem {
            id: "rev_x".into(),
            principal: Some(pb::Principal {
                issuer: "corp".into(),
                subject: "<!channel>".into(),
                ..Default::default()
            }),
            target: "shop".into(),
            session: "ses_x".into(),
            text: text.into(),
            policies: vec!["break-glass".into()],
            reviewer_groups: vec!["dba".into()],
            due_at: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            ..Default::default()
        }
    }

    fn delivery(event: WebhookEvent) -> Delivery {
        let of = Subject::Review(ReviewId::from_bytes([1; 16]));
        Delivery { webhook: "ops".parse().unwrap(), sequence: 1, event, of, at: Timestamp::from_millis(1_000) }
    }

    #[test]
    fn says_who_did_what_and_what_was_found() {
        let mut done = item("DROP TABLE '```<http://x|y>'");
        let said = of(&done);
        assert_eq!((said["state"].as_str(), said["dueAt"].as_str()), (Some("open"), Some("1970-01-01T00:01:00.000Z")));
        let text = slack(&delivery(WebhookEvent::ReviewRequested), Some(&done)).to_string();
        assert!(
            !text.contains("<!") && !text.contains("<http") && text.contains("postern review show rev_x"),
            "{text}"
        );
        assert!(slack(&delivery(WebhookEvent::ReviewOverdue), Some(&done)).to_string().contains("Review overdue"));
        let by = Some(pb::Principal { subject: "rita".into(), ..Default::default() });
        let finding = pb::Finding::Concern.into();
        done.closed = Some(pb::ReviewClosing { by, finding, comment: "<why>".into(), at: None });
        assert_eq!(of(&done)["closed"]["finding"], "concern");
        let text = slack(&delivery(WebhookEvent::ReviewClosed), Some(&done)).to_string();
        assert!(text.contains("with a concern") && text.contains("concern by rita: &lt;why&gt;"), "{text}");
        assert!(slack(&delivery(WebhookEvent::ReviewClosed), None).to_string().contains("rev_"));
    }
}

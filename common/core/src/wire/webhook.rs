//! Webhooks.

use postern_proto::resource::v1 as pb;
use postern_proto::state::v1 as state_pb;

use super::faults::Faults;
use super::{WireError, parse, selector, timestamp_from_proto, timestamp_to_proto};
use crate::target::TargetSelector;
use crate::time::Timestamp;
use crate::webhook::{Delivery, Subject, Webhook, WebhookEvent, WebhookFormat, WebhookStatus, may_send_to};

/// Longest URL.
const MAX_URL: usize = 2_048;

pub(super) fn read(spec: pb::WebhookSpec, faults: &mut Faults) -> Webhook {
    if let Err(why) = check_url(&spec.url) {
        faults.add("spec.url", why);
    }
    faults.bound("spec.url", spec.url.len(), MAX_URL);
    faults.bound("spec.events", spec.events.len(), WebhookEvent::ALL.len());
    let mut events = Vec::new();
    for (place, text) in spec.events.iter().enumerate() {
        match WebhookEvent::parse(text) {
            Some(event) if !events.contains(&event) => events.push(event),
            Some(_) => faults.add(format!("spec.events[{place}]"), "stands here twice"),
            None => {
                let known = WebhookEvent::ALL.map(WebhookEvent::as_str).join(", ");
                faults.add(format!("spec.events[{place}]"), format!("is none of {known}"));
            }
        }
    }
    let format = match pb::WebhookFormat::try_from(spec.format) {
        Ok(pb::WebhookFormat::Unspecified | pb::WebhookFormat::Postern) => WebhookFormat::Postern,
        Ok(pb::WebhookFormat::Slack) => WebhookFormat::Slack,
        Err(_) => {
            faults.add("spec.format", "must be \"postern\" or \"slack\"");
            WebhookFormat::Postern
        }
    };
    let secret = match spec.secret.as_str() {
        "" => None,
        text => match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                faults.add("spec.secret", format!("{error}"));
                None
            }
        },
    };
    if secret.is_none() && format == WebhookFormat::Postern {
        faults.add("spec.secret", "is needed: without a signature nobody can tell whose message it is");
    }
    faults.bound("spec.ca", spec.ca_pem.len(), 64 << 10);
    let targets = match spec.targets {
        Some(targets) => selector::targets(Some(targets), faults),
        None => TargetSelector::default(),
    };
    Webhook {
        url: spec.url,
        events,
        targets,
        format,
        secret,
        ca_pem: Some(spec.ca_pem).filter(|pem| !pem.is_empty()),
        disabled: spec.disabled,
    }
}

/// That a URL may be sent to, as far as it says itself.
///
/// # Errors
/// Why not.
fn check_url(url: &str) -> Result<(), &'static str> {
    const FORM: &str = "must be https://HOST[:PORT]/PATH, or http://localhost, without user or fragment";
    let (plain, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err(FORM),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty()
        || authority.contains('@')
        || url.contains('#')
        || url.bytes().any(|byte| byte <= b' ' || byte >= 0x7f)
    {
        return Err(FORM);
    }
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let address: Option<std::net::IpAddr> = host.parse().ok();
    let here = host == "localhost" || address.is_some_and(|address| address.to_canonical().is_loopback());
    if plain && !here {
        return Err("plain http is for this machine only: use https");
    }
    if address.is_some_and(|address| !may_send_to(address, false)) {
        return Err("link-local and metadata addresses are not sent to");
    }
    Ok(())
}

pub(super) fn to_proto(webhook: &Webhook) -> pb::WebhookSpec {
    let format = match webhook.format {
        WebhookFormat::Postern => pb::WebhookFormat::Postern,
        WebhookFormat::Slack => pb::WebhookFormat::Slack,
    };
    let every = webhook.targets.names.is_empty() && webhook.targets.labels.is_empty();
    pb::WebhookSpec {
        url: webhook.url.clone(),
        events: webhook.events.iter().map(ToString::to_string).collect(),
        targets: (!every).then(|| selector::targets_to_proto(&webhook.targets)),
        format: format.into(),
        secret: webhook.secret.as_ref().map(ToString::to_string).unwrap_or_default(),
        ca_pem: webhook.ca_pem.clone().unwrap_or_default(),
        disabled: webhook.disabled,
    }
}

/// To protobuf.
#[must_use]
pub fn delivery_to_proto(delivery: &Delivery) -> state_pb::WebhookDelivery {
    let (approval, review) = match delivery.of {
        Subject::Approval(id) => (id.to_string(), String::new()),
        Subject::Review(id) => (String::new(), id.to_string()),
    };
    state_pb::WebhookDelivery {
        webhook: delivery.webhook.to_string(),
        sequence: delivery.sequence,
        event: delivery.event.to_string(),
        approval,
        at_ms: delivery.at.millis(),
        review,
    }
}

/// From protobuf.
///
/// # Errors
/// When a name, an id or the event is none.
pub fn delivery_from_proto(delivery: state_pb::WebhookDelivery) -> Result<Delivery, WireError> {
    let event = WebhookEvent::parse(&delivery.event);
    Ok(Delivery {
        webhook: parse("delivery.webhook", &delivery.webhook)?,
        sequence: delivery.sequence,
        event: event.ok_or_else(|| WireError::new("delivery.event", "is unknown"))?,
        of: match delivery.review.as_str() {
            "" => Subject::Approval(parse("delivery.approval", &delivery.approval)?),
            review => Subject::Review(parse("delivery.review", review)?),
        },
        at: Timestamp::from_millis(delivery.at_ms),
    })
}

/// To protobuf. What waits is not part of it.
#[must_use]
pub fn status_to_proto(name: &str, status: &WebhookStatus) -> pb::WebhookStatus {
    pb::WebhookStatus {
        name: name.to_owned(),
        waiting: 0,
        delivered: status.delivered,
        dropped: status.dropped,
        delivered_at: status.delivered_at.map(timestamp_to_proto),
        failure: status.failure.clone(),
        failed_at: status.failed_at.map(timestamp_to_proto),
    }
}

/// From protobuf.
#[must_use]
pub fn status_from_proto(status: pb::WebhookStatus) -> WebhookStatus {
    WebhookStatus {
        delivered: status.delivered,
        dropped: status.dropped,
        delivered_at: status.delivered_at.as_ref().map(timestamp_from_proto),
        failure: status.failure,
        failed_at: status.failed_at.as_ref().map(timestamp_from_proto),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_may_be_sent_to() {
        for good in [
            "https://hooks.example/x?y=1",
            "https://10.0.0.7:8443/",
            "http://localhost:8080/x",
            "http://127.0.0.1/",
            "http://[::1]:9/x",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ftp://x/",
            "http://hooks.example/",
            "https://",
            "https://u:p@hooks.example/",
            "https://x/#f",
            "https://x/ y",
            "https://169.254.169.254/latest",
            "https://[fe80::1]/",
            "https://0.0.0.0/",
            "http://10.0.0.1/",
            "//x",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_webhook_comes_back_as_it_was() {
        let webhook = Webhook {
            url: "https://hooks.example/x".into(),
            events: vec![WebhookEvent::Requested, WebhookEvent::Denied],
            targets: crate::target::TargetSelector { names: vec!["db".into()], ..Default::default() },
            format: WebhookFormat::Slack,
            secret: Some("key".parse().unwrap()),
            ca_pem: None,
            disabled: true,
        };
        let mut faults = Faults::default();
        assert_eq!(read(to_proto(&webhook), &mut faults), webhook);
        assert_eq!(faults.count(), 0);
        read(
            pb::WebhookSpec { url: "https://x/".into(), events: vec!["no".into()], ..Default::default() },
            &mut faults,
        );
        assert_eq!(faults.count(), 2, "no such event, and no secret");
    }
}

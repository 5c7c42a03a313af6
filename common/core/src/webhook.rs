//! Where what becomes of approvals and reviews is told.

use std::fmt;
use std::net::IpAddr;

use crate::approval::ApprovalState;
use crate::id::{ApprovalId, ReviewId};
use crate::name::Name;
use crate::target::TargetSelector;
use crate::time::Timestamp;

/// An HTTP endpoint that is told of approvals and of reviews after the fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where to: https, or http on the same machine.
    pub url: String,
    /// Of what; empty: of everything.
    pub events: Vec<WebhookEvent>,
    /// Of which targets; empty: of all.
    pub targets: TargetSelector,
    /// How.
    pub format: WebhookFormat,
    /// The Secret that signs.
    pub secret: Option<Name>,
    /// The authority that the endpoint's certificate is of, when it is no public one.
    pub ca_pem: Option<String>,
    /// Nothing is sent, and nothing is kept for it.
    pub disabled: bool,
}

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// Postern's own JSON.
    #[default]
    Postern,
    /// A message with blocks, as Slack's incoming webhooks take it.
    Slack,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebhookEvent {
    /// An operation waits for review.
    Requested,
    /// All reviewers that are needed have agreed.
    Approved,
    /// A reviewer said no.
    Denied,
    /// Nobody answered in time, or the grant was not taken in time.
    Expired,
    /// The client went away or cancelled.
    Withdrawn,
    /// The grant was taken: the operation runs, or ran.
    Consumed,
    /// What a session does is to be reviewed afterwards.
    ReviewRequested,
    /// Nobody has closed a review when it was due.
    ReviewOverdue,
    /// A reviewer has closed it.
    ReviewClosed,
}

/// Of what something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A held operation's request.
    Approval(ApprovalId),
    /// A review after the fact.
    Review(ReviewId),
}

/// A message that is to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To which.
    pub webhook: Name,
    /// In this order.
    pub sequence: u64,
    /// What happened.
    pub event: WebhookEvent,
    /// To what.
    pub of: Subject,
    /// When, by the control plane's logical clock.
    pub at: Timestamp,
}

/// How deliveries to a webhook go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookStatus {
    /// Messages that were taken.
    pub delivered: u64,
    /// Messages that were given up: too old, or too many.
    pub dropped: u64,
    /// When one was last taken.
    pub delivered_at: Option<Timestamp>,
    /// Why the last failure was one; empty after a delivery.
    pub failure: String,
    /// When.
    pub failed_at: Option<Timestamp>,
}

impl WebhookEvent {
    /// Every event.
    pub const ALL: [Self; 9] = [
        Self::Requested,
        Self::Approved,
        Self::Denied,
        Self::Expired,
        Self::Withdrawn,
        Self::Consumed,
        Self::ReviewRequested,
        Self::ReviewOverdue,
        Self::ReviewClosed,
    ];

    /// What it is that an approval comes to this state.
    #[must_use]
    pub const fn of(state: ApprovalState) -> Self {
        match state {
            ApprovalState::Pending => Self::Requested,
            ApprovalState::Approved => Self::Approved,
            ApprovalState::Denied => Self::Denied,
            ApprovalState::Consumed => Self::Consumed,
            ApprovalState::Expired => Self::Expired,
            ApprovalState::Withdrawn => Self::Withdrawn,
        }
    }

    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "approval.requested",
            Self::Approved => "approval.approved",
            Self::Denied => "approval.denied",
            Self::Expired => "approval.expired",
            Self::Withdrawn => "approval.withdrawn",
            Self::Consumed => "approval.consumed",
            Self::ReviewRequested => "review.requested",
            Self::ReviewOverdue => "review.overdue",
            Self::ReviewClosed => "review.closed",
        }
    }

    /// From its text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

impl fmt::Display for WebhookEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Delivery {
    /// The same for every try, and every webhook.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}", self.of, self.event)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approval(id) => id.fmt(f),
            Self::Review(id) => id.fmt(f),
        }
    }
}

/// Whether messages may go to this address. `named`: by a name; else by the address itself, or `localhost`. What only the machine or its network
/// itself should reach is refused: there are metadata services, which give credentials away, and what a name leads to is not the administrator's word.
#[must_use]
pub fn may_send_to(address: IpAddr, named: bool) -> bool {
    let address = address.to_canonical();
    let link = match address {
        IpAddr::V4(four) => four.is_link_local() || four.is_broadcast() || four.octets() == [100, 100, 100, 200],
        IpAddr::V6(six) => six.is_unicast_link_local() || six.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    };
    let own = address.is_unspecified() || (named && address.is_loopback());
    !(link || own || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_names() {
        for event in WebhookEvent::ALL {
            assert_eq!(WebhookEvent::parse(event.as_str()), Some(event));
        }
        assert_eq!(WebhookEvent::parse("approval"), None);
    }

    #[test]
    fn metadata_services_are_out_of_reach() {
        for bad in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "100.100.100.200",
            "255.255.255.255",
        ] {
            assert!(!may_send_to(bad.parse().unwrap(), false) && !may_send_to(bad.parse().unwrap(), true), "{bad}");
        }
        for good in ["10.1.2.3", "192.0.2.1", "2001:db8::1"] {
            assert!(may_send_to(good.parse().unwrap(), true), "{good}");
        }
        assert!(may_send_to("127.0.0.1".parse().unwrap(), false) && !may_send_to("127.0.0.1".parse().unwrap(), true));
        assert!(!may_send_to("::1".parse().unwrap(), true));
    }
}

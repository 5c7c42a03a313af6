//! The leader's part: tells webhooks what becomes of approvals, and of reviews after the fact.
//!
//! What is to be told lies in the replicated state until its delivery is written there: a leader that dies in between is followed by one that says it
//! once more, by the same id. Nothing waits for a delivery; each webhook has one round under way at most, and a try that fails is made again later and
//! later. One task owns all of it: rounds are futures that it drives, so who no longer leads drops them.

mod message;
mod review_message;
mod sign;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use postern_core::Name;
use postern_core::approval::Approval;
use postern_core::resource::{Kind, Spec};
use postern_core::review::ReviewItem;
use postern_core::secret::{Sealed, SecretBytes};
use postern_core::webhook::{Delivery, Subject, Webhook, WebhookFormat, may_send_to};
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use postern_runtime::http::{Post, post};
use postern_state::{State, commands};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::message::About;
use crate::api::veil::Veils;
use crate::feed::sealed_of;
use crate::keys::Kek;
use crate::raft::RaftHandle;
use crate::run::PolicyWatch;

/// Between looks while something waits, and while nothing does.
const BUSY: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(5);
/// How long an endpoint may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Messages that one round sends.
const ROUND: usize = 50;
/// Messages of one webhook that are looked at.
const LOOKED_AT: usize = 1_000;
/// Rounds under way.
const ROUNDS: usize = 16;
/// Between tries of one message.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(600);
/// Bytes of why a try failed.
const FAILURE: usize = 300;

/// What rounds share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) raft: RaftHandle,
    pub(crate) kek: Arc<Kek>,
    pub(crate) policy: PolicyWatch,
    pub(crate) cluster: Arc<str>,
}

/// When a message is tried again.
struct Retry {
    backoff: Backoff,
    at: Instant,
}

/// What this leader remembers of a webhook's messages, by sequence.
type Retries = BTreeMap<u64, Retry>;

/// What waits for a webhook.
struct Waiting {
    name: Name,
    webhook: Webhook,
    secret: Option<Sealed>,
    messages: Vec<(Arc<Delivery>, Told)>,
}

/// What a message is about, as it stands now; none: it is forgotten.
enum Told {
    Approval(Option<Arc<Approval>>),
    Review(Option<Arc<ReviewItem>>),
}

/// Tells webhooks, while this node leads.
pub(crate) async fn deliver(parts: Parts, stop: CancellationToken) {
    let (mut status, mut changes) = (parts.raft.status(), parts.raft.changes());
    let mut rounds = FuturesUnordered::new();
    let mut known: BTreeMap<Name, Retries> = BTreeMap::new();
    let mut under_way: BTreeMap<Name, ()> = BTreeMap::new();
    loop {
        let mut wait = IDLE;
        if status.borrow_and_update().leading {
            changes.mark_unchanged();
            // Asked of the group: one that was overthrown delivers nothing.
            match parts.raft.read(waiting).await {
                Ok(all) => {
                    known.retain(|name, _| all.iter().any(|one| one.name == *name));
                    for one in all {
                        wait = BUSY;
                        if under_way.contains_key(&one.name) || rounds.len() >= ROUNDS {
                            continue;
                        }
                        let retries = known.remove(&one.name).unwrap_or_default();
                        under_way.insert(one.name.clone(), ());
                        rounds.push(round(parts.clone(), one, retries));
                    }
                }
                Err(error) => debug!(%error, "webhooks were not looked at"),
            }
        } else {
            rounds.clear();
            known.clear();
            under_way.clear();
        }
        let leading = status.borrow().leading;
        tokio::select! {
            () = stop.cancelled() => return,
            Some((name, retries)) = rounds.next(), if !rounds.is_empty() => {
                under_way.remove(&name);
                known.insert(name, retries);
                // Not at once again: what is left waits for its time.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            () = tokio::time::sleep(wait) => {}
            changed = changes.changed(), if leading => if changed.is_err() { return },
            led = status.changed() => if led.is_err() { return },
        }
    }
}

/// What waits, of webhooks that are there and not disabled.
fn waiting(state: &State) -> Vec<Waiting> {
    let found = state.webhooks_waited_for().filter_map(|name| {
        let Spec::Webhook(webhook) = &state.resource(Kind::Webhook, name)?.spec else { return None };
        if webhook.disabled {
            return None;
        }
        let secret = webhook.secret.as_ref().and_then(|secret| match &state.resource(Kind::Secret, secret)?.spec {
            Spec::Secret(sealed) => Some(sealed.clone()),
            _ => None,
        });
        let messages = state.webhook_waiting(name, LOOKED_AT).into_iter();
        let told = |of| match of {
            Subject::Approval(id) => Told::Approval(state.approval(id).cloned()),
            Subject::Review(id) => Told::Review(state.review(id).cloned()),
        };
        let messages = messages.map(|one| (Arc::clone(&one), told(one.of))).collect();
        Some(Waiting { name: name.clone(), webhook: webhook.clone(), secret, messages })
    });
    found.collect()
}

/// Sends what is due, and writes down what was taken.
async fn round(parts: Parts, waiting: Waiting, mut retries: Retries) -> (Name, Retries) {
    let Waiting { name, webhook, secret, messages } = waiting;
    #[allow(clippy::cast_precision_loss)] // at most a thousand
    metrics::gauge!("postern_control_webhook_waiting", "webhook" => name.to_string()).set(messages.len() as f64);
    retries.retain(|sequence, _| messages.iter().any(|(one, _)| one.sequence == *sequence));
    let now = Instant::now();
    let due = messages.iter().filter(|(one, _)| retries.get(&one.sequence).is_none_or(|retry| retry.at <= now));
    let due: Vec<_> = due.take(ROUND).collect();
    if due.is_empty() {
        return (name, retries);
    }
    let (mut taken, mut failure) = (Vec::new(), String::new());
    let key = key(&parts, &webhook, secret.as_ref()).await;
    let veils = Veils::new(Arc::clone(&parts.policy.borrow()));
    for (delivery, told) in due {
        let sent = match &key {
            Ok(key) => {
                let about = match told {
                    Told::Approval(of) => About::Approval(of.as_ref().map(|of| Box::new(veils.shown_to_anybody(of)))),
                    Told::Review(of) => About::Review(of.as_ref().map(|of| Box::new(veils.review_for_anybody(of)))),
                };
                send(&parts, &webhook, key.as_ref(), delivery, &about).await
            }
            Err(why) => Err((why.clone(), true)),
        };
        let result = if sent.is_ok() { "taken" } else { "failed" };
        metrics::counter!(
            "postern_control_webhook_messages_total", "webhook" => name.to_string(), "result" => result
        )
        .increment(1);
        match sent {
            Ok(()) => {
                retries.remove(&delivery.sequence);
                taken.push(delivery.sequence);
            }
            Err((why, all)) => {
                let retry = retries
                    .entry(delivery.sequence)
                    .or_insert_with(|| Retry { backoff: Backoff::new(FIRST, LONGEST), at: now });
                let delay = retry.backoff.next_delay();
                retry.at = Instant::now() + delay;
                failure = why;
                if all {
                    // The endpoint is away: the others wait as long.
                    let at = retry.at;
                    for (other, _) in &messages {
                        let backoff = || Retry { backoff: Backoff::new(FIRST, LONGEST), at };
                        let other = retries.entry(other.sequence).or_insert_with(backoff);
                        other.at = other.at.max(at);
                    }
                    break;
                }
            }
        }
    }
    if !failure.is_empty() {
        warn!(webhook = %name, failure, "a webhook did not take a message: it is tried again");
    }
    let command = commands::SettleWebhook { webhook: name.clone(), delivered: taken, failure };
    match parts.raft.propose(command, Some(clock::request_id())).await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => debug!(webhook = %name, %refusal, "what a webhook took is not written down"),
        // Told once more, by the same id.
        Err(error) => debug!(webhook = %name, %error, "what a webhook took is not written down"),
    }
    (name, retries)
}

async fn key(parts: &Parts, webhook: &Webhook, sealed: Option<&Sealed>) -> Result<Option<SecretBytes>, String> {
    let Some(secret) = &webhook.secret else { return Ok(None) };
    let sealed = sealed.ok_or_else(|| format!("there is no Secret {secret}"))?;
    parts.kek.open(&sealed_of(secret), sealed).await.map(Some).map_err(|error| {
        debug!(%error, "a webhook's secret does not open");
        format!("Secret {secret} does not open")
    })
}

/// Sends one message. What it failed by, and whether all others would fail by it.
async fn send(
    parts: &Parts,
    webhook: &Webhook,
    key: Option<&SecretBytes>,
    delivery: &Delivery,
    about: &About,
) -> Result<(), (String, bool)> {
    let body = match webhook.format {
        WebhookFormat::Postern => message::postern(delivery, about, &parts.cluster),
        WebhookFormat::Slack => message::slack(delivery, about),
    };
    let body = Bytes::from(body.to_string());
    let (id, seconds) = (delivery.id(), clock::now().millis() / 1_000);
    let mut headers = vec![("webhook-id", id.clone()), ("webhook-timestamp", seconds.to_string())];
    if let Some(key) = key {
        headers.push(("webhook-signature", sign::signature(key, &id, seconds, &body)));
    }
    let request = Post { url: &webhook.url, ca_pem: webhook.ca_pem.as_deref(), headers: &headers, body };
    match post(request, may_send_to, ANSWER).await {
        Ok(200..=299) => Ok(()),
        Ok(status) => Err((format!("it answered {status}"), false)),
        Err(error) => {
            let mut why = error.to_string();
            why.truncate(why.floor_char_boundary(FAILURE));
            Err((why, true))
        }
    }
}

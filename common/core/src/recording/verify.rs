//! Offline verification of a recording's file, with public keys only (I10).

use std::fmt;

use rustls_pki_types::CertificateDer;

use super::chain::{Chain, ChainFault, seal_message};
use super::event::{Event, Gap, Started};
use super::format::{FrameFault, MAGIC, frames};
use crate::certified::{CertificateFault, certified};
use crate::id::SessionId;
use crate::node::{NodeIdentity, NodeRole};
use crate::operation::Digest;
use crate::time::Timestamp;

/// The cluster's certificate authority, as DER: what a verifier must hold.
#[derive(Clone, Copy, Debug)]
pub struct Authority<'a>(pub &'a [u8]);

/// What was found. It verifies only when `faults` is empty.
#[derive(Clone, Debug)]
pub struct Report {
    /// The session that it is of, once readable.
    pub session: Option<SessionId>,
    /// Its opening, once readable.
    pub started: Option<Box<Started>>,
    /// Events that are in the chain.
    pub events: u64,
    /// What the chain ends in.
    pub head: Option<Digest>,
    /// Whether the gateway's seal is there and good.
    pub sealed: bool,
    /// Whether the gateway had died in the middle.
    pub interrupted: bool,
    /// Where operations that were forwarded may be missing, as the gateway itself says: no fault.
    pub gap: Option<Gap>,
    /// Every fault, in order.
    pub faults: Vec<Fault>,
}

/// Something that is not as a whole, untouched recording has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a recording, or of a version that this verifier does not know.
    #[error("not a recording of a known version")]
    Magic,
    /// No event at all, or the first does not open a session.
    #[error("it does not begin with the opening of a session")]
    NoStart,
    /// A frame cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameFault),
    /// The chain is broken.
    #[error(transparent)]
    Chain(#[from] ChainFault),
    /// The last event is no seal: the session is still open, or the end was cut off.
    #[error("it has no seal: its end is missing, or the session is still open")]
    Unsealed,
    /// Something follows the seal.
    #[error("event {0} follows the seal")]
    AfterSeal(u64),
    /// The seal does not speak of this recording.
    #[error("the seal speaks of {says} events, there are {found} before it")]
    SealMismatch {
        /// What the seal says.
        says: u64,
        /// What is there.
        found: u64,
    },
    /// The seal's signature or certificate is not good.
    #[error("the seal is not good: {0}")]
    Seal(String),
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One line a fault, or one line that all is well.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session.map_or_else(|| "unknown session".to_owned(), |session| session.to_string());
        if self.is_good() {
            let head = self.head.map_or_else(String::new, |head| head.to_string());
            let interrupted = if self.interrupted { ", interrupted" } else { "" };
            write!(f, "{session}: verified: {} events, sealed{interrupted}, head {head}", self.events)?;
            return self.gap.map_or(Ok(()), |gap| write!(f, "\n  gap: {gap}"));
        }
        let plural = if self.faults.len() == 1 { "" } else { "s" };
        write!(f, "{session}: NOT verified: {} fault{plural}", self.faults.len())?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Judges `file`, a whole recording. Reports every fault that it can still tell apart after the first.
#[must_use]
pub fn verify(file: &[u8], authority: Authority<'_>) -> Report {
    let mut report = Report {
        session: None,
        started: None,
        events: 0,
        head: None,
        sealed: false,
        interrupted: false,
        gap: None,
        faults: Vec::new(),
    };
    let Some(bytes) = file.strip_prefix(MAGIC) else {
        report.faults.push(Fault::Magic);
        return report;
    };
    let mut chain: Option<Chain> = None;
    for frame in frames(bytes) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(fault) => {
                report.faults.push(fault.into());
                break;
            }
        };
        // The chain begins with the session's id, which only the first event tells.
        if chain.is_none() {
            let Some(started) = opening(frame.body) else {
                report.faults.push(Fault::NoStart);
                return report;
            };
            report.session = Some(started.session);
            chain = Some(Chain::start(started.session));
            report.started = Some(started);
        }
        let Some(running) = &mut chain else { break };
        if report.sealed
            || report.faults.iter().any(|fault| matches!(fault, Fault::Seal(_) | Fault::SealMismatch { .. }))
        {
            report.faults.push(Fault::AfterSeal(running.next_seq()));
        }
        let before = (running.next_seq(), running.head());
        match running.accept(&frame) {
            Ok(entry) => judge(&mut report, entry.at, &entry.event, before, authority),
            Err(fault) => {
                report.faults.push(fault.into());
                // Go on from what the file claims, to find further faults.
                *running = Chain::resume(running.session(), before.0.saturating_add(1), Digest(frame.hash));
            }
        }
    }
    match &chain {
        None if report.faults.is_empty() => report.faults.push(Fault::NoStart),
        None => {}
        Some(chain) => {
            report.events = chain.next_seq();
            report.head = Some(chain.head());
            if !report.sealed
                && !report.faults.iter().any(|fault| matches!(fault, Fault::Seal(_) | Fault::SealMismatch { .. }))
            {
                report.faults.push(Fault::Unsealed);
            }
        }
    }
    report
}

fn opening(body: &[u8]) -> Option<Box<Started>> {
    match serde_json::from_slice::<super::event::Entry>(body).ok()?.event {
        Event::Started(started) => Some(started),
        _ => None,
    }
}

fn judge(report: &mut Report, at: Timestamp, event: &Event, before: (u64, Digest), authority: Authority<'_>) {
    match event {
        Event::Ended { interrupted, gap, .. } => (report.interrupted, report.gap) = (*interrupted, *gap),
        Event::Sealed { events, head, signature, certificate } => {
            if (*events, *head) != before {
                report.faults.push(Fault::SealMismatch { says: *events, found: before.0 });
                return;
            }
            let started = report.started.as_deref();
            match check_seal(started, at, before, signature, certificate, authority) {
                Ok(()) => report.sealed = true,
                Err(why) => report.faults.push(Fault::Seal(why)),
            }
        }
        _ => {}
    }
}

fn check_seal(
    started: Option<&Started>,
    at: Timestamp,
    (events, head): (u64, Digest),
    signature: &str,
    certificate: &str,
    authority: Authority<'_>,
) -> Result<(), String> {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let started = started.ok_or("no opening to seal")?;
    let signature = base64.decode(signature).map_err(|_| "its signature is not base64")?;
    let certificate = base64.decode(certificate).map_err(|_| "its certificate is not base64")?;
    let certificate = CertificateDer::from(certificate);
    let signer =
        certified(&certificate, authority, webpki::KeyUsage::client_auth(), at).map_err(|fault| match fault {
            CertificateFault::Authority(error) => format!("the authority is unreadable: {error}"),
            CertificateFault::Unreadable(error) => format!("its certificate: {error}"),
            CertificateFault::NotCertified(error) => format!("its certificate is not of this cluster: {error}"),
        })?;
    // Only the gateway that the recording names may seal it.
    let is_gateway = |name: &str| {
        NodeIdentity::from_dns_name(name)
            .is_some_and(|node| node.role == NodeRole::Gateway && node.name.as_str() == started.gateway)
    };
    if !signer.valid_dns_names().any(is_gateway) {
        return Err(format!("its certificate is not of gateway {}", started.gateway));
    }
    let message = seal_message(started.session, events, head);
    signer
        .verify_signature(webpki::aws_lc_rs::ED25519, &message, &signature)
        .map_err(|_| "its signature does not match".to_owned())
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;

//! Offline verification of a recording's file, with public keys only (I10).

use std::fmt;

use rustls_pki_types::CertificateDer;

use super::chain::{Chain, ChainFault, seal_message};
use super::event::{Entry, Event, Gap, Started};
use super::format::{FrameFault, MAGIC, RawFrame, frames};
use crate::certified::{CertificateFault, certified};
use crate::id::SessionId;
use crate::node::{NodeIdentity, NodeRole};
use crate::operation::Digest;
use crate::time::Timestamp;
use crate::transparency::{Leaf, LeafKind};

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
    /// Whether a leaf of the log stands for the seal that is not there: its gateway is gone.
    pub orphaned: bool,
    /// What the chain was after so many events, of those places that were asked for and reached.
    pub heads: Vec<(u64, Digest)>,
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
            let end = match (self.orphaned, self.interrupted) {
                (true, _) => "orphaned: its gateway is gone, and the log has so much of it",
                (false, true) => "sealed, interrupted",
                (false, false) => "sealed",
            };
            write!(f, "{session}: verified: {} events, {end}, head {head}", self.events)?;
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
    let mut verifier = Verifier::new(Some(authority));
    for piece in file.chunks(PIECE) {
        verifier.push(piece);
    }
    verifier.finish()
}

/// Of a whole file, at a time.
const PIECE: usize = 1 << 20;

/// Judges a recording whose bytes come piece by piece; holds at most one incomplete frame.
#[derive(Debug)]
pub struct Verifier<'a> {
    authority: Option<Authority<'a>>,
    /// Bytes that are no whole frame yet.
    pending: Vec<u8>,
    /// How many bytes of frames came before `pending`.
    offset: usize,
    chain: Option<Chain>,
    begun: bool,
    /// A seal came, be it good or not.
    ended: bool,
    /// Nothing more can be read.
    lost: bool,
    asked: Asked<'a>,
    places: Vec<u64>,
    report: Report,
}

/// Where the chain of a session is asked for.
struct Asked<'a>(Option<&'a dyn Fn(SessionId) -> Vec<u64>>);

impl fmt::Debug for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asked").field(&self.0.is_some()).finish()
    }
}

impl<'a> Verifier<'a> {
    /// Of a recording of which nothing came yet. Without an authority a seal's signature is not checked, and so the recording is not
    /// [`Report::sealed`].
    #[must_use]
    pub const fn new(authority: Option<Authority<'a>>) -> Self {
        let report = Report {
            session: None,
            started: None,
            events: 0,
            head: None,
            sealed: false,
            interrupted: false,
            gap: None,
            orphaned: false,
            heads: Vec::new(),
            faults: Vec::new(),
        };
        Self {
            authority,
            pending: Vec::new(),
            offset: 0,
            chain: None,
            begun: false,
            ended: false,
            lost: false,
            asked: Asked(None),
            places: Vec::new(),
            report,
        }
    }

    /// The report is to say what the chain of a session was after so many events, each: leaves of the log may speak of them.
    #[must_use]
    pub const fn at(mut self, places: &'a dyn Fn(SessionId) -> Vec<u64>) -> Self {
        self.asked = Asked(Some(places));
        self
    }

    /// What was found so far, without what only its end tells.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Takes more bytes, and passes over the entries.
    pub fn push(&mut self, bytes: &[u8]) {
        let Ok(()) = self.read(bytes, |_| Ok::<(), std::convert::Infallible>(()));
    }

    /// Takes more bytes; hands over each entry that they complete, if it is in the chain, and each fault that they bring.
    ///
    /// # Errors
    /// Those of `take`, which ends the reading.
    pub fn read<E>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Result<Entry, &Fault>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.lost {
            return Ok(());
        }
        self.pending.extend_from_slice(bytes);
        let mut pending = std::mem::take(&mut self.pending);
        if !self.begun {
            if pending.len() < MAGIC.len() && MAGIC.starts_with(&pending) {
                self.pending = pending;
                return Ok(());
            }
            if !pending.starts_with(MAGIC) {
                self.lost = true;
                return take(Err(self.report.fault(Fault::Magic)));
            }
            pending.drain(..MAGIC.len());
            self.begun = true;
        }
        let mut all = frames(&pending);
        let mut went = Ok(());
        while let (false, Some(frame)) = (self.lost || went.is_err(), all.next()) {
            went = match frame {
                Ok(frame) => self.frame(&frame, &mut take),
                Err(FrameFault::Incomplete { .. }) => break,
                Err(fault) => {
                    self.lost = true;
                    take(Err(self.report.fault(fault.after(self.offset).into())))
                }
            };
        }
        let done = all.offset();
        pending.drain(..done);
        self.pending = pending;
        self.offset = self.offset.saturating_add(done);
        went
    }

    fn frame<E>(
        &mut self,
        frame: &RawFrame<'_>,
        take: &mut impl FnMut(Result<Entry, &Fault>) -> Result<(), E>,
    ) -> Result<(), E> {
        let running = match &mut self.chain {
            Some(running) => running,
            // The chain begins with the session's id, which only the first event tells.
            None => {
                let Some(started) = opening(frame.body) else {
                    self.lost = true;
                    return take(Err(self.report.fault(Fault::NoStart)));
                };
                self.report.session = Some(started.session);
                self.places = self.asked.0.map_or_else(Vec::new, |places| places(started.session));
                let chain = Chain::start(started.session);
                self.report.started = Some(started);
                self.chain.insert(chain)
            }
        };
        if self.ended {
            take(Err(self.report.fault(Fault::AfterSeal(running.next_seq()))))?;
        }
        let before = (running.next_seq(), running.head());
        let accepted = running.accept(frame);
        if accepted.is_err() {
            // Go on from what the file claims, to find further faults.
            *running = Chain::resume(running.session(), before.0.saturating_add(1), Digest(frame.hash));
        }
        (self.report.events, self.report.head) = (running.next_seq(), Some(running.head()));
        if self.places.contains(&running.next_seq()) {
            self.report.heads.push((running.next_seq(), running.head()));
        }
        let judged = accepted.map_err(Fault::from).and_then(|entry| self.judge(&entry, before).map(|()| entry));
        match judged {
            Ok(entry) => take(Ok(entry)),
            Err(fault) => take(Err(self.report.fault(fault))),
        }
    }

    fn judge(&mut self, entry: &Entry, before: (u64, Digest)) -> Result<(), Fault> {
        match &entry.event {
            Event::Ended { interrupted, gap, .. } => {
                (self.report.interrupted, self.report.gap) = (*interrupted, *gap);
            }
            Event::Sealed { events, head, signature, certificate } => {
                self.ended = true;
                if (*events, *head) != before {
                    return Err(Fault::SealMismatch { says: *events, found: before.0 });
                }
                if let Some(authority) = self.authority {
                    let started = self.report.started.as_deref();
                    check_seal(started, entry.at, before, signature, certificate, authority).map_err(Fault::Seal)?;
                    self.report.sealed = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What there is to say of it all, now that nothing more comes.
    #[must_use]
    pub fn finish(mut self) -> Report {
        if !self.lost {
            if !self.begun {
                self.report.fault(Fault::Magic);
                return self.report;
            }
            if !self.pending.is_empty() {
                self.report.fault(FrameFault::Incomplete { offset: self.offset }.into());
            }
            if self.chain.is_none() && self.report.is_good() {
                self.report.fault(Fault::NoStart);
            }
        }
        if self.chain.is_some() && !self.ended {
            self.report.fault(Fault::Unsealed);
        }
        self.report
    }

    /// Whether all bytes that came so far were whole frames, at least one.
    #[must_use]
    pub const fn is_between_frames(&self) -> bool {
        self.pending.is_empty() && self.chain.is_some()
    }
}

impl Report {
    /// A leaf that is proved to be in the log, and stands for the seal when the session was orphaned there.
    pub(crate) fn accept_orphan(&mut self, leaf: &Leaf) {
        let all = (leaf.events, Some(leaf.head)) == (self.events, self.head);
        if leaf.kind == LeafKind::Orphan && all && self.faults == [Fault::Unsealed] {
            self.faults.clear();
            self.orphaned = true;
        }
    }

    fn fault(&mut self, fault: Fault) -> &Fault {
        self.faults.push_mut(fault)
    }
}

fn opening(body: &[u8]) -> Option<Box<Started>> {
    match serde_json::from_slice::<Entry>(body).ok()?.event {
        Event::Started(started) => Some(started),
        _ => None,
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

//! The end of a recording: `Ended` and the gateway's signature over all before.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_core::recording::{Chain, EncodeError, Event, Gap, seal_message};
use postern_core::{Code, Timestamp};
use postern_runtime::pki::SealSigner;

/// Appends `Ended` and `Sealed` to `chain` and their frames to `out`; returns how many frames that were.
#[allow(clippy::too_many_arguments)] // an event's fields, and who signs
pub(super) fn close(
    chain: &mut Chain,
    now: Timestamp,
    code: Option<Code>,
    reason: &str,
    interrupted: bool,
    gap: Option<Gap>,
    signer: &SealSigner,
    out: &mut Vec<u8>,
) -> Result<u32, EncodeError> {
    chain.append(now, &Event::Ended { code, reason: reason.to_owned(), interrupted, gap }, out)?;
    let (events, head) = (chain.next_seq(), chain.head());
    let signature = signer.sign(&seal_message(chain.session(), events, head));
    let sealed = Event::Sealed {
        events,
        head,
        signature: STANDARD.encode(signature),
        certificate: STANDARD.encode(signer.certificate_der()),
    };
    chain.append(now, &sealed, out)?;
    Ok(2)
}

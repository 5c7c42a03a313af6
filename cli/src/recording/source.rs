//! The entries of a recording whose bytes come piece by piece. All is checked on the way.

use postern_core::SessionId;
use postern_core::recording::{Authority, Entry, Event, Fault, Verifier};

/// The bytes are no recording, or one that was changed, or another.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFault {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("asked for {asked}, but this is the recording of {found}")]
    Another { asked: SessionId, found: SessionId },
}

/// Turns bytes into entries; holds at most one incomplete frame.
#[derive(Debug)]
pub(crate) struct EntryReader<'a> {
    verifier: Verifier<'a>,
    asked: Option<SessionId>,
}

impl<'a> EntryReader<'a> {
    /// Of the session that was asked for, where one was. A seal counts by the cluster's authority.
    pub(crate) const fn new(asked: Option<SessionId>, authority: Option<&'a [u8]>) -> Self {
        let authority = match authority {
            Some(der) => Some(Authority(der)),
            None => None,
        };
        Self { verifier: Verifier::new(authority), asked }
    }

    /// Takes more bytes; hands each entry that they complete to `take`, up to the first that is not as it should be.
    pub(crate) fn push<E: From<ReadFault>>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let asked = self.asked;
        self.verifier.read(bytes, |entry| {
            let entry = entry.map_err(|fault| ReadFault::Fault(fault.clone()))?;
            match (asked, &entry.event) {
                (Some(asked), Event::Started(started)) if started.session != asked => {
                    Err(ReadFault::Another { asked, found: started.session }.into())
                }
                _ => take(entry),
            }
        })
    }

    /// Whether the seal came, and is good.
    pub(crate) const fn sealed(&self) -> bool {
        self.verifier.report().sealed
    }

    /// Whether it ends between two frames, and with at least one.
    pub(crate) const fn ends_well(&self) -> bool {
        self.verifier.is_between_frames()
    }
}

#[cfg(test)]
mod tests {
    use postern_core::recording::Chain;
    use postern_core::time::Timestamp;

    use super::*;
    use crate::recording::replay::tests::sample;

    fn read(bytes: &[u8], step: usize) -> Result<usize, ReadFault> {
        let (mut reader, mut count) = (EntryReader::new(None, None), 0);
        for piece in bytes.chunks(step) {
            reader.push(piece, |_| -> Result<(), ReadFault> {
                count += 1;
                Ok(())
            })?;
        }
        assert!(reader.ends_well());
        Ok(count)
    }

    #[test]
    fn any_split_gives_the_same_entries() {
        let (file, entries) = sample();
        for step in [1, 2, 3, 7, 64, 1000, file.len()] {
            assert_eq!(read(&file, step).unwrap(), entries, "{step}");
        }
    }

    #[test]
    fn a_changed_byte_is_told() {
        let (mut file, _) = sample();
        let place = file.len() / 2;
        file[place] ^= 1;
        assert!(read(&file, 50).is_err());
        assert!(matches!(read(b"not a recording at all", 3), Err(ReadFault::Fault(Fault::Magic))));
    }

    #[test]
    fn the_recording_of_another_session_is_told_at_once() {
        let (file, entries) = sample();
        let took = |asked: SessionId| {
            let (mut reader, mut count) = (EntryReader::new(Some(asked), None), 0);
            let read = reader.push(&file, |_| -> Result<(), ReadFault> {
                count += 1;
                Ok(())
            });
            (count, read.map_err(|fault| fault.to_string()))
        };
        let mut verifier = Verifier::new(None);
        verifier.push(&file);
        let own = verifier.report().session.unwrap();
        assert_eq!(took(own), (entries, Ok(())));
        let other: SessionId = "ses_01m7v4r1000000000000000077".parse().unwrap();
        let told = format!("asked for {other}, but this is the recording of {own}");
        assert_eq!(took(other), (0, Err(told)));
    }

    #[test]
    fn a_seal_by_nobody_is_not_one() {
        let (file, entries) = sample();
        let mut verifier = Verifier::new(None);
        verifier.push(&file);
        let (session, head) = (verifier.report().session.unwrap(), verifier.report().head.unwrap());
        let events = u64::try_from(entries).unwrap();
        let mut chain = Chain::resume(session, events, head);
        let mut seal = Vec::new();
        let (signature, certificate) = (String::new(), String::new());
        chain
            .append(Timestamp::from_secs(1), &Event::Sealed { events, head, signature, certificate }, &mut seal)
            .unwrap();
        let mut reader = EntryReader::new(Some(session), Some(b"not even a certificate"));
        reader.push(&file, |_| -> Result<(), ReadFault> { Ok(()) }).unwrap();
        let fault = reader.push(&seal, |_| -> Result<(), ReadFault> { panic!("a seal was shown") }).unwrap_err();
        assert!(matches!(fault, ReadFault::Fault(Fault::Seal(_))), "{fault}");
        assert!(!reader.sealed());
    }
}

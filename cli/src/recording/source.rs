//! The entries of a recording whose bytes come piece by piece. Its chain is checked on the way.

use postern_core::recording::{Chain, ChainFault, Entry, Event, FrameFault, MAGIC, frames};

/// The bytes are no recording, or one that was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFault {
    #[error("not a recording of a known version")]
    Magic,
    #[error("it does not begin with the opening of a session")]
    NoStart,
    #[error(transparent)]
    Frame(#[from] FrameFault),
    #[error(transparent)]
    Chain(#[from] ChainFault),
}

/// Turns bytes into entries; holds at most one incomplete frame.
#[derive(Debug, Default)]
pub(crate) struct EntryReader {
    pending: Vec<u8>,
    begun: bool,
    chain: Option<Chain>,
}

impl EntryReader {
    /// Takes more bytes; hands each entry that they complete to `take`.
    pub(crate) fn push<E: From<ReadFault>>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pending.extend_from_slice(bytes);
        if !self.begun {
            if self.pending.len() < MAGIC.len() {
                return Ok(());
            }
            if !self.pending.starts_with(MAGIC) {
                return Err(ReadFault::Magic.into());
            }
            self.pending.drain(..MAGIC.len());
            self.begun = true;
        }
        let mut all = frames(&self.pending);
        let mut fault = None;
        for frame in all.by_ref() {
            let step = match frame {
                Ok(frame) => accept(&mut self.chain, &frame).map_err(E::from).and_then(&mut take),
                Err(FrameFault::Incomplete { .. }) => break,
                Err(other) => Err(ReadFault::from(other).into()),
            };
            if let Err(error) = step {
                fault = Some(error);
                break;
            }
        }
        let done = all.offset();
        self.pending.drain(..done);
        fault.map_or(Ok(()), Err)
    }

    /// Whether it ends between two frames, and with at least one.
    pub(crate) fn ends_well(&self) -> bool {
        self.pending.is_empty() && self.chain.is_some()
    }
}

fn accept(chain: &mut Option<Chain>, frame: &postern_core::recording::RawFrame<'_>) -> Result<Entry, ReadFault> {
    let running = match chain {
        Some(running) => running,
        None => {
            // The chain begins with the session's id, which the first event tells.
            let first: Entry = serde_json::from_slice(frame.body).map_err(|_| ReadFault::NoStart)?;
            let Event::Started(started) = &first.event else { return Err(ReadFault::NoStart) };
            chain.insert(Chain::start(started.session))
        }
    };
    Ok(running.accept(frame)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::replay::tests::sample;

    fn read(bytes: &[u8], step: usize) -> Result<usize, ReadFault> {
        let (mut reader, mut count) = (EntryReader::default(), 0);
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
        assert!(matches!(read(b"not a recording at all", 3), Err(ReadFault::Magic)));
    }
}

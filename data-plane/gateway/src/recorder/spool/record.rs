//! How the spool lies on disk: segments of records, each sealed.
//!
//! A segment is its beginning ([`BEGIN`] bytes) and then records: a length, a big-endian 32-bit number, and so many sealed bytes: how much of the
//! segment was durable when they were written, and the payload: a kind, the session, a sequence number, and what the kind says. The segment that
//! is written to may end in zeros: room that is there already.
//!
//! Older gateways wrote segments in clear: [`MAGIC`], and records of the payload's length, its CRC-32, and the payload. They are read, and no more written.

use postern_core::SessionId;
use postern_core::recording::MAX_BODY;

use super::cipher::{BEGIN, NotSealed, Opener, Sealer, TAG};

/// The first bytes of a segment in clear.
pub(in crate::recorder) const MAGIC: &[u8; 8] = b"PSTNSPL\x01";
/// Length and checksum of a record in clear.
const CLEAR_HEADER: usize = 8;
/// A sealed record's length, on the disk; and inside, how much was durable.
const LENGTH: usize = 4;
const DURABLE: usize = 8;
/// The largest payload: one event of the largest size with all around it.
const MAX_PAYLOAD: usize = MAX_BODY + (1 << 20);
/// The largest record of either form, with all around it.
pub(in crate::recorder) const MAX_RECORD: usize = MAX_PAYLOAD + 64;

const KIND_FRAMES: u8 = 1;
const KIND_HEAD: u8 = 2;

/// What frames may say besides. Older gateways read the second as nothing.
const SEALS: u8 = 1;
const LOOSE: u8 = 2;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::recorder) enum Record<'a> {
    /// Frames of a session's recording, as they are uploaded.
    Frames {
        session: SessionId,
        first_seq: u64,
        count: u32,
        /// The last of them is the seal.
        seals: bool,
        /// The session does not wait until its operations are durable. Never with `seals`.
        loose: bool,
        frames: &'a [u8],
    },
    /// Where the chain of an open session stands; written before its last frames leave the spool.
    Head { session: SessionId, next_seq: u64, head: [u8; 32] },
}

/// What follows in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::recorder) enum Next<'a> {
    Record {
        record: Record<'a>,
        /// Bytes that it takes, with its header.
        size: usize,
        /// What of the segment was durable when it was written, as far as was known.
        durable: u64,
    },
    /// Nothing: the segment ends here.
    End,
    /// Something that no whole record is: a torn write, or damage.
    Torn,
}

impl Record<'_> {
    /// Appends the record, sealed, to `out`. `durable` is what of the segment is known to be on the disk.
    pub(super) fn seal(&self, sealer: &mut Sealer, durable: u64, out: &mut Vec<u8>) -> Result<(), NotSealed> {
        let begin = out.len();
        // Filled in below.
        out.extend_from_slice(&[0; LENGTH]);
        out.extend_from_slice(&durable.to_be_bytes());
        self.payload(out);
        let size = out.len().saturating_sub(begin).saturating_sub(LENGTH).saturating_add(TAG);
        let length = u32::try_from(size).map_err(|_| NotSealed)?.to_be_bytes();
        let record = out.get_mut(begin..).and_then(<[u8]>::split_first_chunk_mut::<LENGTH>);
        let (head, clear) = record.ok_or(NotSealed)?;
        *head = length;
        let tag = sealer.seal(length, clear)?;
        out.extend_from_slice(&tag);
        Ok(())
    }

    fn payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Frames { session, first_seq, count, seals, loose, frames } => {
                // At once, and not grown into: what is left behind in memory would be clear.
                out.reserve(frames.len().saturating_add(64));
                out.push(KIND_FRAMES);
                out.extend_from_slice(&session.to_bytes());
                out.extend_from_slice(&first_seq.to_be_bytes());
                out.push(if *seals {
                    SEALS
                } else if *loose {
                    LOOSE
                } else {
                    0
                });
                out.extend_from_slice(&count.to_be_bytes());
                out.extend_from_slice(frames);
            }
            Self::Head { session, next_seq, head } => {
                out.push(KIND_HEAD);
                out.extend_from_slice(&session.to_bytes());
                out.extend_from_slice(&next_seq.to_be_bytes());
                out.extend_from_slice(head);
            }
        }
    }

    /// Appends the record to `out` as older gateways wrote it.
    #[cfg(test)]
    pub(in crate::recorder) fn encode_clear(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        self.payload(&mut payload);
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(&payload).to_be_bytes());
        out.extend_from_slice(&payload);
    }
}

/// Reads a segment's records, in order.
#[derive(Debug)]
pub(in crate::recorder) enum Reader {
    /// As older gateways wrote it.
    Clear,
    Sealed(Opener),
}

impl Reader {
    /// Where the first record begins.
    pub(in crate::recorder) const fn begin(&self) -> usize {
        match self {
            Self::Clear => MAGIC.len(),
            Self::Sealed(_) => BEGIN,
        }
    }

    /// The size of the record at the beginning of `bytes`, as it says itself.
    pub(in crate::recorder) fn size(&self, bytes: &[u8]) -> Option<usize> {
        let length = usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()?;
        let around = match self {
            Self::Clear => CLEAR_HEADER,
            Self::Sealed(_) => LENGTH,
        };
        length.checked_add(around).filter(|size| length > 0 && *size <= MAX_RECORD)
    }

    /// Reads the next record, which is at the beginning of `bytes`; they end where the segment ends. One that is not whole can be tried again with more.
    pub(in crate::recorder) fn next<'a>(&mut self, bytes: &'a mut [u8]) -> Next<'a> {
        // No record is empty.
        let room = bytes.first_chunk::<LENGTH>().is_none_or(|length| *length == [0; LENGTH]);
        if room && bytes.iter().all(|byte| *byte == 0) {
            return Next::End;
        }
        let read = match self {
            Self::Clear => read_clear(bytes).map(|(record, size)| (record, size, 0)),
            Self::Sealed(_) => self.read_sealed(bytes),
        };
        read.map_or(Next::Torn, |(record, size, durable)| Next::Record { record, size, durable })
    }

    fn read_sealed<'a>(&mut self, bytes: &'a mut [u8]) -> Option<(Record<'a>, usize, u64)> {
        let size = self.size(bytes)?;
        let Self::Sealed(opener) = self else { return None };
        let (length, sealed) = bytes.get_mut(..size)?.split_first_chunk_mut::<LENGTH>()?;
        let (durable, payload) = opener.open(*length, sealed).ok()?.split_first_chunk::<DURABLE>()?;
        Some((parse(payload)?, size, u64::from_be_bytes(*durable)))
    }

    /// Whether what is at `offset` of `bytes`, and no whole record, was durable once: a later record says so. Of no use afterwards.
    pub(super) fn was_durable(mut self, bytes: &mut [u8], offset: usize) -> bool {
        let mut place = offset;
        loop {
            let Some(rest) = bytes.get_mut(place..) else { return false };
            let Some(size) = self.size(rest) else { return false };
            match self.next(rest) {
                Next::Record { durable, .. } if usize::try_from(durable).is_ok_and(|durable| durable > offset) => {
                    return true;
                }
                Next::Record { .. } => {}
                Next::End => return false,
                Next::Torn => {
                    if let Self::Sealed(opener) = &mut self {
                        opener.skip();
                    }
                }
            }
            place = place.saturating_add(size);
        }
    }
}

fn read_clear(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| *length <= MAX_PAYLOAD)?;
    let payload = rest.get(..length)?;
    if crc32fast::hash(payload) != u32::from_be_bytes(*crc) {
        return None;
    }
    Some((parse(payload)?, CLEAR_HEADER.saturating_add(length)))
}

fn parse(payload: &[u8]) -> Option<Record<'_>> {
    let (kind, payload) = payload.split_first()?;
    let (session, payload) = payload.split_first_chunk::<16>()?;
    let (seq, payload) = payload.split_first_chunk::<8>()?;
    let (session, seq) = (SessionId::from_bytes(*session), u64::from_be_bytes(*seq));
    Some(match *kind {
        KIND_FRAMES => {
            let (flag, payload) = payload.split_first()?;
            let (count, frames) = payload.split_first_chunk::<4>()?;
            let count = u32::from_be_bytes(*count);
            Record::Frames { session, first_seq: seq, count, seals: *flag == SEALS, loose: *flag == LOOSE, frames }
        }
        KIND_HEAD => Record::Head { session, next_seq: seq, head: payload.try_into().ok()? },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::cipher::SpoolKey;
    use super::*;
    use postern_core::Timestamp;

    fn session() -> SessionId {
        SessionId::new(Timestamp::from_millis(5), 9)
    }

    /// How a record is read in a form, what it is in it, and how much was durable.
    type Form<'a> = (&'a dyn Fn() -> Reader, &'a [u8], u64);

    /// The record that is read of `bytes`, as what it says of itself.
    fn read(reader: &mut Reader, bytes: &[u8]) -> String {
        format!("{:?}", reader.next(&mut bytes.to_vec()))
    }

    #[test]
    fn records_round_trip() {
        let key = SpoolKey::of_tests(1);
        let records = [
            Record::Frames {
                session: session(),
                first_seq: 3,
                count: 2,
                seals: true,
                loose: false,
                frames: b"two frames",
            },
            Record::Frames { session: session(), first_seq: 3, count: 1, seals: false, loose: true, frames: b"one" },
            Record::Head { session: session(), next_seq: 5, head: [7; 32] },
        ];
        for record in records {
            let (begin, new) = key.begin().unwrap();
            let reader = |number| Reader::Sealed(Opener::new(key.open(&begin).unwrap(), number));
            let (mut clear, mut sealed) = (Vec::new(), Vec::new());
            record.encode_clear(&mut clear);
            record.seal(&mut Sealer::new(new, 1), 77, &mut sealed).unwrap();
            let forms: [Form<'_>; 2] = [(&|| Reader::Clear, &clear, 0), (&|| reader(1), &sealed, 77)];
            for (reader, out, durable) in forms {
                let whole = format!("{:?}", Next::Record { record, size: out.len(), durable });
                assert_eq!(read(&mut reader(), out), whole);
                for cut in 1..out.len() {
                    // The first of a length's bytes may look like room.
                    let room = out[..cut].iter().all(|byte| *byte == 0);
                    let mut reader = reader();
                    assert_eq!(read(&mut reader, &out[..cut]), if room { "End" } else { "Torn" }, "cut at {cut}");
                    assert_eq!(read(&mut reader, out), whole, "what is not whole can be tried again");
                }
                for bit in 0..out.len() * 8 {
                    let mut damaged = out.to_vec();
                    damaged[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(read(&mut reader(), &damaged), "Torn", "flipped at bit {bit}");
                }
            }
            assert_eq!(read(&mut reader(2), &sealed), "Torn", "it is another segment's");
            assert!(SpoolKey::of_tests(2).open(&begin).is_err());
            for bit in 0..begin.len() * 8 {
                let mut damaged = begin;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(key.open(&damaged).is_err(), "flipped at bit {bit}");
            }
        }
        let mut reader = Reader::Clear;
        assert_eq!(read(&mut reader, &[]), "End");
        for zeros in [1, CLEAR_HEADER, 5000] {
            let mut room = vec![0; zeros];
            assert_eq!(read(&mut reader, &room), "End");
            // A later part of what was written may be on the disk without the earlier one.
            room.push(1);
            assert_eq!(read(&mut reader, &room), "Torn");
        }
    }
}

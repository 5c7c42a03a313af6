//! How the spool lies on disk: segments of records, each with its own checksum.
//!
//! A segment is [`MAGIC`] and then records: the payload's length and its CRC-32, both big-endian 32-bit numbers, and the payload: a
//! kind, the session, a sequence number, and what the kind says. The segment that is written to may end in zeros: room that is there already.

use postern_core::SessionId;
use postern_core::recording::MAX_BODY;

/// The first bytes of a segment; the last of them is the format's version.
pub(in crate::recorder) const MAGIC: &[u8; 8] = b"PSTNSPL\x01";
/// Length and checksum.
pub(in crate::recorder) const HEADER: usize = 8;
/// The largest payload: one event of the largest size with all around it.
pub(in crate::recorder) const MAX_PAYLOAD: usize = MAX_BODY + (1 << 20);

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
    },
    /// Nothing: the segment ends here.
    End,
    /// Something that no whole record is: a torn write, or damage.
    Torn,
}

impl Record<'_> {
    /// Appends the record, with its header, to `out`.
    pub(in crate::recorder) fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(64);
        let body: &[u8] = match self {
            Self::Frames { session, first_seq, count, seals, loose, frames } => {
                payload.push(KIND_FRAMES);
                payload.extend_from_slice(&session.to_bytes());
                payload.extend_from_slice(&first_seq.to_be_bytes());
                payload.push(if *seals {
                    SEALS
                } else if *loose {
                    LOOSE
                } else {
                    0
                });
                payload.extend_from_slice(&count.to_be_bytes());
                frames
            }
            Self::Head { session, next_seq, head } => {
                payload.push(KIND_HEAD);
                payload.extend_from_slice(&session.to_bytes());
                payload.extend_from_slice(&next_seq.to_be_bytes());
                head
            }
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&payload);
        crc.update(body);
        let length = u32::try_from(payload.len().saturating_add(body.len())).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&crc.finalize().to_be_bytes());
        out.extend_from_slice(&payload);
        out.extend_from_slice(body);
    }
}

/// Reads the record at the beginning of `bytes`, which end where the segment ends.
pub(in crate::recorder) fn next(bytes: &[u8]) -> Next<'_> {
    // No record is empty.
    let room = bytes.first_chunk::<HEADER>().is_none_or(|header| *header == [0; HEADER]);
    if room && bytes.iter().all(|byte| *byte == 0) {
        return Next::End;
    }
    read(bytes).unwrap_or(Next::Torn)
}

fn read(bytes: &[u8]) -> Option<Next<'_>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| *length <= MAX_PAYLOAD)?;
    let payload = rest.get(..length)?;
    if crc32fast::hash(payload) != u32::from_be_bytes(*crc) {
        return None;
    }
    let (kind, payload) = payload.split_first()?;
    let (session, payload) = payload.split_first_chunk::<16>()?;
    let (seq, payload) = payload.split_first_chunk::<8>()?;
    let (session, seq) = (SessionId::from_bytes(*session), u64::from_be_bytes(*seq));
    let record = match *kind {
        KIND_FRAMES => {
            let (flag, payload) = payload.split_first()?;
            let (count, frames) = payload.split_first_chunk::<4>()?;
            let count = u32::from_be_bytes(*count);
            Record::Frames { session, first_seq: seq, count, seals: *flag == SEALS, loose: *flag == LOOSE, frames }
        }
        KIND_HEAD => Record::Head { session, next_seq: seq, head: payload.try_into().ok()? },
        _ => return None,
    };
    Some(Next::Record { record, size: HEADER.saturating_add(length) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::Timestamp;

    fn session() -> SessionId {
        SessionId::new(Timestamp::from_millis(5), 9)
    }

    #[test]
    fn records_round_trip() {
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
            let mut out = Vec::new();
            record.encode(&mut out);
            assert_eq!(next(&out), Next::Record { record, size: out.len() });
            for cut in 1..out.len() {
                // The first of a length's bytes may look like room.
                let expected = if out[..cut].iter().all(|byte| *byte == 0) { Next::End } else { Next::Torn };
                assert_eq!(next(&out[..cut]), expected, "cut at {cut}");
            }
            for place in 0..out.len() {
                let mut damaged = out.clone();
                damaged[place] ^= 0x40;
                assert_eq!(next(&damaged), Next::Torn, "flipped at {place}");
            }
        }
        assert_eq!(next(&[]), Next::End);
        for zeros in [1, HEADER, 5000] {
            let mut room = vec![0; zeros];
            assert_eq!(next(&room), Next::End);
            // A later part of what was written may be on the disk without the earlier one.
            room.push(1);
            assert_eq!(next(&room), Next::Torn);
        }
    }
}

//! COPY's binary format. ("COPY", section "Binary Format")

use bytes::{Buf, BufMut, BytesMut};

use super::MaskError;
use super::copy::{MAX_ROW, Masks};
use super::row::mask_value;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Tuples, cut out of a stream.
#[derive(Debug, Default)]
pub(super) struct Binary {
    pending: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    Tuples,
    Done,
}

impl Binary {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn push(&mut self, data: &[u8], masks: &Masks, out: &mut BytesMut) -> Result<(), MaskError> {
        self.pending.extend_from_slice(data);
        let mut start = 0_usize;
        loop {
            let rest = self.pending.get(start..).unwrap_or_default();
            let Some(length) = self.state.length(rest)? else { break };
            let part = rest.get(..length).ok_or(MaskError::Malformed)?;
            self.state = self.state.pass(part, masks, out)?;
            start = start.saturating_add(length);
        }
        self.pending.drain(..start);
        if self.pending.len() > MAX_ROW { Err(MaskError::TooLarge) } else { Ok(()) }
    }
}

impl State {
    /// How long the next part is; `None` when it is not complete.
    fn length(self, bytes: &[u8]) -> Result<Option<usize>, MaskError> {
        match self {
            Self::Header => {
                let known = bytes.len().min(SIGNATURE.len());
                if bytes.get(..known) != SIGNATURE.get(..known) {
                    return Err(MaskError::Malformed);
                }
                let Some(mut fixed) = bytes.get(SIGNATURE.len()..SIGNATURE.len().saturating_add(8)) else {
                    return Ok(None);
                };
                // Bits 16 to 31 are critical: whoever does not know them must stop.
                if fixed.get_u32() >> 16 != 0 {
                    return Err(MaskError::Malformed);
                }
                let extension = usize::try_from(fixed.get_i32()).map_err(|_| MaskError::Malformed)?;
                let length = SIGNATURE.len().saturating_add(8).saturating_add(extension);
                Ok(complete(bytes, length))
            }
            Self::Tuples => tuple_length(bytes),
            Self::Done if bytes.is_empty() => Ok(None),
            Self::Done => Err(MaskError::Malformed),
        }
    }

    fn pass(self, mut part: &[u8], masks: &Masks, out: &mut BytesMut) -> Result<Self, MaskError> {
        if self == Self::Header {
            out.put_slice(part);
            return Ok(Self::Tuples);
        }
        let count = part.try_get_i16().map_err(|_| MaskError::Malformed)?;
        out.put_i16(count);
        let Ok(count) = usize::try_from(count) else { return Ok(Self::Done) };
        if !masks.fits(count) {
            return Err(MaskError::Malformed);
        }
        for column in 0..count {
            mask_value(&mut part, masks.of(column)?, &masks.keys, out)?;
        }
        Ok(Self::Tuples)
    }
}

/// Of a tuple, or of the trailer: -1 in place of a count.
fn tuple_length(bytes: &[u8]) -> Result<Option<usize>, MaskError> {
    let mut rest = bytes;
    let Ok(count) = rest.try_get_i16() else { return Ok(None) };
    if count == -1 {
        return Ok(Some(2));
    }
    let count = usize::try_from(count).map_err(|_| MaskError::Malformed)?;
    let mut length = 2_usize;
    for _ in 0..count {
        let Ok(value) = rest.try_get_i32() else { return Ok(None) };
        length = length.saturating_add(4);
        if value == -1 {
            continue;
        }
        let value = usize::try_from(value).map_err(|_| MaskError::Malformed)?;
        length = length.saturating_add(value);
        match rest.get(value..) {
            Some(after) => rest = after,
            None => return Ok(None),
        }
    }
    Ok(complete(bytes, length))
}

fn complete(bytes: &[u8], length: usize) -> Option<usize> {
    (bytes.len() >= length).then_some(length)
}

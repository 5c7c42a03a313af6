//! Reads the parts of a message's body.

use bytes::{Buf as _, Bytes};

use super::CodecError;

/// Takes parts off a body, front to back. Slices share the frame's memory.
pub(crate) struct Reader {
    tag: u8,
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(tag: u8, body: Bytes) -> Self {
        Self { tag, rest: body }
    }

    pub(crate) fn fault(&self, what: &'static str) -> CodecError {
        CodecError::Malformed { tag: self.tag, what }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        self.rest.try_get_u8().map_err(|_| self.fault("it ends early"))
    }

    pub(crate) fn int16(&mut self) -> Result<i16, CodecError> {
        self.rest.try_get_i16().map_err(|_| self.fault("it ends early"))
    }

    pub(crate) fn int32(&mut self) -> Result<i32, CodecError> {
        self.rest.try_get_i32().map_err(|_| self.fault("it ends early"))
    }

    pub(crate) fn uint32(&mut self) -> Result<u32, CodecError> {
        self.rest.try_get_u32().map_err(|_| self.fault("it ends early"))
    }

    /// Bytes up to a zero, which is taken but not returned.
    pub(crate) fn text(&mut self) -> Result<Bytes, CodecError> {
        let Some(end) = self.rest.iter().position(|byte| *byte == 0) else {
            return Err(self.fault("a string has no end"));
        };
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        Ok(text)
    }

    /// The name of a prepared statement or portal: of a longer one, the server looks at the first 63 bytes alone (NAMEDATALEN, and the keys of
    /// prepare.c and portalmem.c), so that two names may be one.
    pub(crate) fn name(&mut self) -> Result<Bytes, CodecError> {
        const KEPT: usize = 63;
        let mut name = self.text()?;
        name.truncate(KEPT);
        Ok(name)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<Bytes, CodecError> {
        if length > self.rest.len() {
            return Err(self.fault("a value is longer than the message"));
        }
        Ok(self.rest.split_to(length))
    }

    /// A value preceded by its length; -1 is NULL.
    pub(crate) fn value(&mut self) -> Result<Option<Bytes>, CodecError> {
        match self.int32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| self.fault("a value's length is negative"))?;
                self.bytes(length).map(Some)
            }
        }
    }

    /// A count of parts of at least `each` bytes: one that cannot fit is refused before anything is allocated for it.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, CodecError> {
        // Int16 on the wire, read as unsigned by the server.
        let count = usize::from(self.rest.try_get_u16().map_err(|_| self.fault("it ends early"))?);
        if count.saturating_mul(each) > self.rest.len() {
            return Err(self.fault("a count is larger than the message"));
        }
        Ok(count)
    }

    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault("bytes follow its end")) }
    }
}

//! Decisions out of bytes.

/// Bytes that are read from the front; past their end all is 0.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// All of `data`.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether there are any left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next one.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: u8) -> u8 {
        self.byte().checked_rem(end).unwrap_or(0)
    }

    /// Mostly a number around `middle`, now and then any.
    pub fn around(&mut self, middle: u64) -> u64 {
        match self.byte() {
            255 => u64::from_be_bytes(std::array::from_fn(|_| self.byte())),
            254 => 0,
            253 => u64::MAX,
            near @ 0..=127 => middle.saturating_add(u64::from(near & 7)),
            near => middle.saturating_sub(u64::from(near & 7)),
        }
    }

    /// The next ones, as many as a length before them says.
    pub fn some(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
        let (some, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        some
    }

    /// All that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

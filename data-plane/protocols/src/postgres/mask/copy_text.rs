//! COPY's text and CSV formats. ("COPY", section "File Formats")

use bytes::{BufMut, BytesMut};

use super::MaskError;
use super::copy::{MAX_ROW, Masks};
use crate::sql::CopyText;

/// Rows of text or CSV, cut out of a stream.
#[derive(Debug)]
pub(super) struct Lines {
    options: CopyText,
    /// Of CSV: quote and escape.
    quotes: Option<(u8, u8)>,
    pending: Vec<u8>,
    /// How much of `pending` was searched for a row's end.
    searched: usize,
    in_quotes: bool,
    skip: bool,
    /// The line of names is still to come.
    header: bool,
}

/// One field as it stands in a row.
struct Raw<'a> {
    bytes: &'a [u8],
    quoted: bool,
}

impl Lines {
    pub(super) fn text(options: CopyText) -> Self {
        Self::new(options, None)
    }

    pub(super) fn csv(options: CopyText, quote: u8, escape: u8) -> Self {
        Self::new(options, Some((quote, escape)))
    }

    fn new(options: CopyText, quotes: Option<(u8, u8)>) -> Self {
        let header = options.header;
        Self { options, quotes, pending: Vec::new(), searched: 0, in_quotes: false, skip: false, header }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn push(&mut self, data: &[u8], masks: &Masks, out: &mut BytesMut) -> Result<(), MaskError> {
        self.pending.extend_from_slice(data);
        let mut start = 0_usize;
        while let Some(end) = self.row_end() {
            let row = self.pending.get(start..end).ok_or(MaskError::Malformed)?;
            if std::mem::take(&mut self.header) {
                out.put_slice(row);
            } else {
                self.row(row, masks, out)?;
            }
            out.put_u8(b'\n');
            start = end.saturating_add(1);
        }
        self.pending.drain(..start);
        self.searched = self.searched.saturating_sub(start);
        if self.pending.len() > MAX_ROW { Err(MaskError::TooLarge) } else { Ok(()) }
    }

    /// The place of the next newline that ends a row. In text, a newline within a value is escaped; in CSV, it stands within quotes.
    fn row_end(&mut self) -> Option<usize> {
        while let Some(byte) = self.pending.get(self.searched).copied() {
            let at = self.searched;
            self.searched = self.searched.saturating_add(1);
            match self.quotes {
                None if byte == b'\n' => return Some(at),
                None => {}
                Some(_) if self.skip => self.skip = false,
                Some((quote, escape)) if self.in_quotes => {
                    if byte == escape && escape != quote {
                        self.skip = true;
                    } else if byte == quote {
                        self.in_quotes = false;
                    }
                }
                Some((quote, _)) if byte == quote => self.in_quotes = true,
                Some(_) if byte == b'\n' => return Some(at),
                Some(_) => {}
            }
        }
        None
    }

    fn row(&self, row: &[u8], masks: &Masks, out: &mut BytesMut) -> Result<(), MaskError> {
        let fields = self.fields(row);
        if !masks.fits(fields.len()) {
            return Err(MaskError::Malformed);
        }
        let mut made = BytesMut::new();
        for (column, field) in fields.iter().enumerate() {
            if column > 0 {
                out.put_u8(self.options.delimiter);
            }
            let null = !field.quoted && field.bytes == self.options.null;
            match masks.of(column)? {
                Some(mask) if !null => {
                    made.clear();
                    if mask.replace(&self.decode(field), &masks.keys, &mut made) {
                        self.encode(&made, out);
                    } else {
                        out.put_slice(&self.options.null);
                    }
                }
                _ => out.put_slice(field.bytes),
            }
        }
        Ok(())
    }

    /// Splits at delimiters that are not escaped or quoted.
    fn fields<'a>(&self, row: &'a [u8]) -> Vec<Raw<'a>> {
        let mut fields = Vec::new();
        let (mut start, mut skip, mut in_quotes, mut quoted) = (0_usize, false, false, false);
        for (at, byte) in row.iter().copied().enumerate() {
            if skip {
                skip = false;
                continue;
            }
            match self.quotes {
                None if byte == b'\\' => skip = true,
                Some((quote, escape)) if in_quotes => {
                    if byte == escape && escape != quote {
                        skip = true;
                    } else if byte == quote {
                        in_quotes = false;
                    }
                    continue;
                }
                Some((quote, _)) if byte == quote => {
                    in_quotes = true;
                    quoted = true;
                }
                _ if byte == self.options.delimiter => {
                    fields.push(Raw { bytes: row.get(start..at).unwrap_or_default(), quoted });
                    start = at.saturating_add(1);
                    quoted = false;
                }
                _ => {}
            }
        }
        fields.push(Raw { bytes: row.get(start..).unwrap_or_default(), quoted });
        fields
    }

    /// The value that a field stands for.
    fn decode(&self, field: &Raw<'_>) -> Vec<u8> {
        match self.quotes {
            None => unescape(field.bytes),
            Some((quote, escape)) => unquote(field.bytes, quote, escape),
        }
    }

    fn encode(&self, value: &[u8], out: &mut BytesMut) {
        match self.quotes {
            None => {
                for byte in value.iter().copied() {
                    match byte {
                        b'\n' => out.put_slice(b"\\n"),
                        b'\r' => out.put_slice(b"\\r"),
                        b'\t' => out.put_slice(b"\\t"),
                        8 => out.put_slice(b"\\b"),
                        11 => out.put_slice(b"\\v"),
                        12 => out.put_slice(b"\\f"),
                        _ => {
                            if byte == b'\\' || byte == self.options.delimiter {
                                out.put_u8(b'\\');
                            }
                            out.put_u8(byte);
                        }
                    }
                }
            }
            Some((quote, escape)) => {
                out.put_u8(quote);
                for byte in value.iter().copied() {
                    if byte == quote || byte == escape {
                        out.put_u8(escape);
                    }
                    out.put_u8(byte);
                }
                out.put_u8(quote);
            }
        }
    }
}

/// Backslash sequences of the text format. COPY TO writes only those of one letter and of the delimiter.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => other,
            None => b'\\',
        });
    }
    out
}

fn unquote(field: &[u8], quote: u8, escape: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied().peekable();
    let mut in_quotes = false;
    while let Some(byte) = bytes.next() {
        let escapes = |next: u8| next == quote || next == escape;
        if in_quotes && byte == escape && bytes.peek().copied().is_some_and(escapes) {
            out.extend(bytes.next());
        } else if byte == quote {
            in_quotes = !in_quotes;
        } else {
            out.push(byte);
        }
    }
    out
}

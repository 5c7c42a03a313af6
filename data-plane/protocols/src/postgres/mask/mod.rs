//! Masks on rows, COPY and messages (I4).
use bytes::{BufMut, BytesMut};
use postern_core::masking::MaskSlice;

use super::catalog::Catalog;
use crate::sql::{Statement, Unclassifiable};

/// The masking rules that hold for a session, resolved against its database. Compile once per policy slice and catalog; share.
#[derive(Clone, Debug, Default)]
pub struct Masking {}

impl Masking {
    /// Resolves `masks` on `database`. `key` keys [`postern_core::masking::MaskFunction::Hash`].
    #[must_use]
    pub fn compile(masks: &MaskSlice, catalog: &Catalog, database: &str, key: [u8; 32]) -> Self {
        let _ = (masks, catalog, database, key);
        Self {}
    }
    /// No rule holds: results need no inspection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }
    /// Whether `statement` may run under these masks. Ask at every Query, Parse and Bind.
    ///
    /// # Errors
    /// When it would carry a masked value to where no mask covers it.
    pub fn admit(&self, statement: &Statement) -> Result<(), Unclassifiable> {
        let _ = statement;
        Ok(())
    }
    /// How much of the server's messages may be shown while `statement` runs.
    #[must_use]
    pub fn scrub(&self, statement: &Statement) -> Scrub {
        let _ = statement;
        Scrub::Nothing
    }
}

/// One column of a RowDescription, with the format that the portal asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// OID of its table, 0 for an expression.
    pub table: u32,
    /// Its attribute number in that table, 0 for an expression.
    pub column: i16,
    /// OID of its type.
    pub type_oid: u32,
    /// Whether values come in the binary format.
    pub binary: bool,
}

/// How each column of a result is masked.
#[derive(Clone, Debug, Default)]
pub struct RowPlan {}

impl RowPlan {
    /// For a result of `statement` with these columns.
    #[must_use]
    pub fn for_result(fields: &[Field], statement: &Statement, masking: &Masking) -> Self {
        let _ = (fields, statement, masking);
        Self {}
    }
    /// Nothing is masked: frames pass as they are.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        true
    }
    /// Rewrites the body of a DataRow (i16 count, then per value i32 length or -1 and the bytes) into `out`.
    ///
    /// # Errors
    /// When the body is malformed or has another number of columns than its RowDescription.
    pub fn mask_row(&self, body: &[u8], out: &mut BytesMut) -> Result<(), MaskError> {
        out.put_slice(body);
        Ok(())
    }
}

/// Rewrites the CopyData of a masked COPY TO STDOUT: bytes in, bytes out, in any split.
#[derive(Debug)]
pub struct CopyMask {}

impl CopyMask {
    /// For the COPY of `statement`; `None` when nothing is masked and CopyData passes as it is.
    ///
    /// # Errors
    /// When rows need a mask and cannot be followed: the statement must be refused.
    pub fn for_copy(statement: &Statement, masking: &Masking) -> Result<Option<Self>, Unclassifiable> {
        let _ = (statement, masking);
        Ok(None)
    }
    /// Takes the payload of a CopyData; puts the masked rows that it completes into `out`, as payload.
    ///
    /// # Errors
    /// When the rows are not as the options say: the session must end.
    pub fn push(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), MaskError> {
        out.put_slice(data);
        Ok(())
    }
    /// At CopyDone.
    ///
    /// # Errors
    /// When a row is incomplete.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), MaskError> {
        let _ = out;
        Ok(())
    }
}

/// How much of an ErrorResponse or NoticeResponse may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scrub {
    /// All of it: no mask holds for the session.
    Nothing,
    /// Drop DETAIL, WHERE and the internal query; keep message and hint.
    Details,
    /// Only severity, SQLSTATE and a generic message.
    Everything,
}

/// Rewrites the fields of an ErrorResponse or NoticeResponse (byte code and value, as in the body, without the final zero).
#[must_use]
pub fn scrub_fields(fields: Vec<(u8, Vec<u8>)>, scrub: Scrub) -> Vec<(u8, Vec<u8>)> {
    let _ = scrub;
    fields
}

/// Rows are not as described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Not of the form that the server announced.
    #[error("a row is not of the form that the server announced")]
    Malformed,
    /// Longer than Postern holds.
    #[error("a row is larger than Postern holds while masking")]
    TooLarge,
}

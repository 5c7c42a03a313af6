//! Rows of results.

use bytes::{Buf, BufMut, BytesMut};
use postern_core::masking::MaskFunction;

use super::value::{ColumnMask, Keys};
use super::{MaskError, Masking};
use crate::sql::Statement;

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
pub struct RowPlan {
    masks: Vec<Option<ColumnMask>>,
    keys: Keys,
    plain: bool,
}

impl RowPlan {
    /// For a result of `statement` with these columns.
    #[must_use]
    pub fn for_result(fields: &[Field], statement: &Statement, masking: &Masking) -> Self {
        if masking.is_empty() {
            return Self { masks: Vec::new(), keys: Keys::default(), plain: true };
        }
        let expression = masking.expression(&statement.facts);
        let everything = masking.everything(&statement.facts);
        let temporary = masking.unknown_is_temporary(&statement.facts);
        let of = |field: &Field| {
            let mask = if !masking.named {
                None
            } else if everything.is_some() {
                everything.clone()
            } else if field.table == 0 {
                expression.clone()
            } else if masking.knows_table(field.table) {
                // Attribute 0 is a row as one value, and below are the system's.
                let whole = || masking.relations.get(&field.table).map(|_| MaskFunction::Null);
                if field.column == 0 { whole() } else { masking.column(field.table, field.column) }
            } else {
                (!temporary).then_some(MaskFunction::Null)
            };
            let mask = mask.or_else(|| masking.typed(field.type_oid));
            match mask {
                Some(mask) => Some(ColumnMask::new(&mask, field.type_oid, field.binary)),
                None => masking.scan(field.type_oid, field.binary),
            }
        };
        let masks: Vec<_> = fields.iter().map(of).collect();
        let plain = masks.iter().all(Option::is_none);
        Self { masks, keys: masking.keys.clone(), plain }
    }

    /// Nothing is masked: frames pass as they are.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.plain
    }

    /// What masks a column, in a word, for the recording.
    #[must_use]
    pub fn mask(&self, column: usize) -> Option<&'static str> {
        self.masks.get(column)?.as_ref().map(ColumnMask::name)
    }

    /// Rewrites the body of a DataRow (Int16 count, then for each value Int32 length or -1 and the bytes) into `out`.
    ///
    /// # Errors
    /// When the body is malformed or has another number of columns than its RowDescription.
    pub fn mask_row(&self, mut body: &[u8], out: &mut BytesMut) -> Result<(), MaskError> {
        if self.plain {
            out.put_slice(body);
            return Ok(());
        }
        let count = body.try_get_i16().map_err(|_| MaskError::Malformed)?;
        if usize::try_from(count) != Ok(self.masks.len()) {
            return Err(MaskError::Malformed);
        }
        out.put_i16(count);
        for mask in &self.masks {
            mask_value(&mut body, mask.as_ref(), &self.keys, out)?;
        }
        if body.is_empty() { Ok(()) } else { Err(MaskError::Malformed) }
    }
}

/// Moves one length-prefixed value from `body` to `out`, masked.
pub(super) fn mask_value(
    body: &mut &[u8],
    mask: Option<&ColumnMask>,
    keys: &Keys,
    out: &mut BytesMut,
) -> Result<(), MaskError> {
    let length = body.try_get_i32().map_err(|_| MaskError::Malformed)?;
    if length == -1 {
        out.put_i32(-1);
        return Ok(());
    }
    let value = usize::try_from(length).ok().and_then(|length| body.split_at_checked(length));
    let Some((value, rest)) = value else { return Err(MaskError::Malformed) };
    *body = rest;
    match mask {
        None => {
            out.put_i32(length);
            out.put_slice(value);
        }
        Some(mask) => {
            let at = out.len();
            // NULL, unless it becomes something: then its length.
            out.put_i32(-1);
            let start = out.len();
            if mask.replace(value, keys, out) {
                let length = i32::try_from(out.len().saturating_sub(start)).map_err(|_| MaskError::TooLarge)?;
                let place = out.get_mut(at..start).ok_or(MaskError::Malformed)?;
                place.copy_from_slice(&length.to_be_bytes());
            }
        }
    }
    Ok(())
}

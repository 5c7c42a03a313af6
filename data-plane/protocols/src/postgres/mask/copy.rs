//! Rows of COPY TO STDOUT.

use bytes::BytesMut;

use super::copy_binary::Binary;
use super::copy_text::Lines;
use super::value::{ColumnMask, Keys};
use super::{MaskError, Masking};
use crate::sql::{Copy, CopyDirection, CopyFormat, CopySource, Relation, Statement, Unclassifiable};

/// Longest row that is held while it is masked, in bytes (I11).
pub(super) const MAX_ROW: usize = 64 << 20;

/// Rewrites the CopyData of a masked COPY TO STDOUT: bytes in, bytes out, in any split.
#[derive(Debug)]
pub struct CopyMask {
    masks: Masks,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    Lines(Lines),
    Binary(Binary),
}

/// The masks of a COPY's columns.
pub(super) struct Masks {
    columns: Columns,
    pub(super) keys: Keys,
    /// What stands where every column is masked.
    null: ColumnMask,
}

enum Columns {
    /// Every column, however many, becomes NULL.
    All,
    /// Every column, however many, is searched.
    Scan(ColumnMask),
    /// In the order of the rows.
    Each(Vec<Option<ColumnMask>>),
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Masks")
    }
}

impl Masks {
    /// The mask of a column; an error past the last one.
    pub(super) fn of(&self, column: usize) -> Result<Option<&ColumnMask>, MaskError> {
        match &self.columns {
            Columns::All => Ok(Some(&self.null)),
            Columns::Scan(mask) => Ok(Some(mask)),
            Columns::Each(masks) => masks.get(column).map(Option::as_ref).ok_or(MaskError::Malformed),
        }
    }

    /// Whether a row may have `count` columns.
    pub(super) fn fits(&self, count: usize) -> bool {
        match &self.columns {
            Columns::All | Columns::Scan(_) => true,
            Columns::Each(masks) => masks.len() == count,
        }
    }
}

impl CopyMask {
    /// For the COPY of `statement`; `None` when nothing is masked and CopyData passes as it is. Ask before the statement is forwarded.
    ///
    /// # Errors
    /// When rows need a mask and cannot be followed: the statement must be refused.
    pub fn for_copy(statement: &Statement, masking: &Masking) -> Result<Option<Self>, Unclassifiable> {
        let Some(copy) = &statement.copy else { return Ok(None) };
        if masking.is_empty() || copy.direction == CopyDirection::In {
            return Ok(None);
        }
        let binary = copy.format == CopyFormat::Binary;
        let columns = match &copy.source {
            CopySource::Relation(relation, names) => masking.copy_columns(relation, names, binary)?,
            CopySource::Query if masking.named && masking.copies_masked(statement) => Some(Columns::All),
            CopySource::Query => masking.scan_rows(binary),
        };
        let Some(columns) = columns else { return Ok(None) };
        let masks = Masks { columns, keys: masking.keys.clone(), null: ColumnMask::null() };
        Ok(Some(Self { masks, rows: rows(copy)? }))
    }

    /// Takes the payload of a CopyData; puts the masked rows that it completes into `out`, as payload.
    ///
    /// # Errors
    /// When the rows are not as the options say: the session must end.
    pub fn push(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), MaskError> {
        match &mut self.rows {
            Rows::Lines(lines) => lines.push(data, &self.masks, out),
            Rows::Binary(binary) => binary.push(data, &self.masks, out),
        }
    }

    /// At CopyDone.
    ///
    /// # Errors
    /// When a row is incomplete.
    pub fn finish(&mut self, _out: &mut BytesMut) -> Result<(), MaskError> {
        let rest = match &self.rows {
            Rows::Lines(lines) => lines.is_empty(),
            Rows::Binary(binary) => binary.is_empty(),
        };
        if rest { Ok(()) } else { Err(MaskError::Malformed) }
    }
}

fn rows(copy: &Copy) -> Result<Rows, Unclassifiable> {
    match &copy.format {
        CopyFormat::Text(text) => Ok(Rows::Lines(Lines::text(text.clone()))),
        CopyFormat::Csv { text, quote, escape } => Ok(Rows::Lines(Lines::csv(text.clone(), *quote, *escape))),
        CopyFormat::Binary => Ok(Rows::Binary(Binary::default())),
        CopyFormat::Unknown => {
            Err(Unclassifiable::unsupported("COPY of masked columns with options that Postern does not follow"))
        }
    }
}

impl Masking {
    /// The masks of a relation's rows in COPY; `None` when nothing is masked.
    fn copy_columns(
        &self,
        relation: &Relation,
        names: &[String],
        binary: bool,
    ) -> Result<Option<Columns>, Unclassifiable> {
        if relation.schema == "pg_catalog" || relation.schema == "information_schema" || relation.schema == "pg_temp" {
            return Ok(self.scan_rows(binary));
        }
        let Some((oid, known)) = self.catalog.relation(&relation.schema, &relation.name) else {
            return Err(Unclassifiable::doubt("COPY of a relation that the target's catalog does not hold"));
        };
        if !self.relations.contains_key(&oid) && self.scanner.is_none() {
            return Ok(None);
        }
        let mask = |number: i16, type_oid: u32| match self.column(oid, number) {
            Some(mask) => Some(ColumnMask::new(&mask, type_oid, binary)),
            None => self.scan(type_oid, binary),
        };
        let masks: Vec<Option<ColumnMask>> = if names.is_empty() {
            let stored = known.columns.iter().filter(|(_, column)| !column.generated);
            stored.map(|(number, column)| mask(*number, column.type_oid)).collect()
        } else {
            let named = |name: &String| {
                let found = known.columns.iter().find(|(_, column)| *column.name == **name);
                found.map(|(number, column)| mask(*number, column.type_oid))
            };
            names
                .iter()
                .map(named)
                .collect::<Option<_>>()
                .ok_or_else(|| Unclassifiable::doubt("COPY of a column that the target's catalog does not hold"))?
        };
        Ok(masks.iter().any(Option::is_some).then_some(Columns::Each(masks)))
    }

    /// For rows whose columns are not known: each is searched, or none.
    fn scan_rows(&self, binary: bool) -> Option<Columns> {
        let mask = |scanner| Columns::Scan(ColumnMask::scan_unknown(scanner, binary));
        self.scanner.as_ref().map(mask)
    }

    /// Whether a masked column may be among the rows of a COPY of a query.
    fn copies_masked(&self, statement: &Statement) -> bool {
        let facts = &statement.facts;
        let sight = self.sight(facts);
        let any = facts.any_shown || facts.star_shown || sight.told_by_rows(facts);
        facts.opaque_call || sight.unknown || sight.reaches(&facts.shown, any) || sight.reaches(&facts.plain, any)
    }
}

//! Prepared statements and portals, as the server has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use postern_core::id::OperationId;

use super::Session;
use super::flight::Expected;
use crate::postgres::analyze::{Statement, Texts};
use crate::postgres::codec::backend::FieldDescription;
use crate::postgres::codec::frontend::{Named, ResultFormats};

/// Most prepared statements of a session, and bytes of their texts (I11).
const MAX_STATEMENTS: usize = 4_000;
const MAX_STATEMENT_BYTES: usize = 16 << 20;
/// Most portals of a session.
const MAX_PORTALS: usize = 1_000;

/// Columns of a result, shared by all who need them.
pub(super) type Columns = Arc<[FieldDescription]>;

/// A prepared statement.
#[derive(Clone)]
pub(super) struct Prepared {
    /// Tells it from an earlier one of the same name.
    pub(super) id: u64,
    pub(super) text: Bytes,
    /// Types of its parameters, as Parse has them.
    pub(super) types: Bytes,
    pub(super) statement: Arc<Statement>,
    /// Of the session's names, when it was classified.
    pub(super) generation: u64,
    /// Its columns, once the server has told them; none for a statement that returns no rows.
    pub(super) columns: Option<Columns>,
    /// Made by PREPARE: `text` is that statement's, not its own.
    pub(super) by_sql: bool,
}

/// The prepared statement behind a portal.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) name: Bytes,
    pub(super) id: u64,
    pub(super) by_sql: bool,
    pub(super) types: Bytes,
    pub(super) columns: Option<Columns>,
}

/// A permitted operation that Execute runs.
#[derive(Clone)]
pub(super) struct Portal {
    pub(super) operation: OperationId,
    pub(super) statement: Arc<Statement>,
    pub(super) source: Source,
    pub(super) formats: ResultFormats,
    /// Policy binds how it runs.
    pub(super) bound: bool,
}

#[derive(Default)]
pub(super) struct Statements {
    map: BTreeMap<Bytes, Prepared>,
    bytes: usize,
    made: u64,
}

#[derive(Default)]
pub(super) struct Portals {
    map: BTreeMap<Bytes, Portal>,
}

/// What texts do in a session that reads names in its own way.
#[derive(Default)]
pub(super) struct OwnTexts {
    generation: u64,
    texts: Option<Arc<Texts>>,
}

/// What a name stands for at the place in the stream that is being read.
pub(super) enum Lookup<T> {
    Found(T),
    Unknown,
    /// It hangs on replies of earlier groups: wait for them.
    Unsettled,
}

impl Statements {
    pub(super) fn next_id(&mut self) -> u64 {
        self.made = self.made.wrapping_add(1);
        self.made
    }

    /// Whether another one with this text may be held.
    pub(super) fn admits(&self, name: &[u8], text: &[u8]) -> bool {
        name.is_empty()
            || (self.map.len() < MAX_STATEMENTS && self.bytes.saturating_add(text.len()) <= MAX_STATEMENT_BYTES)
    }

    pub(super) fn insert(&mut self, name: Bytes, prepared: Prepared) {
        self.remove(&name);
        self.bytes = self.bytes.saturating_add(prepared.text.len());
        self.map.insert(name, prepared);
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(old) = self.map.remove(name) {
            self.bytes = self.bytes.saturating_sub(old.text.len());
        }
    }

    /// Forgets every named one.
    pub(super) fn clear(&mut self) {
        self.map.clear();
        self.bytes = 0;
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Prepared> {
        self.map.get(name)
    }

    pub(super) fn set_columns(&mut self, name: &[u8], id: u64, columns: &Columns) {
        if let Some(prepared) = self.map.get_mut(name).filter(|prepared| prepared.id == id) {
            prepared.columns = Some(Arc::clone(columns));
        }
    }

    pub(super) fn reclassified(&mut self, name: &[u8], id: u64, statement: &Arc<Statement>, generation: u64) {
        if let Some(prepared) = self.map.get_mut(name).filter(|prepared| prepared.id == id) {
            prepared.statement = Arc::clone(statement);
            prepared.generation = generation;
        }
    }

    pub(super) fn forget_columns(&mut self) {
        self.map.values_mut().for_each(|prepared| prepared.columns = None);
    }
}

impl Portals {
    pub(super) fn admits(&self, name: &[u8]) -> bool {
        name.is_empty() || self.map.len() < MAX_PORTALS
    }

    pub(super) fn insert(&mut self, name: Bytes, portal: Portal) -> Option<Portal> {
        self.map.insert(name, portal)
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Portal> {
        self.map.remove(name)
    }

    pub(super) fn take_all(&mut self) -> Vec<Portal> {
        std::mem::take(&mut self.map).into_values().collect()
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Portal> {
        self.map.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.map.get_mut(name)
    }
}

impl OwnTexts {
    /// What was classified since names changed last.
    pub(super) fn of(&mut self, generation: u64) -> Arc<Texts> {
        if self.generation != generation {
            *self = Self { generation, texts: None };
        }
        Arc::clone(self.texts.get_or_insert_default())
    }
}

impl Session {
    /// The statement of this name, for a Bind that comes now.
    pub(super) fn find_statement(&self, wanted: &Bytes) -> Lookup<Prepared> {
        for (in_group, expected) in self.flight.newest_first() {
            let found = match expected {
                Expected::Parse { name, prepared } if name == wanted => Lookup::Found(prepared.clone()),
                Expected::Close(Named::Statement(name)) if name == wanted => Lookup::Unknown,
                // A simple query forgets the unnamed statement.
                Expected::Query { .. } if wanted.is_empty() => Lookup::Unknown,
                _ => continue,
            };
            // Within a group, a failure skips this Bind too. Of an earlier group, the outcome must be known.
            return if in_group { found } else { Lookup::Unsettled };
        }
        self.statements.get(wanted).map_or(Lookup::Unknown, |prepared| Lookup::Found(prepared.clone()))
    }

    /// The portal of this name, for an Execute that comes now.
    pub(super) fn find_portal(&self, wanted: &Bytes) -> Lookup<Portal> {
        for (in_group, expected) in self.flight.newest_first() {
            // The end of an earlier group may be that of a transaction, and so of every portal.
            if !in_group {
                return Lookup::Unsettled;
            }
            match expected {
                Expected::Bind { name, portal } if name == wanted => return Lookup::Found(portal.clone()),
                Expected::Close(Named::Portal(name)) if name == wanted => return Lookup::Unknown,
                _ => {}
            }
        }
        self.portals.get(wanted).map_or(Lookup::Unknown, |portal| Lookup::Found(portal.clone()))
    }

    /// The columns of `portal`'s result, in the formats it asked for.
    pub(super) fn columns_of(&self, portal: &Portal) -> Option<Columns> {
        let known = portal.source.columns.as_ref().or_else(|| {
            let prepared = self.statements.get(&portal.source.name)?;
            prepared.columns.as_ref().filter(|_| prepared.id == portal.source.id)
        })?;
        if known.iter().enumerate().all(|(index, column)| column.binary == portal.formats.is_binary(index)) {
            return Some(Arc::clone(known));
        }
        let formatted = known.iter().enumerate().map(|(index, column)| {
            let mut column = column.clone();
            column.binary = portal.formats.is_binary(index);
            column
        });
        Some(formatted.collect())
    }

    /// Whether the server will have told the columns of this portal by the time that an Execute which comes now is answered.
    pub(super) fn columns_are_coming(&self, wanted: &Bytes) -> bool {
        let this_group = self.flight.newest_first().take_while(|(in_group, _)| *in_group);
        for (_, expected) in this_group {
            match expected {
                Expected::DescribePortal { name, .. } if name == wanted => return true,
                // Before its Bind, a Describe of the name was of another portal.
                Expected::Bind { name, .. } if name == wanted => return false,
                _ => {}
            }
        }
        false
    }
}

//! What a text does, and whether the session can follow it.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::names::Prepared;
use super::step::{Message as Held, Pending};
use crate::postgres::analyze::{self, CopyDirection, Statement, Unclassifiable, is_lasting};
use crate::postgres::catalog::Catalog;
use crate::postgres::mask::CopyMask;
use crate::sql::Relation;

impl Session {
    /// Classifies `text` as the server will read it now.
    pub(super) fn classify(&mut self, text: &[u8]) -> Result<Arc<Statement>, Unclassifiable> {
        let exactly = self.openness.followed().and_then(|()| self.classify_exactly(text));
        exactly.or_else(|why| self.pass_unfollowed(text, why))
    }

    /// The same of a text with parameters of these types, four bytes each: values of some are cast by functions that no text names.
    pub(super) fn classify_typed(&mut self, text: &[u8], types: &[u8]) -> Result<Arc<Statement>, Unclassifiable> {
        let own = |catalog: &Arc<Catalog>| {
            let (types, _) = types.as_chunks::<4>();
            // 0 is for the server to find, out of what stands beside it.
            let mut given = types.iter().map(|oid| u32::from_be_bytes(*oid)).filter(|oid| *oid != 0);
            given.any(|oid| catalog.is_cast_silently(oid))
        };
        if !self.is_open() && self.context.catalog.as_ref().is_some_and(own) {
            return Err(Unclassifiable::doubt("a parameter of a type that the database casts by functions of its own"));
        }
        self.classify(text)
    }

    fn classify_exactly(&mut self, text: &[u8]) -> Result<Arc<Statement>, Unclassifiable> {
        let texts = match self.names.is_untouched() {
            true => Arc::clone(&self.context.texts),
            false => self.own_texts.of(self.generation),
        };
        let statement = match texts.get(text) {
            Some(known) => known,
            None => {
                let statement = Arc::new(analyze::analyze(text, &self.context, &self.names)?);
                texts.put(text, &statement);
                statement
            }
        };
        self.admit(&statement)?;
        Ok(statement)
    }

    /// As [`Session::classify`], of a prepared statement: anew when what its names mean may have changed since.
    pub(super) fn classify_prepared(
        &mut self,
        name: &Bytes,
        found: &Prepared,
    ) -> Result<Arc<Statement>, Unclassifiable> {
        match self.classify_found(name, found) {
            Err(why) => self.pass_unfollowed(&found.text, why),
            classified => classified,
        }
    }

    fn classify_found(&mut self, name: &Bytes, found: &Prepared) -> Result<Arc<Statement>, Unclassifiable> {
        if found.generation == self.generation && is_lasting(&found.statement) {
            self.admit(&found.statement)?;
            return Ok(Arc::clone(&found.statement));
        }
        if found.by_sql {
            if found.generation != self.generation {
                return Err(Unclassifiable::doubt("names may have changed since PREPARE: prepare it again"));
            }
            self.admit(&found.statement)?;
            return Ok(Arc::clone(&found.statement));
        }
        let statement = self.classify_typed(&found.text, &found.types)?;
        self.statements.reclassified(name, found.id, &statement, self.generation);
        Ok(statement)
    }

    /// Classifies anew what waits to be decided, after [`Session::set_context`]: a name that was not known may be known now.
    pub fn reconsider(&mut self, pending: &mut Pending) {
        if pending.generation == self.generation {
            return;
        }
        match &mut pending.message {
            Held::Query { .. } => pending.classified = self.classify(&pending.text),
            Held::Parse { prepared: Some(prepared), .. } => {
                pending.classified = self.classify_typed(&pending.text, &prepared.types);
                if let Ok(statement) = &pending.classified {
                    prepared.statement = Arc::clone(statement);
                    prepared.generation = self.generation;
                }
            }
            Held::Bind { source, .. } if !source.by_sql => {
                pending.classified = self.classify(&pending.text);
                if let Ok(statement) = &pending.classified {
                    self.statements.reclassified(&source.name, source.id, statement, self.generation);
                }
            }
            // Refused already, or read by the names of its PREPARE.
            Held::Parse { prepared: None, .. }
            | Held::Bind { .. }
            | Held::Execute { .. }
            | Held::FunctionCall { .. } => return,
        }
        pending.generation = self.generation;
    }

    /// Relations that `pending` reads and the catalog does not know, where masks hold: they would have to take all of them for masked. What the session
    /// made itself is not among them, and mostly there are none.
    #[must_use]
    pub fn strangers(&self, pending: &Pending) -> Vec<Relation> {
        let Ok(statement) = &pending.classified else { return Vec::new() };
        let mut strangers = self.masking.strangers(statement);
        strangers.retain(|relation| !self.names.is_touched(&relation.name));
        strangers
    }

    /// Whether masks can be laid over it, and its effects be followed.
    fn admit(&self, statement: &Statement) -> Result<(), Unclassifiable> {
        self.masking.admit(statement)?;
        if statement.copy.as_ref().is_some_and(|copy| copy.direction == CopyDirection::Out) {
            CopyMask::for_copy(statement, &self.masking)?;
        }
        if !statement.effects.is_empty() && !self.is_open() {
            self.names.clone().begin(&statement.effects)?;
        }
        Ok(())
    }
}

//! Whether a statement can be planned on another connection than the session's, and by what.

use std::sync::Arc;

use bytes::Bytes;
use postern_core::action::ObjectKind;

use super::Session;
use super::step::{Message, Pending};
use crate::postgres::analyze::{self, Values};
use crate::sql::StatementKind;

/// By what another connection reads a statement as the session's own does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plannable {
    /// The session's search path.
    pub search_path: Vec<Arc<str>>,
    /// OIDs of the parameters' types, as the client gave them, four bytes each.
    pub types: Bytes,
}

/// Places of relations that no other connection has.
const OWN: [&str; 2] = ["?", "pg_temp"];

impl Session {
    /// How to plan `pending` elsewhere.
    ///
    /// # Errors
    /// Why it cannot be, in words for a reviewer: it has no plan, another connection would plan something else, or planning might run functions that
    /// nobody has permitted.
    pub fn plannable(&self, pending: &Pending) -> Result<Plannable, &'static str> {
        let Ok(statement) = &pending.classified else { return Err("it could not be classified") };
        let types = match &pending.message {
            Message::Query { .. } => Bytes::new(),
            Message::Bind { source, .. } if !source.by_sql => source.types.clone(),
            _ => return Err("it is not sent as a statement"),
        };
        match statement.kinds.as_slice() {
            [
                StatementKind::Select
                | StatementKind::Insert
                | StatementKind::Update
                | StatementKind::Delete
                | StatementKind::Merge,
            ] => {}
            [] | [_] => return Err("it has no plan"),
            _ => return Err("several statements are held together"),
        }
        let calls = statement.actions.iter().any(|action| action.object.kind == ObjectKind::Routine);
        if calls || statement.facts.opaque_call || statement.facts.unseen || statement.unfollowed.is_some() {
            return Err("it calls functions, which planning might run");
        }
        for relation in statement.facts.relations() {
            if OWN.contains(&&*relation.schema) || relation.name == "*" {
                return Err("it uses relations that only its own session has");
            }
            if self.names.is_touched(&relation.name) {
                return Err("its session has changed definitions that it uses");
            }
        }
        let path = self.names.only_path(&self.context.search_path);
        let path = path.ok_or("its search path may be one of several")?;
        Ok(Plannable { search_path: path.to_vec(), types })
    }

    /// What the values in `pending` may be set against.
    #[must_use]
    pub fn values(&self, pending: &Pending) -> Values {
        let (Ok(statement), Ok(text), Some(catalog)) =
            (&pending.classified, std::str::from_utf8(&pending.text), &self.context.catalog)
        else {
            return Values::default();
        };
        analyze::values(text, statement, catalog, &self.context.database, pending.parameters.len())
    }

    /// Whether the target waits for the session and not the other way round: then its limits on idle sessions count.
    #[must_use]
    pub fn target_is_idle(&self) -> bool {
        self.flight.is_empty() && !self.group_open
    }
}

//! What a session begins with where code of the database's own runs at the login (event triggers, from PostgreSQL 17 on): by the
//! application's name or the time it may give each session another search path. The session itself is asked, before its client is let in.

use std::sync::Arc;

use super::Session;
use crate::postgres::analyze::split_path;
use crate::sql::SessionEffect;

/// One row, by which [`Begun`] is read. Nothing in it is looked up by the search path that it asks for.
pub const QUERY: &str = "SELECT pg_catalog.current_setting('search_path'), \
     (SELECT s.reset_val FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'search_path'), \
     current_user::pg_catalog.text, session_user::pg_catalog.text, pg_catalog.pg_my_temp_schema()::pg_catalog.text";

/// What its names are looked up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    path: String,
    /// The search path that RESET and DISCARD give back.
    pub reset_path: String,
    role: String,
    /// The role is not the one that logged in, or something temporary was made already.
    otherwise: bool,
}

impl Begun {
    /// From the row of [`QUERY`]; `None` where it is not as asked for.
    #[must_use]
    pub fn read(row: &[String]) -> Option<Self> {
        let [path, reset_path, role, session, temporary] = row else { return None };
        let otherwise = role != session || temporary != "0";
        Some(Self { path: path.clone(), reset_path: reset_path.clone(), role: role.clone(), otherwise })
    }
}

impl Session {
    /// Takes the names that the session began with, which may be others than those of its context. Those that cannot be followed leave it in doubt.
    pub fn begin_as(&mut self, begun: &Begun) {
        let known = !begun.otherwise && *begun.role == *self.context.user && self.begin_on(begun);
        if !known {
            self.openness.begin_in_doubt();
        }
    }

    fn begin_on(&mut self, begun: &Begun) -> bool {
        if begun.path == begun.reset_path {
            return true;
        }
        let Ok(path) = split_path(&begun.path) else { return false };
        let path = path.into_iter().filter(|schema| !schema.is_empty()).map(Arc::from).collect();
        let effects = [SessionEffect::SearchPath { path: Some(path), certain: true }];
        let known = self.names.begin(&effects).is_ok();
        // It is in force: what RESET gives back is no longer, or not yet.
        self.names.complete(&effects, false);
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(row: &[&str]) -> Option<Begun> {
        Begun::read(&row.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_not_as_asked_for_is_not_taken() {
        assert!(read(&["a", "b", "app", "app"]).is_none());
        assert!(read(&[]).is_none());
        assert!(!read(&["a", "b", "app", "app", "0"]).unwrap().otherwise);
        for other in [["a", "b", "app", "clerk", "0"], ["a", "b", "app", "app", "16500"], ["a", "b", "app", "app", ""]]
        {
            assert!(read(&other).unwrap().otherwise, "{other:?}");
        }
    }
}

//! What names mean: the database's catalog and search path, and what this session has changed of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::known::Texts;
use crate::postgres::catalog::Catalog;
use crate::sql::{Facts, SessionEffect, Statement, Unclassifiable};

/// What the names of every session on one database are read by.
#[derive(Clone, Debug)]
pub struct AnalyzeContext {
    /// The database that the session is connected to.
    pub database: Arc<str>,
    /// The role that the gateway logged in as: `"$user"` in a search path.
    pub user: Arc<str>,
    /// The search path after login, as far as its schemas exist (`current_schemas(false)`).
    pub search_path: Vec<Arc<str>>,
    /// The database's relations. Without it, unqualified names resolve to schema `?`.
    pub catalog: Option<Arc<Catalog>>,
    /// Longest statement, in bytes.
    pub max_statement: usize,
    /// What was classified by the same names.
    pub(crate) texts: Arc<Texts>,
}

/// Names that this session has changed. Owned by the session; [`SessionNames::begin`] at the permit of a text,
/// [`SessionNames::complete`] at the ReadyForQuery after it if there was no error since. Whatever may or may not have happened (a transaction that may yet roll back) is
/// kept as a second possibility, and a statement then needs a permit for each.
#[derive(Clone, Debug, Default)]
pub struct SessionNames {
    /// Search paths that may hold; empty: the default one.
    paths: Vec<Option<Vec<Arc<str>>>>,
    prepared: BTreeMap<String, Vec<Known>>,
    /// Roles that may have been taken on.
    roles: BTreeSet<String>,
    /// Schemas that the catalog may not know yet.
    schemas: BTreeSet<String>,
    /// The catalog may be out of date about every name.
    touched_schemas: bool,
    cursors: BTreeMap<String, Cursor>,
    temporary: BTreeSet<String>,
    touched: BTreeSet<String>,
    /// Functions, operators and types that the catalog may not know yet: name to schemas.
    routines: BTreeMap<String, BTreeSet<String>>,
    /// What casts to a type of this name may call beside what the catalog knows.
    casts: BTreeMap<String, BTreeSet<[String; 2]>>,
    /// What casts may call that nobody writes, of whatever types.
    silent_casts: BTreeSet<[String; 2]>,
    /// Views that may come to `pg_settings`, those in no catalog among them.
    setting_views: BTreeSet<String>,
}

/// What a prepared statement may be.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// When it was prepared.
    pub(crate) statement: Arc<Statement>,
    /// Its text, of which the server may look up the names again at each EXECUTE.
    pub(crate) text: Arc<str>,
}

#[derive(Clone, Debug)]
struct Cursor {
    facts: Facts,
    hold: bool,
}

/// Names of each kind that a session may hold (I11).
const MAX_NAMES: usize = 4_096;
/// Search paths, roles and statements of one name that may hold at once.
const MAX_PATHS: usize = 8;
/// Bytes of the texts of prepared statements.
const MAX_TEXTS: usize = 16 << 20;

impl AnalyzeContext {
    /// For a database whose catalog has been read.
    #[must_use]
    pub fn new(database: &str, catalog: Arc<Catalog>, max_statement: usize) -> Self {
        Self {
            database: database.into(),
            user: catalog.user().into(),
            search_path: catalog.search_path().to_vec(),
            catalog: None,
            texts: Arc::default(),
            max_statement,
        }
        .set_out(catalog)
    }

    /// With the path as it was set: a schema that it names may yet be made, and `"$user"` may yet be another.
    fn set_out(self, catalog: Arc<Catalog>) -> Self {
        let declared = catalog.declared_path().and_then(|path| self.clone().beginning_with(path));
        let this = declared.unwrap_or(self);
        let texts = catalog.classified().by(&this.search_path);
        Self { catalog: Some(catalog), texts, ..this }
    }
}

impl AnalyzeContext {
    /// The same, for a session that began with this search path. None where it cannot be read.
    #[must_use]
    pub fn beginning_with(mut self, search_path: &str) -> Option<Self> {
        let path = super::settings::split_path(search_path).ok()?;
        self.search_path = path.into_iter().filter(|schema| !schema.is_empty()).map(Arc::from).collect();
        self.texts =
            self.catalog.as_ref().map(|catalog| catalog.classified().by(&self.search_path)).unwrap_or_default();
        Some(self)
    }
}

impl SessionNames {
    /// Before a statement with these effects is forwarded: from now on they may hold.
    ///
    /// # Errors
    /// When the session holds too many names; the statement must be refused.
    pub fn begin(&mut self, effects: &[SessionEffect]) -> Result<(), Unclassifiable> {
        for effect in effects {
            match effect {
                SessionEffect::Prepared { name, statement, text } => self.prepare(name, statement, text)?,
                SessionEffect::Role(role) => {
                    if !self.roles.contains(role) {
                        bounded(self.roles.len(), MAX_PATHS)?;
                        self.roles.insert(role.clone());
                    }
                }
                SessionEffect::CreatedSchema(name) => {
                    bounded(self.schemas.len(), MAX_NAMES)?;
                    self.schemas.insert(name.clone());
                }
                SessionEffect::TouchedSchemas => self.touched_schemas = true,
                SessionEffect::CursorDeclared { name, facts, hold } => {
                    bounded(self.cursors.len(), MAX_NAMES)?;
                    let cursor = self
                        .cursors
                        .entry(name.clone())
                        .or_insert_with(|| Cursor { facts: Facts::default(), hold: false });
                    cursor.facts.absorb(facts);
                    cursor.hold |= hold;
                }
                SessionEffect::SearchPath { path, .. } => {
                    if self.paths.is_empty() {
                        self.paths.push(None);
                    }
                    if !self.paths.contains(path) {
                        bounded(self.paths.len(), MAX_PATHS)?;
                        self.paths.push(path.clone());
                    }
                }
                SessionEffect::CreatedTemporary(name) => {
                    bounded(self.temporary.len(), MAX_NAMES)?;
                    self.temporary.insert(name.clone());
                }
                SessionEffect::Touched(name) => {
                    bounded(self.touched.len(), MAX_NAMES)?;
                    self.touched.insert(name.clone());
                }
                SessionEffect::CreatedRoutine { schema, name } => {
                    bounded(self.routines.len(), MAX_NAMES)?;
                    let schemas = self.routines.entry(name.clone()).or_default();
                    bounded(schemas.len(), MAX_NAMES)?;
                    schemas.insert(schema.clone());
                }
                SessionEffect::CreatedCast { to, calls, silent } => {
                    bounded(self.casts.len(), MAX_NAMES)?;
                    let known = self.casts.entry(to.clone()).or_default();
                    bounded(known.len().saturating_add(calls.len()), MAX_NAMES)?;
                    known.extend(calls.iter().cloned());
                    if *silent {
                        bounded(self.silent_casts.len().saturating_add(calls.len()), MAX_NAMES)?;
                        self.silent_casts.extend(calls.iter().cloned());
                    }
                }
                SessionEffect::SettingView(name) => {
                    bounded(self.setting_views.len(), MAX_NAMES)?;
                    self.setting_views.insert(name.clone());
                }
                SessionEffect::Discarded => {
                    if !self.paths.is_empty() && !self.paths.contains(&None) {
                        self.paths.push(None);
                    }
                }
                SessionEffect::Deallocated(_) | SessionEffect::CursorClosed(_) | SessionEffect::Unknown => {}
            }
        }
        Ok(())
    }

    /// At the ReadyForQuery after the text with these effects, if no error came since; `in_transaction` when it reports a transaction, which
    /// may yet undo them.
    pub fn complete(&mut self, effects: &[SessionEffect], in_transaction: bool) {
        for effect in effects {
            match effect {
                SessionEffect::Deallocated(name) => match name {
                    Some(name) => drop(self.prepared.remove(name)),
                    None => self.prepared.clear(),
                },
                SessionEffect::CursorClosed(name) => match name {
                    Some(name) => drop(self.cursors.remove(name)),
                    None => self.cursors.clear(),
                },
                SessionEffect::SearchPath { path, certain: true } if !in_transaction => self.paths = vec![path.clone()],
                SessionEffect::Discarded if !in_transaction => *self = Self::default(),
                SessionEffect::CursorDeclared { name, facts, hold } => {
                    // It succeeded, so no other cursor has the name.
                    self.cursors.insert(name.clone(), Cursor { facts: Facts::clone(facts), hold: *hold });
                }
                SessionEffect::Prepared { name, statement, text } => {
                    // It succeeded, so no other statement has the name.
                    let known = Known { statement: Arc::clone(statement), text: Arc::clone(text) };
                    self.prepared.insert(name.clone(), vec![known]);
                }
                SessionEffect::SearchPath { .. }
                | SessionEffect::Role(_)
                | SessionEffect::CreatedSchema(_)
                | SessionEffect::TouchedSchemas
                | SessionEffect::Discarded
                | SessionEffect::CreatedTemporary(_)
                | SessionEffect::Touched(_)
                | SessionEffect::CreatedRoutine { .. }
                | SessionEffect::CreatedCast { .. }
                | SessionEffect::SettingView(_)
                | SessionEffect::Unknown => {}
            }
        }
    }

    /// The session left its transaction: cursors without HOLD are gone.
    pub fn transaction_ended(&mut self) {
        self.cursors.retain(|_, cursor| cursor.hold);
    }

    /// The catalog was read anew, outside any transaction of this session.
    pub fn catalog_renewed(&mut self) {
        self.touched.clear();
        self.schemas.clear();
        self.routines.clear();
        self.casts.clear();
        self.silent_casts.clear();
        self.touched_schemas = false;
    }

    /// Names a statement that was parsed by the extended protocol: it shares its names with PREPARE.
    ///
    /// # Errors
    /// When the session holds too many names.
    pub fn prepare(&mut self, name: &str, statement: &Arc<Statement>, text: &Arc<str>) -> Result<(), Unclassifiable> {
        bounded(self.prepared.len(), MAX_NAMES)?;
        let held = self.prepared.values().flatten().map(|known| known.text.len());
        bounded(held.fold(text.len(), usize::saturating_add), MAX_TEXTS)?;
        let known = self.prepared.entry(name.to_owned()).or_default();
        if !known.iter().any(|known| known.statement == *statement && known.text == *text) {
            bounded(known.len(), MAX_PATHS)?;
            known.push(Known { statement: Arc::clone(statement), text: Arc::clone(text) });
        }
        Ok(())
    }

    /// The prepared statement of this name was closed.
    pub fn deallocate(&mut self, name: &str) {
        self.prepared.remove(name);
    }

    /// What the prepared statement of this name may be.
    #[must_use]
    pub(crate) fn prepared(&self, name: &str) -> &[Known] {
        self.prepared.get(name).map_or(&[], Vec::as_slice)
    }

    /// What FETCH from the cursor of this name may show.
    #[must_use]
    pub fn cursor(&self, name: &str) -> Option<&Facts> {
        self.cursors.get(name).map(|cursor| &cursor.facts)
    }

    /// Whether every name but a prepared statement's or a cursor's means what it did when the session began.
    pub(crate) fn is_untouched(&self) -> bool {
        let Self {
            paths,
            prepared: _,
            roles,
            schemas,
            touched_schemas,
            cursors: _,
            temporary,
            touched,
            routines,
            casts,
            silent_casts,
            setting_views,
        } = self;
        let none = [roles, schemas, temporary, touched, setting_views].iter().all(|names| names.is_empty());
        none && paths.is_empty()
            && !touched_schemas
            && routines.is_empty()
            && casts.is_empty()
            && silent_casts.is_empty()
    }

    /// Whether any cursor may be open.
    #[must_use]
    pub fn has_cursors(&self) -> bool {
        !self.cursors.is_empty()
    }

    /// Whether a temporary relation of this name may exist.
    #[must_use]
    pub fn is_temporary(&self, name: &str) -> bool {
        self.temporary.contains(name) || is_with_any(&self.temporary, name)
    }

    /// Whether the catalog may be out of date about this name.
    #[must_use]
    pub fn is_touched(&self, name: &str) -> bool {
        self.touched_schemas || self.touched.contains(name) || is_with_any(&self.touched, name)
    }

    /// Schemas in which the session has made a function, operator or type of this name, which the catalog may not know.
    pub(crate) fn made_routines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.routines.get(name).into_iter().flatten().map(String::as_str)
    }

    /// What a cast to a type of this name may call, that the catalog may not know.
    pub(crate) fn made_casts(&self, to: &str) -> impl Iterator<Item = &[String; 2]> {
        self.casts.get(to).into_iter().flatten()
    }

    /// What casts that nobody writes may call, that the catalog may not know.
    pub(crate) const fn made_silent_casts(&self) -> &BTreeSet<[String; 2]> {
        &self.silent_casts
    }

    /// Whether a view of this name was made here that may come to `pg_settings`.
    pub(crate) fn is_setting_view(&self, name: &str) -> bool {
        self.setting_views.contains(name)
    }

    /// Whether schemas may have other names than the catalog says.
    pub(crate) const fn has_touched_schemas(&self) -> bool {
        self.touched_schemas
    }

    /// Roles that may have been taken on beside the one of the login.
    pub(crate) const fn roles(&self) -> &BTreeSet<String> {
        &self.roles
    }

    /// Whether the session has made a schema of this name, which the catalog may not know.
    pub(crate) fn has_made_schema(&self, name: &str) -> bool {
        self.schemas.contains(name)
    }

    /// The search path that holds, when it can be but one; `default` is the one after login.
    #[must_use]
    pub fn only_path<'a>(&'a self, default: &'a [Arc<str>]) -> Option<&'a [Arc<str>]> {
        match self.paths(default).as_slice() {
            [path] => Some(path),
            _ => None,
        }
    }

    /// The search paths that may hold; `default` is the one after login.
    pub(crate) fn paths<'a>(&'a self, default: &'a [Arc<str>]) -> Vec<&'a [Arc<str>]> {
        if self.paths.is_empty() {
            return vec![default];
        }
        self.paths.iter().map(|path| path.as_deref().unwrap_or(default)).collect()
    }
}

/// Whether the server may have named it itself after one of `tables`: an index or a sequence that came with it.
fn is_with_any(tables: &BTreeSet<String>, name: &str) -> bool {
    /// ChooseRelationName of PostgreSQL cuts longer ones, anywhere.
    const WHOLE: usize = 60;
    if tables.is_empty() {
        return false;
    }
    let numbered = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let endings = ["_pkey", "_key", "_idx", "_excl", "_seq"];
    let parts = || name.match_indices('_').filter_map(|(end, _)| name.get(..end));
    endings.iter().any(|ending| numbered.ends_with(ending))
        && (name.len() >= WHOLE || parts().any(|part| tables.contains(part)))
}

fn bounded(count: usize, limit: usize) -> Result<(), Unclassifiable> {
    if count < limit {
        return Ok(());
    }
    Err(Unclassifiable::too_large("the session holds too many prepared statements, cursors or changed names"))
}

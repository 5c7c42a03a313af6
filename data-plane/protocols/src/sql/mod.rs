//! What a SQL text does, in terms that no dialect owns: actions for policy, facts for masking, effects on the session's names.

mod facts;

use std::sync::Arc;

use postern_core::Code;
use postern_core::action::{Action, Object, ObjectKind, Verb};

pub use facts::{Facts, Relation};

/// A classified SQL text: one statement, or several sent together, which are decided together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Everything that it does, each once. Empty: nothing that policy speaks of.
    pub actions: Vec<Action>,
    /// Its statements, in order. Empty for an empty text.
    pub kinds: Vec<StatementKind>,
    /// What masking needs to know of it.
    pub facts: Facts,
    /// What it does to the names that later statements are read by, in order.
    pub effects: Vec<SessionEffect>,
    /// When it is a COPY to or from the client. A text holds at most one.
    pub copy: Option<Copy>,
    /// It makes, drops or renames relations: the catalog is stale after it.
    pub changes_catalog: bool,
    /// Why it could not be classified, where it passes all the same: to whom everything is granted.
    pub unfollowed: Option<Box<Unclassifiable>>,
}

/// What one statement is, for tags, metrics and the session's bookkeeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// SELECT, TABLE, VALUES.
    Select,
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// MERGE.
    Merge,
    /// COPY.
    Copy,
    /// EXPLAIN.
    Explain,
    /// PREPARE, DEALLOCATE.
    Prepare,
    /// EXECUTE.
    Execute,
    /// DECLARE, FETCH, MOVE, CLOSE.
    Cursor,
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT and their like.
    Transaction,
    /// SET, RESET, SHOW, DISCARD.
    Setting,
    /// CREATE, ALTER, DROP and all else that changes definitions.
    Definition,
    /// Everything else.
    Utility,
}

/// Which way a COPY's rows go, and how they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// To or from the client.
    pub direction: CopyDirection,
    /// What its rows are.
    pub source: CopySource,
    /// How its rows are written.
    pub format: CopyFormat,
}

/// Which way a COPY's rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    /// COPY FROM STDIN.
    In,
    /// COPY TO STDOUT.
    Out,
}

/// What a COPY's rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// Rows of a relation; of these columns, or of all that it has when empty.
    Relation(Relation, Vec<String>),
    /// Rows of a query.
    Query,
}

/// How a COPY's rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// Tab-separated, with backslashes, unless the options say otherwise.
    Text(CopyText),
    /// CSV.
    Csv {
        /// What it shares with text.
        text: CopyText,
        /// Encloses values.
        quote: u8,
        /// Precedes a quote inside quotes.
        escape: u8,
    },
    /// PostgreSQL's binary form.
    Binary,
    /// Options that Postern does not follow: rows that need a mask are refused.
    Unknown,
}

/// Options that text and CSV share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyText {
    /// Between values.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: Vec<u8>,
    /// Whether the first line names the columns.
    pub header: bool,
}

/// What a statement does to the names that later statements are read by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEffect {
    /// PREPARE.
    Prepared {
        /// Its name.
        name: String,
        /// What EXECUTE of it does, as long as its names mean what they do now.
        statement: Arc<Statement>,
        /// The statement's text, PREPARE and all.
        text: Arc<str>,
    },
    /// DEALLOCATE; of all when `None`.
    Deallocated(Option<String>),
    /// DECLARE.
    CursorDeclared {
        /// Its name.
        name: String,
        /// What FETCH from it shows.
        facts: Arc<Facts>,
        /// WITH HOLD: outlives the transaction.
        hold: bool,
    },
    /// CLOSE; of all when `None`.
    CursorClosed(Option<String>),
    /// The search path changes.
    SearchPath {
        /// To these schemas; to the session's default when `None`.
        path: Option<Vec<Arc<str>>>,
        /// By a plain SET: once it has completed outside a transaction, no other path can hold.
        certain: bool,
    },
    /// SET ROLE, SET SESSION AUTHORIZATION: `"$user"` may mean this role's schema, and other schemas may be out of reach.
    Role(String),
    /// A schema of this name was made.
    CreatedSchema(String),
    /// Schemas were dropped, renamed or granted: until the catalog is read anew, any name may mean several.
    TouchedSchemas,
    /// CREATE TEMPORARY of a relation with this name.
    CreatedTemporary(String),
    /// A relation of this name was made, dropped or renamed: until the catalog is read anew, the name may mean several.
    Touched(String),
    /// A function, operator or type was made here, or came to have this schema and name: until the catalog is read anew, a call may mean it.
    CreatedRoutine {
        /// Its schema; `?` when it is not known.
        schema: String,
        /// Its name.
        name: String,
    },
    /// A cast, or the check of a domain, was made: until the catalog is read anew, a cast to a type of this name may call these.
    CreatedCast {
        /// The type's name.
        to: String,
        /// Schemas and names of what may be called.
        calls: Vec<[String; 2]>,
        /// Nobody need write it: AS IMPLICIT, AS ASSIGNMENT.
        silent: bool,
    },
    /// A view of this name may be updatable, and what it comes to is `pg_settings`.
    SettingView(String),
    /// DISCARD ALL: as after login.
    Discarded,
    /// Whatever it may be: it could not be classified.
    Unknown,
}

/// The text is not let through, because what it does is in doubt (I3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unclassifiable {
    /// For the client: [`Code::Unclassifiable`], [`Code::SyntaxError`], [`Code::Unsupported`] or [`Code::TooLarge`].
    pub code: Code,
    /// For the client and the recording. Holds no literal of the statement.
    pub reason: String,
}

impl Unclassifiable {
    /// In doubt.
    pub fn doubt(reason: impl Into<String>) -> Self {
        Self { code: Code::Unclassifiable, reason: reason.into() }
    }

    /// Not of the target's grammar. The parser's own words would quote the text, so they go nowhere.
    #[must_use]
    pub fn syntax() -> Self {
        Self { code: Code::SyntaxError, reason: "syntax error: the statement cannot be parsed".into() }
    }

    /// Understood, and not supported.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self { code: Code::Unsupported, reason: reason.into() }
    }

    /// Past a limit.
    pub fn too_large(reason: impl Into<String>) -> Self {
        Self { code: Code::TooLarge, reason: reason.into() }
    }
}

/// Most actions of a text. One more is kept, to tell.
const MAX_ACTIONS: usize = 1_000;
/// Most names of columns that one text mentions.
const MAX_COLUMNS: usize = 5_000;
/// Most relations whose definition one text changes, and other effects on names.
const MAX_EFFECTS: usize = 4_000;

impl Statement {
    /// Whether it has outgrown what is worth deciding (I11): then some of it may be missing here.
    pub(crate) fn is_too_large(&self) -> bool {
        let facts = &self.facts;
        self.actions.len() > MAX_ACTIONS
            || self.effects.len() > MAX_EFFECTS
            || facts.shown.len() > MAX_COLUMNS
            || facts.plain.len() > MAX_COLUMNS
            || facts.written.len() > MAX_COLUMNS
            || facts.computed.len() > MAX_COLUMNS
            || facts.assigned.len() > MAX_COLUMNS
    }

    /// Adds an action, once.
    pub(crate) fn act(&mut self, verb: Verb, object: Object) {
        self.act_bounded(verb, object, None);
    }

    /// Adds an action that a WHERE clause may bound, once.
    pub(crate) fn act_bounded(&mut self, verb: Verb, object: Object, bounded: Option<bool>) {
        let action = Action::new(verb, object).bounded(bounded);
        if self.actions.len() <= MAX_ACTIONS && !self.actions.contains(&action) {
            self.actions.push(action);
        }
    }

    /// Adds an action on `kind:path`.
    pub(crate) fn act_on<P: Into<Arc<str>>>(
        &mut self,
        verb: Verb,
        kind: ObjectKind,
        path: impl IntoIterator<Item = P>,
    ) {
        self.act(verb, Object::new(kind, path));
    }

    /// Adds all that `other` does, as EXECUTE does of what it executes.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for action in &other.actions {
            if self.actions.len() <= MAX_ACTIONS && !self.actions.contains(action) {
                self.actions.push(action.clone());
            }
        }
        self.facts.absorb(&other.facts);
        self.changes_catalog |= other.changes_catalog;
        if let Some(why) = &other.unfollowed {
            self.unfollowed.get_or_insert_with(|| why.clone());
            self.effects.push(SessionEffect::Unknown);
        }
    }
}

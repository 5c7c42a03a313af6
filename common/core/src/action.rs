//! What an operation does, in policy's terms.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What is done. The text form is what policies and recordings say.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Verb {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Verb {
            /// Every verb.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable text form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

verbs! {
    /// Reads rows: SELECT, TABLE, COPY TO, RETURNING, and every relation a writing statement reads.
    SqlSelect = "sql:select";
    /// INSERT, COPY FROM, MERGE that inserts.
    SqlInsert = "sql:insert";
    /// UPDATE, ON CONFLICT DO UPDATE, MERGE that updates, SELECT FOR UPDATE.
    SqlUpdate = "sql:update";
    /// DELETE, MERGE that deletes.
    SqlDelete = "sql:delete";
    /// TRUNCATE.
    SqlTruncate = "sql:truncate";
    /// CREATE of anything.
    SqlCreate = "sql:create";
    /// ALTER, COMMENT, RENAME.
    SqlAlter = "sql:alter";
    /// DROP of anything.
    SqlDrop = "sql:drop";
    /// GRANT, REVOKE, roles and their memberships, policies, owners, default privileges.
    SqlGrant = "sql:grant";
    /// Calls a function or procedure that is not known to be harmless.
    SqlCall = "sql:call";
    /// VACUUM, ANALYZE, REINDEX, CLUSTER, REFRESH MATERIALIZED VIEW, CHECKPOINT.
    SqlMaintain = "sql:maintain";
    /// LOCK.
    SqlLock = "sql:lock";
    /// LISTEN, UNLISTEN, NOTIFY.
    SqlNotify = "sql:notify";
    /// SET or RESET of a setting that changes what statements mean or are allowed to do.
    SqlSet = "sql:set";
    /// SET ROLE, SET SESSION AUTHORIZATION.
    SqlSetRole = "sql:set-role";
    /// Touches the server's file system or starts programs there.
    SqlServerFile = "sql:server-file";
    /// ALTER SYSTEM, LOAD, extensions, languages, subscriptions, publications: the server itself.
    SqlAdmin = "sql:admin";
    /// What is executed cannot be seen: DO, EXECUTE of a string. Only a policy that names it or grants `*` permits it.
    SqlOpaque = "sql:opaque";
}

/// What an action acts on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Object {
    /// The kind of thing.
    pub kind: ObjectKind,
    /// From the widest part to the narrowest, for a relation: database, schema, table. Never empty.
    pub path: Vec<Arc<str>>,
}

/// Kinds of things that actions act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// Table, view, sequence, index: `database.schema.name`.
    Relation,
    /// Function, procedure, aggregate, operator, type: `database.schema.name`.
    Routine,
    /// `database.schema`.
    Schema,
    /// `database`.
    Database,
    /// A role of the server.
    Role,
    /// A setting.
    Setting,
    /// Notification channel.
    Channel,
    /// The server, or anything else that has no place of its own.
    Server,
}

/// One thing done to one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Action {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub object: Object,
    /// For UPDATE and DELETE: whether a WHERE clause bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounded: Option<bool>,
    /// Of a relation that is read, or whose rows are set: at least those of its columns that are, by name. None: not known, any may be meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Of what is read: the rows that the statement itself asks for at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What is called by all that is sent together with it. None: not known, so anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<Calls>,
}

/// Of which kinds functions are that a statement calls, or that run because of it. What is not known is of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Calls {
    /// Any that is volatile. Those of the system that are known to be harmless do not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub volatile: bool,
    /// Any that runs as its owner (SECURITY DEFINER).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub definer: bool,
}

impl Calls {
    /// Where nothing is known.
    pub const ANY: Self = Self { volatile: true, definer: true };

    /// What either calls.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { volatile: self.volatile || other.volatile, definer: self.definer || other.definer }
    }
}

/// Names of columns, each once, in order. Shared: a statement is classified once and runs often.
pub type Columns = Arc<[Arc<str>]>;

/// The text names no verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such action")]
pub struct UnknownVerb;

impl FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        Self::ALL.iter().copied().find(|verb| verb.as_str() == text).ok_or(UnknownVerb)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ObjectKind {
    /// The stable text form, as in `function:public.*`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relation => "relation",
            Self::Routine => "function",
            Self::Schema => "schema",
            Self::Database => "database",
            Self::Role => "role",
            Self::Setting => "setting",
            Self::Channel => "channel",
            Self::Server => "server",
        }
    }
}

impl Action {
    /// `verb` on `object`; nothing more is known of it.
    #[must_use]
    pub const fn new(verb: Verb, object: Object) -> Self {
        Self { verb, object, bounded: None, columns: None, limit: None, calls: None }
    }

    /// The same, and whether a WHERE clause bounds it.
    #[must_use]
    pub fn bounded(self, bounded: Option<bool>) -> Self {
        Self { bounded, ..self }
    }
}

impl Object {
    /// An object of `kind` at `path`, from the widest part to the narrowest.
    pub fn new<P: Into<Arc<str>>>(kind: ObjectKind, path: impl IntoIterator<Item = P>) -> Self {
        Self { kind, path: path.into_iter().map(Into::into).collect() }
    }
}

/// `database.schema.table`, or `kind:path` for what is no relation.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != ObjectKind::Relation {
            write!(f, "{}:", self.kind.as_str())?;
        }
        for (place, part) in self.path.iter().enumerate() {
            if place > 0 {
                f.write_str(".")?;
            }
            f.write_str(part)?;
        }
        Ok(())
    }
}

/// `sql:select on shop.public.customers`
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.verb, self.object)?;
        if self.bounded == Some(false) {
            f.write_str(" (all rows)")?;
        }
        Ok(())
    }
}

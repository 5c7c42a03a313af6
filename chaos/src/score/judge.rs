//! Whether what was read out of a statement is what the server says of it.

use postern_core::action::{Action, ObjectKind, Verb};
use postern_protocols::postgres::analyze::{Statement, StatementKind, Unclassifiable};

use super::tree::{DELETE, INSERT, SELECT, UPDATE};

/// What the server says.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Schema, name and permissions of each relation.
    pub relations: Vec<(String, String, u32)>,
    /// Functions that are called by name.
    pub functions: Vec<Function>,
    /// Functions behind casts.
    pub casts: Vec<Function>,
    /// Functions behind operators.
    pub operators: Vec<Function>,
    /// Of definitions: made or dropped, the command's tag, the kind of object, the parts of its name.
    pub objects: Vec<Vec<String>>,
    /// It was given a transaction id: something was written.
    pub wrote: bool,
}

/// A function as the catalogue has it.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Made by initdb.
    pub system: bool,
    /// Not the same each time, or with an effect.
    pub volatile: bool,
    /// In C: made by a superuser.
    pub compiled: bool,
    /// The operator that it stands behind.
    pub symbol: Option<String>,
}

/// What came of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Exactly what the server says.
    Exact,
    /// More than it says, or less certain: names left open, code that cannot be seen.
    Cautious,
    /// Not let through at all.
    Refused,
    /// The server does something that was not read out of it.
    Wrong,
    /// The server refuses it before it tells.
    Unjudged,
}

/// Of one statement.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Its kind.
    pub kind: String,
    /// How it was judged.
    pub class: Class,
    /// What was wrong, or why it was refused.
    pub why: Vec<String>,
    /// Volatile functions of the system that were taken as harmless.
    pub volatile: Vec<String>,
}

impl Judgement {
    pub(super) fn refused(why: &Unclassifiable) -> Self {
        Self { kind: "none".into(), class: Class::Refused, why: vec![why.reason.clone()], volatile: Vec::new() }
    }

    pub(super) fn unjudged(statement: &Statement) -> Self {
        Self { kind: kind(statement), class: Class::Unjudged, why: Vec::new(), volatile: Vec::new() }
    }
}

fn kind(statement: &Statement) -> String {
    match statement.kinds.as_slice() {
        [kind] => format!("{kind:?}").to_lowercase(),
        [] => "none".to_owned(),
        _ => "several".to_owned(),
    }
}

/// Compares.
pub(super) fn compare(statement: &Statement, found: &Found, database: &str) -> Judgement {
    let mut wrong = Vec::new();
    let mut exact = statement.unfollowed.is_none();
    // What runs unseen may do anything, and is permitted as that alone.
    let unseen = statement.actions.iter().any(|action| matches!(action.verb, Verb::SqlOpaque | Verb::SqlCall));
    for (schema, name, permissions) in &found.relations {
        for (bit, verb) in
            [(SELECT, Verb::SqlSelect), (INSERT, Verb::SqlInsert), (UPDATE, Verb::SqlUpdate), (DELETE, Verb::SqlDelete)]
        {
            if permissions & bit != 0 {
                match names(statement, |action| action.verb == verb, [database, schema, name]) {
                    Named::Exactly => {}
                    Named::Openly => exact = false,
                    Named::Not => wrong.push(format!("{verb} on {schema}.{name}")),
                }
            }
        }
    }
    exact &= !says_more(statement, found);
    let mut volatile = Vec::new();
    let called = found.functions.iter().chain(&found.casts).chain(&found.operators);
    for function in called {
        let names = [Some(&function.name), function.symbol.as_ref()];
        let acted = statement.actions.iter().any(|action| {
            action.object.path.last().is_some_and(|last| names.iter().flatten().any(|name| ***name == **last))
        });
        let cast = found.casts.iter().any(|cast| cast.name == function.name);
        let behind = (function.symbol.is_some() || cast) && function.compiled;
        match (acted, function.system || behind) {
            (true, _) => {}
            (false, true) => {
                if function.volatile {
                    volatile.push(function.name.clone());
                }
            }
            (false, false) => wrong.push(format!("calls {}.{}", function.schema, function.name)),
        }
    }
    let assigned = found.functions.iter().any(|function| function.system && assigns(&function.name));
    // ROLLBACK TO is given an id by what went before.
    let transaction = statement.kinds.contains(&StatementKind::Transaction);
    if found.wrote && !writes(statement) && !unseen && !assigned && !transaction {
        wrong.push("writes something".to_owned());
    }
    for object in &found.objects {
        if let Some(fault) = defines(statement, object, &mut exact).filter(|_| !unseen) {
            wrong.push(fault);
        }
    }
    exact &= !unseen;
    let class = match (wrong.is_empty(), exact) {
        (false, _) => Class::Wrong,
        (true, true) => Class::Exact,
        (true, false) => Class::Cautious,
    };
    Judgement { kind: kind(statement), class, why: wrong, volatile }
}

enum Named {
    Exactly,
    /// With a part that is left open.
    Openly,
    Not,
}

fn names(statement: &Statement, of: impl Fn(&Action) -> bool, path: [&str; 3]) -> Named {
    let mut openly = false;
    for action in statement.actions.iter().filter(|action| of(action)) {
        let found: Vec<&str> = action.object.path.iter().map(|part| &**part).collect();
        if found == path {
            return Named::Exactly;
        }
        openly |= matches!(found.as_slice(), [_, "?", name] if *name == path[2] || *name == "?");
    }
    if openly { Named::Openly } else { Named::Not }
}

/// Whether it names relations that the server does not.
fn says_more(statement: &Statement, found: &Found) -> bool {
    let rows = |verb| matches!(verb, Verb::SqlSelect | Verb::SqlInsert | Verb::SqlUpdate | Verb::SqlDelete);
    statement.actions.iter().any(|action| {
        let there = || {
            let [_, schema, name] = action.object.path.as_slice() else { return false };
            found.relations.iter().any(|(known, other, _)| **known == **schema && **other == **name)
        };
        rows(action.verb) && action.object.kind == ObjectKind::Relation && !found.relations.is_empty() && !there()
    })
}

fn writes(statement: &Statement) -> bool {
    statement.actions.iter().any(|action| !matches!(action.verb, Verb::SqlSelect | Verb::SqlSet | Verb::SqlSetRole))
        || statement.kinds.iter().any(|kind| matches!(kind, StatementKind::Cursor | StatementKind::Execute))
}

/// Functions whose very purpose it is to have an id assigned.
fn assigns(name: &str) -> bool {
    matches!(name, "txid_current" | "pg_current_xact_id")
}

/// Whether a schema is that of the session's temporary relations.
fn is_temporary(schema: &str) -> bool {
    schema.starts_with("pg_temp")
}

/// Of a definition: whether some action names the object.
fn defines(statement: &Statement, object: &[String], exact: &mut bool) -> Option<String> {
    let [what, tag, kind, parts @ ..] = object else { return None };
    // The address of a type is one text. Of GRANT, no object is told.
    let all: Vec<String> =
        parts.iter().flat_map(|part| part.split('.')).map(|part| part.trim_matches('"').to_owned()).collect();
    if all.iter().all(String::is_empty) {
        return None;
    }
    // Of an operator class or family, the access method comes first.
    let skipped = usize::from(kind.starts_with("operator ") && all.len() > 2);
    let parts = all.get(skipped..).unwrap_or_default();
    let changing = |action: &&Action| {
        !matches!(action.verb, Verb::SqlSelect | Verb::SqlInsert | Verb::SqlUpdate | Verb::SqlDelete | Verb::SqlCall)
    };
    let mut open = false;
    for action in statement.actions.iter().filter(changing) {
        let path: Vec<&str> = action.object.path.iter().map(|part| &**part).collect();
        let class = action.object.kind;
        // An index that is not named is given its name by the server.
        let unnamed = kind == "index" && action.verb == Verb::SqlCreate && class == ObjectKind::Relation;
        let named = unnamed || parts.iter().any(|part| path.last() == Some(&part.as_str()));
        let schema = parts.first().map(String::as_str);
        let placed = match path.as_slice() {
            [_, "?", _] => {
                open = true;
                true
            }
            [_, known, _] => schema.is_none_or(|schema| {
                schema == *known || (is_temporary(known) && is_temporary(schema)) || parts.len() < 2
            }),
            _ => true,
        };
        if named && placed {
            *exact &= !open;
            return None;
        }
        // What belongs to the server, the database or unnamed things is permitted as that, whatever its name.
        if matches!(class, ObjectKind::Server | ObjectKind::Database) || path.last() == Some(&"?") {
            *exact = false;
            return None;
        }
    }
    Some(format!("{tag}: {what} {kind} {}", parts.join(".")))
}

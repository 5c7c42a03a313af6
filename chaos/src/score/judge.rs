//! Whether what was read out of a statement is what the server says of it.

use postern_core::action::{Action, ObjectKind, Verb};
use postern_protocols::postgres::analyze::{Statement, StatementKind, Unclassifiable};

use super::before::ASSIGNING;
use super::objects::{self, Before, Object};
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
    /// Of definitions: what was made, changed or dropped.
    pub objects: Vec<Object>,
    /// Of definitions: what stood before.
    pub before: Before,
    /// It was given a transaction id: something was written.
    pub wrote: bool,
    /// A view that it reads calls a function whose very purpose it is to have an id assigned.
    pub assigned_by_view: bool,
    /// Not all that it did could be told.
    pub lost: bool,
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
    /// The operator that it stands behind: its schema and symbol.
    pub symbol: Option<[String; 2]>,
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
        let symbol = function.symbol.as_ref().map(|[schema, symbol]| (&**schema, &**symbol));
        let names = [Some((&*function.schema, &*function.name)), symbol];
        let acted = statement.actions.iter().any(|action| match action.object.path.as_slice() {
            [_, schema, last] => {
                names.iter().flatten().any(|(known, name)| *name == &**last && [*known, "?"].contains(&&**schema))
            }
            _ => false,
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
    let assigned = found.assigned_by_view
        || found.functions.iter().any(|function| function.system && ASSIGNING.contains(&&*function.name));
    if found.wrote && !writes(statement) && !unseen && !assigned {
        wrong.push("writes something".to_owned());
    }
    for object in &found.objects {
        wrong.extend(objects::fault(statement, object, &found.before, &mut exact));
    }
    exact &= !unseen;
    let class = match (wrong.is_empty(), exact) {
        (false, _) => Class::Wrong,
        (true, _) if found.lost => Class::Unjudged,
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

//! Whether the objects that a definition made, changed or dropped are those that were read out of it.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::action::{Action, ObjectKind, Verb};
use postern_protocols::postgres::analyze::Statement;

/// One object that an event trigger told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// `made` (or changed) or `dropped`.
    pub what: String,
    /// The command's tag.
    pub tag: String,
    /// The kind of object, as PostgreSQL calls it.
    pub kind: String,
    /// The OIDs of its catalogue and of itself.
    pub address: (u32, u32),
    /// The parts of its name, after the command.
    pub parts: Vec<String>,
    /// By what ran in the statement's turn (a function, a trigger), and not by the statement itself.
    pub nested: bool,
}

/// What stood before a definition ran.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// Of what is renamed or moved: the schema, if any, and the name of every object by its address. None for other statements.
    pub names: Option<BTreeMap<(u32, u32), Vec<String>>>,
    /// The database has event triggers beside the score's own: they run with each definition.
    pub event_triggers: bool,
    /// The OIDs of the relations that the statement names.
    pub named: BTreeSet<u32>,
    /// Relations that inherit from those, or are partitions of them: schema and name.
    pub heirs: BTreeSet<[String; 2]>,
    /// Foreign keys of all of these, from and to, with the server's own triggers behind them: schema, relation and name.
    pub keys: BTreeSet<[String; 3]>,
    /// Indexes of the relations that are named and of their heirs, and of where their long values are: schema and name.
    pub indexes: BTreeSet<[String; 2]>,
}

impl Object {
    /// Of the trigger's own line.
    pub(super) fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split('\x1f').collect();
        let [what, tag, kind, class, oid, parts @ ..] = words.as_slice() else { return None };
        // The address of a type is one text.
        let parts = parts.iter().flat_map(|part| part.split('.')).map(|part| part.trim_matches('"').to_owned());
        Some(Self {
            what: (*what).to_owned(),
            tag: (*tag).to_owned(),
            kind: (*kind).to_owned(),
            address: (class.parse().ok()?, oid.parse().ok()?),
            parts: parts.collect(),
            nested: false,
        })
    }

    fn fault(&self, why: &str) -> Option<String> {
        Some(format!("{}: {} {} {}{why}", self.tag, self.what, self.kind, self.parts.join(".")))
    }
}

/// What is wrong, if it is: no action names the object. `exact` is taken back where one does, but openly.
pub(super) fn fault(statement: &Statement, object: &Object, before: &Before, exact: &mut bool) -> Option<String> {
    // Of GRANT, no object is told.
    if object.parts.iter().all(String::is_empty) {
        return None;
    }
    if object.nested {
        return by_another(statement, object, before);
    }
    // Of an operator class or family, and of its members, the access method comes first.
    let of_method = object.kind.starts_with("operator ") || object.kind == "function of access method";
    let skipped = usize::from(of_method && object.parts.len() > 2);
    let parts = object.parts.get(skipped..).unwrap_or_default();
    let old = before.names.as_ref().filter(|_| object.what == "made").and_then(|names| names.get(&object.address));
    let Some(old) = old.filter(|old| !parts.starts_with(old)) else {
        let covered = names(statement, &object.kind, parts, exact, |_| true) || belongs(statement, parts, before);
        if covered || made_anew(statement, object, before) {
            return None;
        }
        return object.fault("");
    };
    // Renamed or moved: it is named as it was, and under its new name other grants may cover it.
    if !names(statement, &object.kind, old, exact, |verb| verb != Verb::SqlCreate) {
        return object.fault(&format!(", which was {}", old.join(".")));
    }
    let placed = matches!(parts, [_, _]) && old.len() == 2;
    if placed && !names(statement, &object.kind, parts, exact, |verb| verb == Verb::SqlCreate) {
        return object.fault(" under a name that was not read");
    }
    None
}

/// What another's code did in the statement's turn: permitted as the call of it.
fn by_another(statement: &Statement, object: &Object, before: &Before) -> Option<String> {
    let verbs = |wanted: &[Verb]| statement.actions.iter().any(|action| wanted.contains(&action.verb));
    // REFRESH CONCURRENTLY compares with a temporary table of its own.
    let refreshes = verbs(&[Verb::SqlMaintain])
        && before.named.iter().any(|oid| {
            object.parts.first().is_some_and(|schema| is_temporary(schema))
                && object.parts.get(1).is_some_and(|name| is_of(name, &format!("pg_temp_{oid}")))
        });
    // Triggers and rules are their relation's.
    let rows = [Verb::SqlInsert, Verb::SqlUpdate, Verb::SqlDelete, Verb::SqlCall, Verb::SqlOpaque];
    if refreshes || before.event_triggers || verbs(&rows) { None } else { object.fault(" by what ran in its turn") }
}

fn is_of(name: &str, table: &str) -> bool {
    name.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Whether it is a part of what inherits from a relation that the statement alters: PostgreSQL changes it there, too, by the parent's permissions. Or a
/// foreign key between them and others.
fn belongs(statement: &Statement, parts: &[String], before: &Before) -> bool {
    let alters = |action: &Action| {
        action.object.kind == ObjectKind::Relation && matches!(action.verb, Verb::SqlAlter | Verb::SqlDrop)
    };
    let [schema, relation, part] = parts else { return false };
    statement.actions.iter().any(alters)
        && (before.heirs.contains(&[schema.clone(), relation.clone()])
            || before.keys.contains(&[schema.clone(), relation.clone(), part.clone()]))
}

/// Whether it is an index that REINDEX makes anew, of a table that is named: since 17 the server tells of each. Of a schema, those that it does not name
/// are of long values.
fn made_anew(statement: &Statement, object: &Object, before: &Before) -> bool {
    let [schema, name] = object.parts.as_slice() else { return false };
    let maintains =
        |of: ObjectKind| statement.actions.iter().any(|it| it.verb == Verb::SqlMaintain && it.object.kind == of);
    let path = [schema.clone(), name.clone()];
    // Of an index itself its partitions are.
    let of_table = maintains(ObjectKind::Relation) && (before.indexes.contains(&path) || before.heirs.contains(&path));
    let of_schema = maintains(ObjectKind::Schema) && schema == "pg_toast";
    object.tag == "REINDEX" && object.kind == "index" && object.what == "made" && (of_table || of_schema)
}

/// Whether an action of such a verb names an object of these parts.
fn names(statement: &Statement, kind: &str, parts: &[String], exact: &mut bool, of: impl Fn(Verb) -> bool) -> bool {
    let changing = |action: &&Action| {
        !matches!(action.verb, Verb::SqlSelect | Verb::SqlInsert | Verb::SqlUpdate | Verb::SqlDelete | Verb::SqlCall)
    };
    for action in statement.actions.iter().filter(changing).filter(|action| of(action.verb)) {
        let path: Vec<&str> = action.object.path.iter().map(|part| &**part).collect();
        let class = action.object.kind;
        // An index that is not named is given its name by the server.
        let unnamed = kind == "index" && action.verb == Verb::SqlCreate && class == ObjectKind::Relation;
        let named = unnamed || parts.iter().any(|part| path.last() == Some(&part.as_str()));
        let schema = parts.first().map(String::as_str);
        let (placed, open) = match path.as_slice() {
            [_, "?", _] => (true, true),
            [_, known, _] => {
                let here = |schema: &str| schema == *known || (is_temporary(known) && is_temporary(schema));
                (parts.len() < 2 || schema.is_none_or(here), false)
            }
            _ => (true, false),
        };
        if named && placed {
            *exact &= !open;
            return true;
        }
        // What belongs to the server or the database, or is not named, is permitted as that, whatever its name.
        let whole = match class {
            ObjectKind::Server => is_servers(kind),
            ObjectKind::Database => true,
            _ => false,
        };
        if whole || path.last() == Some(&"?") {
            *exact = false;
            return true;
        }
    }
    false
}

/// Kinds of objects that belong to the server or a database as a whole, and not to a schema.
fn is_servers(kind: &str) -> bool {
    [
        "access method",
        "cast",
        "event trigger",
        "extension",
        "foreign-data wrapper",
        "language",
        "large object",
        "publication",
        "role",
        "server",
        "subscription",
        "transform",
        "user mapping",
    ]
    .iter()
    .any(|known| kind.starts_with(known))
}

/// Whether a schema is that of the session's temporary relations.
fn is_temporary(schema: &str) -> bool {
    schema.starts_with("pg_temp")
}

#[cfg(test)]
mod tests {
    use postern_core::action::Object as On;

    use super::*;

    fn statement(actions: &[(Verb, ObjectKind, &[&str])]) -> Statement {
        let action = |(verb, kind, path): &(Verb, ObjectKind, &[&str])| {
            let path = path.iter().copied();
            Action::new(*verb, On::new(*kind, path))
        };
        Statement { actions: actions.iter().map(action).collect(), ..Statement::default() }
    }

    fn object(what: &str, kind: &str, oid: u32, name: &str) -> Object {
        Object::read(&[what, "TAG", kind, "1", &oid.to_string(), name].join("\x1f")).unwrap()
    }

    fn is_wrong(statement: &Statement, object: &Object, before: &Before) -> bool {
        fault(statement, object, before, &mut true).is_some()
    }

    const ALTER: Verb = Verb::SqlAlter;
    const CREATE: Verb = Verb::SqlCreate;
    const RELATION: ObjectKind = ObjectKind::Relation;
    const ROUTINE: ObjectKind = ObjectKind::Routine;

    #[test]
    fn what_is_renamed_is_named_before_and_after() {
        let names = BTreeMap::from([((1, 7), vec!["public".into(), "old".into()])]);
        let before = Before { names: Some(names), ..Before::default() };
        let renamed = object("made", "function", 7, "public.new");
        let both = [(ALTER, ROUTINE, &["d", "public", "old"][..]), (CREATE, ROUTINE, &["d", "public", "new"])];
        assert!(!is_wrong(&statement(&both), &renamed, &before));
        // The old name alone, the new one alone, another's old name, and the names the other way round.
        assert!(is_wrong(&statement(&both[..1]), &renamed, &before));
        assert!(is_wrong(&statement(&both[1..]), &renamed, &before));
        let others = [(ALTER, ROUTINE, &["d", "public", "other"][..]), both[1]];
        assert!(is_wrong(&statement(&others), &renamed, &before));
        let elsewhere = [(ALTER, ROUTINE, &["d", "app", "old"][..]), both[1]];
        assert!(is_wrong(&statement(&elsewhere), &renamed, &before));
        let swapped = [(CREATE, ROUTINE, &["d", "public", "old"][..]), (ALTER, ROUTINE, &["d", "public", "new"])];
        assert!(is_wrong(&statement(&swapped), &renamed, &before));
    }

    #[test]
    fn parts_of_heirs_belong_to_what_is_altered_and_nothing_else_does() {
        let path = |parts: [&str; 2]| parts.map(str::to_owned);
        let before = Before {
            heirs: BTreeSet::from([path(["public", "child"])]),
            keys: BTreeSet::from([["public", "referrer", "key"].map(str::to_owned)]),
            ..Before::default()
        };
        let parent = statement(&[(ALTER, RELATION, &["d", "public", "parent"])]);
        let reads = statement(&[(Verb::SqlSelect, RELATION, &["d", "public", "parent"])]);
        for (name, wrong) in [
            ("public.child.c", false),
            ("public.referrer.key", false),
            ("app.child.c", true),
            ("public.stranger.c", true),
            ("public.referrer.other", true),
            // The child itself is no part of the parent.
            ("public.child", true),
        ] {
            let dropped = object("dropped", "table column", 9, name);
            assert_eq!(is_wrong(&parent, &dropped, &before), wrong, "{name}");
            assert!(is_wrong(&reads, &dropped, &before), "{name}");
        }
    }

    #[test]
    fn what_runs_in_its_turn_is_a_calls_or_a_refreshs_own() {
        let nested = |name: &str| Object { nested: true, ..object("dropped", "table", 9, name) };
        let before = Before { named: BTreeSet::from([25]), ..Before::default() };
        let call = statement(&[(Verb::SqlCall, ROUTINE, &["d", "public", "f"])]);
        let read = statement(&[(Verb::SqlSelect, RELATION, &["d", "public", "t"])]);
        assert!(!is_wrong(&call, &nested("public.t"), &before));
        assert!(is_wrong(&read, &nested("public.t"), &before));
        // What the statement itself does is no call's.
        assert!(is_wrong(&call, &object("dropped", "table", 9, "public.t"), &before));
        let refresh = statement(&[(Verb::SqlMaintain, RELATION, &["d", "public", "m"])]);
        assert!(!is_wrong(&refresh, &nested("pg_temp.pg_temp_25"), &before));
        assert!(!is_wrong(&refresh, &nested("pg_temp.pg_temp_25_2"), &before));
        for name in ["pg_temp.pg_temp_26", "pg_temp.pg_temp_251", "public.pg_temp_25", "pg_temp.mine"] {
            assert!(is_wrong(&refresh, &nested(name), &before), "{name}");
        }
        assert!(is_wrong(&refresh, &nested("pg_temp.pg_temp_25"), &Before::default()));
    }

    #[test]
    fn indexes_are_made_anew_of_what_is_named() {
        let table = statement(&[(Verb::SqlMaintain, RELATION, &["d", "public", "t"])]);
        let reads = statement(&[(Verb::SqlSelect, RELATION, &["d", "public", "t"])]);
        let index = |tag: &str, name: &str| Object { tag: tag.to_owned(), ..object("made", "index", 9, name) };
        let indexes = ["t_pkey", "t_n_idx"].map(|name| ["public".to_owned(), name.to_owned()]);
        let before = Before { indexes: indexes.into(), ..Before::default() };
        assert!(!is_wrong(&table, &index("REINDEX", "public.t_pkey"), &before));
        for (statement, object) in [
            (&table, index("REINDEX", "public.other_pkey")),
            (&table, index("CREATE INDEX", "public.t_pkey")),
            (&table, Object { what: "dropped".to_owned(), ..index("REINDEX", "public.t_pkey") }),
            (&reads, index("REINDEX", "public.t_pkey")),
        ] {
            assert!(is_wrong(statement, &object, &before), "{object:?}");
        }
    }

    #[test]
    fn the_server_at_large_covers_what_is_the_servers() {
        let extension = statement(&[(ALTER, ObjectKind::Server, &["extension", "x"])]);
        assert!(!is_wrong(&extension, &object("made", "extension", 9, "x"), &Before::default()));
        assert!(is_wrong(&extension, &object("dropped", "table", 9, "public.t"), &Before::default()));
        let class = statement(&[(CREATE, ROUTINE, &["d", "public", "ops"])]);
        let made = Object {
            parts: ["btree", "public", "ops"].map(str::to_owned).to_vec(),
            ..object("made", "operator class", 9, "")
        };
        assert!(!is_wrong(&class, &made, &Before::default()));
        let elsewhere = Object { parts: ["btree", "app", "ops"].map(str::to_owned).to_vec(), ..made };
        assert!(is_wrong(&class, &elsewhere, &Before::default()));
    }
}

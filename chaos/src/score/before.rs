//! What stands in the server before a definition runs, for what it names.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::action::{ObjectKind, Verb};
use postern_protocols::postgres::analyze::{Statement, StatementKind};

/// Every object that can be renamed or moved, by its address.
pub(super) const NAMES: &str = "
    SELECT c.class, c.oid, n.nspname, c.name FROM (
        SELECT 'pg_class'::regclass::oid AS class, oid, relnamespace AS schema, relname AS name FROM pg_catalog.pg_class
        UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace, proname FROM pg_catalog.pg_proc
        UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace, typname FROM pg_catalog.pg_type
        UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace, oprname FROM pg_catalog.pg_operator
        UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace, opcname FROM pg_catalog.pg_opclass
        UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace, opfname FROM pg_catalog.pg_opfamily
        UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace, collname FROM pg_catalog.pg_collation
        UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace, conname FROM pg_catalog.pg_conversion
        UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace, cfgname FROM pg_catalog.pg_ts_config
        UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace, dictname FROM pg_catalog.pg_ts_dict
        UNION ALL SELECT 'pg_ts_parser'::regclass, oid, prsnamespace, prsname FROM pg_catalog.pg_ts_parser
        UNION ALL SELECT 'pg_ts_template'::regclass, oid, tmplnamespace, tmplname FROM pg_catalog.pg_ts_template
        UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace, stxname FROM pg_catalog.pg_statistic_ext
        UNION ALL SELECT 'pg_namespace'::regclass, oid, NULL, nspname FROM pg_catalog.pg_namespace) c
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.schema WHERE c.oid >= 16384";

/// Of others than the score's own.
pub(super) const EVENT_TRIGGERS: &str =
    "SELECT 1 FROM pg_catalog.pg_event_trigger WHERE evtname NOT LIKE 'postern_score%' AND evtenabled <> 'D'";

/// Whether it may rename or move something.
pub(super) fn renames(statement: &Statement, text: &str) -> bool {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    statement.kinds.contains(&StatementKind::Definition)
        && (words.contains(&"rename") || words.windows(2).any(|two| two == ["set", "schema"]))
}

/// Schemas and names of relations whose definition the statement changes.
pub(super) fn reshaped(statement: &Statement) -> BTreeSet<[String; 2]> {
    let verbs = [Verb::SqlAlter, Verb::SqlDrop, Verb::SqlMaintain];
    let actions = statement.actions.iter();
    let relations = actions
        .filter(|action| action.object.kind == ObjectKind::Relation && verbs.contains(&action.verb))
        .filter_map(|action| match action.object.path.as_slice() {
            [_, schema, name] if **name != *"?" => Some([schema.to_string(), name.to_string()]),
            _ => None,
        });
    relations.collect()
}

/// What belongs to `relations`: how (0: named, 1: inherits, 2: a foreign key or its trigger, 3: an index), OID, schema, relation, name.
pub(super) fn belonging(relations: &BTreeSet<[String; 2]>) -> String {
    let pairs: Vec<String> =
        relations.iter().map(|[schema, name]| format!("({}, {})", literal(schema), literal(name))).collect();
    format!(
        "WITH RECURSIVE named AS (
            SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN (VALUES {}) AS v (schema, name)
                ON v.name = c.relname AND v.schema IN ('?', CASE WHEN n.oid = pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END)),
         heirs AS (SELECT oid FROM named UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN heirs h ON h.oid = i.inhparent),
         keys AS (SELECT k.oid, k.conrelid, k.conname FROM pg_catalog.pg_constraint k WHERE k.contype = 'f'
            AND (k.conrelid IN (SELECT oid FROM heirs) OR k.confrelid IN (SELECT oid FROM heirs))),
         found AS (SELECT 0 AS how, oid, NULL::name AS part FROM named UNION ALL SELECT 1, oid, NULL FROM heirs
            UNION ALL SELECT 2, conrelid, conname FROM keys
            UNION ALL SELECT 2, t.tgrelid, t.tgname FROM pg_catalog.pg_trigger t JOIN keys k ON k.oid = t.tgconstraint WHERE t.tgisinternal
            UNION ALL SELECT 3, i.indexrelid, NULL FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class t ON t.oid IN (SELECT oid FROM heirs)
                AND i.indrelid IN (t.oid, t.reltoastrelid))
         SELECT f.how, f.oid, CASE WHEN n.oid = pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, c.relname, f.part FROM found f JOIN pg_catalog.pg_class c ON c.oid = f.oid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
        pairs.join(", ")
    )
}

/// Functions of the system whose call alone has a transaction id assigned, whatever it writes.
pub(super) const ASSIGNING: &[&str] = &["txid_current", "pg_current_xact_id"];

/// Whether a view among these relations calls one of them.
pub(super) fn assigning_views(relations: &[(String, String, u32)]) -> String {
    let pairs: Vec<String> =
        relations.iter().map(|(schema, name, _)| format!("({}, {})", literal(schema), literal(name))).collect();
    let functions: Vec<String> = ASSIGNING.iter().map(|name| literal(name)).collect();
    format!(
        "SELECT 1 FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_proc p ON p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ({})
         WHERE r.ev_type = '1' AND (n.nspname, c.relname) IN ({}) AND r.ev_action::text LIKE '%:funcid ' || p.oid || ' %'",
        functions.join(", "),
        pairs.join(", ")
    )
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Rows of [`NAMES`].
pub(super) fn by_address(rows: &[Vec<Option<String>>]) -> BTreeMap<(u32, u32), Vec<String>> {
    let mut known = BTreeMap::new();
    for row in rows {
        if let [Some(class), Some(oid), schema, Some(name)] = row.as_slice()
            && let (Ok(class), Ok(oid)) = (class.parse(), oid.parse())
        {
            known.insert((class, oid), schema.iter().chain([name]).cloned().collect());
        }
    }
    known
}

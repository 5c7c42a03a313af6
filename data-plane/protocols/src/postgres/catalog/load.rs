//! Reading a catalog.

use std::sync::Arc;

use crate::postgres::analyze::split_path;

use super::{Catalog, CatalogColumn, CatalogRelation, Code, ViewRead};

/// Columns that a catalog may hold (I11). Past it, Postern cannot tell what is masked.
const MAX_COLUMNS: usize = 200_000;
/// Rows of any other part.
const MAX_ROWS: usize = 200_000;

/// One query of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogPart {
    /// Role and search path.
    Session,
    /// Schemas.
    Schemas,
    /// Relations.
    Relations,
    /// Columns.
    Columns,
    /// What generated columns are computed from.
    Generated,
    /// What views read.
    Views,
    /// Inheritance and partitions.
    Inheritance,
    /// Functions, and operators.
    Functions,
    /// Types, each beside a type that it is made of.
    Types,
    /// What casts call.
    Casts,
    /// What runs because of relations.
    Calls,
    /// Columns that are unique, or exclude each other.
    Keys,
    /// What comments and security labels say of columns.
    Labels,
}

/// The catalog cannot be used; sessions with masks must be refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A row is not as its query makes it.
    #[error("a row of the target's catalog is not of the form asked for ({0:?})")]
    Malformed(CatalogPart),
    /// Too many rows.
    #[error("the target's database has more columns or relations than Postern follows")]
    TooLarge,
}

/// The queries, in the order in which the builder takes their rows. Each is one statement; all values come as text. Run them in one
/// read-only transaction (`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`) so that they tell of one moment.
#[must_use]
pub fn queries() -> [(CatalogPart, &'static str); 13] {
    [
        (
            CatalogPart::Session,
            "SELECT current_user::text, s.n, s.name \
             FROM (SELECT -2 AS n, 'login trigger' AS name FROM pg_catalog.pg_event_trigger WHERE evtevent::text = 'login' AND evtenabled::text <> 'D' \
                   UNION ALL SELECT -1 AS n, (pg_catalog.length(pg_catalog.regexp_replace('1'::pg_catalog.money::text, '[^0-9]', '', 'g')) - 1)::text AS name \
                   UNION ALL SELECT 0, pg_catalog.current_setting('search_path') UNION ALL SELECT p.ord::int, p.name::text \
                   FROM unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS p(name, ord)) s ORDER BY s.n",
        ),
        (
            CatalogPart::Schemas,
            "SELECT nspname, pg_catalog.has_schema_privilege(oid, 'USAGE')::int FROM pg_catalog.pg_namespace",
        ),
        (
            CatalogPart::Relations,
            "SELECT c.oid, n.nspname, c.relname, c.relkind::text FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid >= 16384 AND c.relkind::text IN ('r','v','m','f','p','S','i','I','c')",
        ),
        (
            CatalogPart::Columns,
            "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, (a.attgenerated <> '')::int \
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
             WHERE c.oid >= 16384 AND c.relkind::text IN ('r','v','m','f','p') AND a.attnum > 0 AND NOT a.attisdropped",
        ),
        (
            CatalogPart::Generated,
            "SELECT e.adrelid, e.adnum, d.refobjsubid FROM pg_catalog.pg_attrdef e \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum AND a.attgenerated <> '' \
             JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
               AND d.refobjid = e.adrelid AND d.refobjsubid > 0 AND d.refobjsubid <> e.adnum \
               AND (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = e.oid \
                 OR d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = e.adrelid AND d.objsubid = e.adnum) \
             WHERE e.adrelid >= 16384",
        ),
        (
            CatalogPart::Views,
            // `:varattno 0` is a row as a whole, of which no column dependency is kept; a function has no pinned entry if it is not
            // the system's.
            "WITH rules AS MATERIALIZED (SELECT r.oid, r.ev_class, r.ev_action::text LIKE '%:varattno 0 %' AS whole_row \
                 FROM pg_catalog.pg_rewrite r WHERE r.ev_class >= 16384 AND r.ev_type::text = '1') \
             SELECT r.ev_class, d.refobjid, d.refobjsubid, \
                    CASE WHEN d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass THEN 2 WHEN r.whole_row THEN 1 ELSE 0 END \
             FROM rules r JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
             WHERE d.refobjid <> r.ev_class \
               AND d.refclassid IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass)",
        ),
        (CatalogPart::Inheritance, "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits"),
        (
            CatalogPart::Functions,
            // What an aggregate does is what the functions do that it is made of.
            "WITH code AS ( \
                 SELECT p.oid, p.prosecdef AS definer, p.provolatile::text = 'v' AS volatile, \
                    CASE WHEN p.oid < 16384 OR l.lanname::text IN ('internal', 'c') THEN false \
                         WHEN l.lanname::text NOT IN ('sql', 'plpgsql') THEN true \
                         ELSE p.prosrc ~* '\\mexecute\\M|\\mset_config\\M|\\mpg_settings\\M|\\msearch_path\\M|\\mset\\s+((session|local)\\s+)?(role|session)\\M' \
                           OR coalesce(p.prosqlbody::text LIKE '%:funcid 2078 %', false) END AS opaque \
                 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang), \
             parts AS (SELECT code.oid, definer, volatile, opaque FROM code \
                 UNION ALL SELECT a.aggfnoid::pg_catalog.oid, code.definer, code.volatile, code.opaque FROM pg_catalog.pg_aggregate a \
                 JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = a.aggfnoid::pg_catalog.oid \
                     AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
                 JOIN code ON code.oid = d.refobjid WHERE a.aggfnoid::pg_catalog.oid >= 16384) \
             SELECT p.proname, n.nspname, \
                    coalesce(max((p.pronargs - p.pronargdefaults <= 1 AND p.pronargs >= 1 AND (t.typtype::text IN ('c','p') \
                         OR p.provariadic <> 0))::int), 0), \
                    max(c.definer::int), max(c.volatile::int), max(c.opaque::int), \
                    max((p.oid >= 16384 AND (p.prorettype >= 16384 OR EXISTS (SELECT 1 FROM unnest(p.proargtypes) AS a(type) WHERE a.type >= 16384)))::int) \
             FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN parts c ON c.oid = p.oid \
             LEFT JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0] GROUP BY 1, 2 \
             UNION ALL SELECT o.oprname, n.nspname, 0, max(p.prosecdef::int), max((p.provolatile = 'v')::int), \
                 max((p.prosrc ~* '\\mexecute\\M' OR l.lanname::text NOT IN ('sql', 'plpgsql'))::int), \
                 max((o.oprleft >= 16384 OR o.oprright >= 16384 OR o.oprresult >= 16384)::int) FROM pg_catalog.pg_operator o \
             JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode::pg_catalog.oid \
             JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
             WHERE o.oid >= 16384 AND l.lanname::text NOT IN ('internal', 'c') GROUP BY 1, 2",
        ),
        (
            CatalogPart::Casts,
            // Functions in C are made by superusers: those of extensions compute, as the system's do. Nor do others make any in pg_catalog. A domain's
            // checks are called by casts to whatever is made of it, too.
            "WITH RECURSIVE code AS ( \
                 SELECT p.oid, n.nspname, p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
                 JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE l.lanname::text NOT IN ('internal', 'c')), \
             checked AS ( \
                 SELECT k.contypid AS type, f.nspname, f.proname FROM pg_catalog.pg_constraint k \
                 JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = k.oid \
                 JOIN code f ON d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND f.oid = d.refobjid \
                 WHERE k.contypid <> 0 AND f.oid >= 16384 \
                 UNION SELECT w.type, c.nspname, c.proname FROM checked c JOIN LATERAL ( \
                     SELECT t.oid AS type FROM pg_catalog.pg_type t WHERE t.typbasetype = c.type OR t.typelem = c.type \
                     UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngsubtype = c.type \
                     UNION ALL SELECT w.reltype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class w ON w.oid = a.attrelid \
                         WHERE a.atttypid = c.type AND a.attnum > 0 AND NOT a.attisdropped AND w.reltype <> 0) w ON true) \
             SELECT t.typname, f.nspname, f.proname, 0 FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_type t ON t.oid = c.casttarget \
             JOIN code f ON f.oid = c.castfunc WHERE c.oid >= 16384 \
             UNION SELECT t.typname, f.nspname, f.proname, 1 FROM pg_catalog.pg_cast c \
             JOIN pg_catalog.pg_type t ON t.oid IN (c.castsource, c.casttarget) AND t.oid >= 16384 JOIN code f ON f.oid = c.castfunc \
             WHERE c.oid >= 16384 AND c.castcontext IN ('i', 'a') AND f.nspname <> 'pg_catalog' \
             UNION SELECT t.typname, c.nspname, c.proname, 0 FROM checked c JOIN pg_catalog.pg_type t ON t.oid = c.type",
        ),
        (
            CatalogPart::Types,
            // Of domains, arrays, ranges and composite types, but not of each relation's row.
            "SELECT t.oid, t.typname, p.part FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid \
             LEFT JOIN LATERAL ( \
                 SELECT t.typbasetype AS part WHERE t.typbasetype <> 0 UNION ALL SELECT t.typelem WHERE t.typelem <> 0 \
                 UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid \
                 UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) p ON true \
             WHERE c.oid IS NULL OR c.relkind::text = 'c'",
        ),
        (CatalogPart::Calls, super::calls::QUERY),
        (CatalogPart::Labels, super::labels::QUERY),
        (
            CatalogPart::Keys,
            // A constraint has the name of its index.
            "SELECT i.indrelid, c.relname, k.number FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             CROSS JOIN LATERAL unnest(i.indkey) AS k(number) WHERE i.indrelid >= 16384 AND (i.indisunique OR i.indisexclusion)",
        ),
    ]
}

/// Builds a catalog from the rows of [`queries`], in their order.
#[derive(Debug, Default)]
pub struct CatalogBuilder {
    catalog: Catalog,
    columns: usize,
    rows: usize,
}

impl CatalogBuilder {
    /// Without any row.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one row; `None` is NULL.
    ///
    /// # Errors
    /// When the row is not of the query's form, or there are too many.
    pub fn row(&mut self, part: CatalogPart, values: &[Option<&str>]) -> Result<(), CatalogError> {
        let (count, limit) = match part {
            CatalogPart::Columns => (&mut self.columns, MAX_COLUMNS),
            _ => (&mut self.rows, MAX_ROWS.saturating_mul(4)),
        };
        *count = count.saturating_add(1);
        if *count > limit {
            return Err(CatalogError::TooLarge);
        }
        self.take(part, values).ok_or(CatalogError::Malformed(part))
    }

    fn take(&mut self, part: CatalogPart, values: &[Option<&str>]) -> Option<()> {
        let catalog = &mut self.catalog;
        match (part, values) {
            (CatalogPart::Session, [Some(user), Some(place), schema]) => {
                catalog.user = Arc::from(*user);
                match *place {
                    "-2" => catalog.login_triggers = true,
                    "-1" => catalog.money_scale = schema.and_then(|digits| digits.parse().ok()),
                    // One that cannot be read here is gone by as far as its schemas exist.
                    "0" => catalog.declared_path = schema.filter(|path| split_path(path).is_ok()).map(Arc::from),
                    _ => catalog.search_path.extend(schema.map(Arc::from)),
                }
            }
            (CatalogPart::Schemas, [Some(schema)]) => drop(catalog.schemas.insert(Arc::from(*schema))),
            (CatalogPart::Schemas, [Some(schema), Some(usable)]) => {
                let schema: Arc<str> = Arc::from(*schema);
                if *usable != "1" {
                    catalog.closed.insert(Arc::clone(&schema));
                }
                catalog.schemas.insert(schema);
            }
            (CatalogPart::Casts, [Some(of), Some(schema), Some(name), Some(silent)]) => {
                let called = (Arc::from(*schema), Arc::from(*name));
                let casts = if *silent == "1" { &mut catalog.silent_casts } else { &mut catalog.cast_functions };
                casts.entry(Arc::from(*of)).or_default().insert(called);
            }
            (CatalogPart::Relations, [Some(oid), Some(schema), Some(name), Some(kind)]) => {
                let oid = oid.parse().ok()?;
                // Shared with the set of schemas: relations are many, schemas few.
                let schema = catalog.schemas.get(*schema).cloned().unwrap_or_else(|| Arc::from(*schema));
                let name: Arc<str> = Arc::from(*name);
                let kind = *kind.as_bytes().first()?;
                catalog.by_name.entry(Arc::clone(&schema)).or_default().insert(Arc::clone(&name), oid);
                let columns = std::collections::BTreeMap::new();
                catalog.relations.insert(oid, CatalogRelation { schema, name, kind, columns });
            }
            (CatalogPart::Columns, [Some(oid), Some(number), Some(name), Some(type_oid), Some(generated)]) => {
                let column = CatalogColumn {
                    name: Arc::from(*name),
                    type_oid: type_oid.parse().ok()?,
                    generated: *generated == "1",
                    labels: Vec::new(),
                };
                // One that was made since the relations were read is of no relation that is known.
                if let Some(relation) = catalog.relations.get_mut(&oid.parse().ok()?) {
                    relation.columns.insert(number.parse().ok()?, column);
                }
            }
            (CatalogPart::Generated, [Some(oid), Some(column), Some(source)]) => {
                let pair = (column.parse().ok()?, source.parse().ok()?);
                catalog.generated.entry(oid.parse().ok()?).or_default().push(pair);
            }
            (CatalogPart::Views, [Some(view), Some(relation), Some(column), Some(how)]) => {
                let relation = relation.parse().ok()?;
                let column = column.parse().ok()?;
                let read = ViewRead { relation, column, whole_row: *how == "1", function: *how == "2" };
                catalog.views.entry(view.parse().ok()?).or_default().push(read);
            }
            (CatalogPart::Inheritance, [Some(child), Some(parent)]) => {
                let (child, parent) = (child.parse().ok()?, parent.parse().ok()?);
                catalog.parents.entry(child).or_default().push(parent);
                catalog.children.entry(parent).or_default().push(child);
            }
            (
                CatalogPart::Functions,
                [Some(name), Some(schema), Some(takes_row), definer, volatile, opaque, own_types],
            ) => {
                let code = Code {
                    definer: *definer == Some("1"),
                    volatile: *volatile == Some("1"),
                    opaque: *opaque == Some("1"),
                    own_types: *own_types == Some("1"),
                };
                let schema = catalog.schemas.get(*schema).cloned().unwrap_or_else(|| Arc::from(*schema));
                let name: Arc<str> = Arc::from(*name);
                if *takes_row == "1" {
                    catalog.row_functions.insert(Arc::clone(&name));
                }
                // An operator may have a function's name.
                let known = catalog.functions.entry(name).or_default().entry(schema).or_default();
                known.definer |= code.definer;
                known.volatile |= code.volatile;
                known.opaque |= code.opaque;
                known.own_types |= code.own_types;
            }
            (CatalogPart::Types, [Some(oid), Some(name), part]) => {
                let part = part.map(str::parse::<u32>).transpose().ok()?;
                let known = catalog.types.entry(oid.parse().ok()?);
                known.or_insert_with(|| (Arc::from(*name), Vec::new())).1.extend(part);
            }
            (CatalogPart::Keys, [Some(of), Some(name), Some(number)]) => {
                let keys = catalog.keys.entry(of.parse().ok()?).or_default();
                keys.entry(Arc::from(*name)).or_default().push(number.parse().ok()?);
            }
            (CatalogPart::Labels, [Some(of), Some(number), provider, Some(text)]) => {
                let (of, number) = (of.parse().ok()?, number.parse().ok()?);
                catalog.label(of, number, *provider, text);
            }
            (CatalogPart::Calls, values) => catalog.calls.take(values)?,
            _ => return None,
        }
        Some(())
    }

    /// The catalog.
    #[must_use]
    pub fn build(self) -> Catalog {
        self.catalog
    }
}

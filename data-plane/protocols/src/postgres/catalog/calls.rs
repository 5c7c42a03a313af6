//! What runs because of a statement that does not write it out: functions in views, rules and row security, and where rows are written in defaults,
//! checks, indexes and triggers.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::action::Calls;

use super::{Catalog, FIRST_NORMAL_OID};

/// Of a relation to what it comes with. Functions of the database's own are told by what depends on them. Those of the system that have an effect are
/// looked for where no definition of a relation keeps a dependency on them: in the trees of views, rules, row security and defaults (where `nextval`
/// is left out). An expression of hundreds of alternatives costs microseconds a tree, so defaults that call nothing but `nextval` (1574) or `now` (1299) are
/// told first. Columns that are generated when they are read (from 18 on) call nothing of the database's own.
pub(super) const QUERY: &str = "WITH effects AS (SELECT ':funcid (' || pg_catalog.string_agg(p.oid::text, '|') || ') ' AS pattern, \
         ':funcid (' || pg_catalog.string_agg(p.oid::text, '|') FILTER (WHERE p.proname <> 'nextval') || ') ' AS in_default \
     FROM pg_catalog.pg_proc p WHERE p.oid < 16384 AND p.provolatile = 'v' AND p.proname::text !~ \
         '^(RI_FKey_.*|.*handler|.*_validator|binary_upgrade_.*|pg_(stat_get|ls|control|is)_.*|pg_.*_(size|version|lsn)|random.*|setseed|clock_timestamp|timeofday|\
gen_random_uuid|uuidv[47]|current_query|pg_sleep.*|pg_blocking_pids|txid_status|pg_xact_status|pg_jit_available|pg_partition_.*|tsvector_update_trigger.*)$'), \
 used AS ( \
     SELECT d.classid, d.objid, p.provolatile = 'v' AS volatile, p.prosecdef AS definer FROM pg_catalog.pg_proc p \
     JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid = p.oid WHERE p.oid >= 16384 \
     UNION ALL SELECT d.classid, d.objid, p.provolatile = 'v', p.prosecdef FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode::pg_catalog.oid \
     JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND d.refobjid = o.oid WHERE o.oid >= 16384), \
 told AS ( \
     SELECT r.ev_class AS of, CASE WHEN r.ev_type::text = '1' THEN 'r' ELSE 'w' END AS how, u.volatile, u.definer \
         FROM used u JOIN pg_catalog.pg_rewrite r ON u.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = u.objid \
     UNION ALL SELECT r.ev_class, CASE WHEN r.ev_type::text = '1' THEN 'r' ELSE 'w' END, true, false FROM pg_catalog.pg_rewrite r CROSS JOIN effects e \
         WHERE r.ev_class >= 16384 AND (r.ev_action::text || r.ev_qual::text) ~ e.pattern \
     UNION ALL SELECT p.polrelid, 'r', u.volatile, u.definer \
         FROM used u JOIN pg_catalog.pg_policy p ON u.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND p.oid = u.objid \
     UNION ALL SELECT p.polrelid, 'r', true, false FROM pg_catalog.pg_policy p CROSS JOIN effects e \
         WHERE (coalesce(p.polqual::text, '') || coalesce(p.polwithcheck::text, '')) ~ e.pattern \
     UNION ALL SELECT d.adrelid, 'w', u.volatile, u.definer \
         FROM used u JOIN pg_catalog.pg_attrdef d ON u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.oid = u.objid \
     UNION ALL SELECT d.adrelid, 'w', true, false \
         FROM pg_catalog.pg_attrdef d CROSS JOIN effects e CROSS JOIN LATERAL (SELECT d.adbin::text AS tree OFFSET 0) b \
         WHERE d.adrelid >= 16384 AND CASE WHEN pg_catalog.split_part(b.tree, ':funcid ', 3) = '' \
             AND pg_catalog.split_part(pg_catalog.split_part(b.tree, ':funcid ', 2), ' ', 1) IN ('', '1574', '1299') THEN false \
             ELSE b.tree ~ e.in_default END \
     UNION ALL SELECT t.tgrelid, 'w', u.volatile, u.definer \
         FROM used u JOIN pg_catalog.pg_trigger t ON u.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND t.oid = u.objid \
     UNION ALL SELECT k.conrelid, 'w', u.volatile, u.definer \
         FROM used u JOIN pg_catalog.pg_constraint k ON u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = u.objid WHERE k.conrelid <> 0 \
     UNION ALL SELECT i.indrelid, 'w', u.volatile, u.definer \
         FROM used u JOIN pg_catalog.pg_index i ON u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.indexrelid = u.objid \
     UNION ALL SELECT k.partrelid, 'w', u.volatile, u.definer \
         FROM used u JOIN pg_catalog.pg_partitioned_table k ON u.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND k.partrelid = u.objid) \
 SELECT of, how, pg_catalog.max(volatile::int), pg_catalog.max(definer::int), NULL FROM told GROUP BY 1, 2 \
 UNION ALL SELECT k.confrelid, 'c', 0, 0, k.conrelid FROM pg_catalog.pg_constraint k \
     WHERE k.contype::text = 'f' AND (k.confdeltype::text IN ('c', 'n', 'd') OR k.confupdtype::text IN ('c', 'n', 'd'))";

/// What relations come with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Behind {
    /// When they are read; when they are written.
    calls: BTreeMap<u32, [Calls; 2]>,
    /// Relations whose rows change with theirs.
    cascades: BTreeMap<u32, Vec<u32>>,
}

impl Behind {
    pub(super) fn take(&mut self, values: &[Option<&str>]) -> Option<()> {
        let [Some(of), Some(how), Some(volatile), Some(definer), other] = values else { return None };
        let of = of.parse().ok()?;
        let calls = Calls { volatile: *volatile == "1", definer: *definer == "1" };
        let [read, write] = match (*how, other) {
            ("r", None) => [calls, Calls::default()],
            ("w", None) => [Calls::default(), calls],
            ("c", Some(other)) => {
                self.cascades.entry(of).or_default().push(other.parse().ok()?);
                return Some(());
            }
            _ => return None,
        };
        let known = self.calls.entry(of).or_default();
        let [known_read, known_write] = *known;
        *known = [known_read.and(read), known_write.and(write)];
        Some(())
    }
}

impl Catalog {
    /// What runs when the relation is read, or written; with it what stands behind it: what a view reads, partitions, and where foreign keys cascade to.
    pub(crate) fn calls_behind(&self, oid: u32, writes: bool) -> Calls {
        let (mut open, mut seen, mut calls) = (vec![oid], BTreeSet::new(), Calls::default());
        while let Some(oid) = open.pop() {
            if oid < FIRST_NORMAL_OID || !seen.insert(oid) {
                continue;
            }
            let [read, write] = self.calls.calls.get(&oid).copied().unwrap_or_default();
            calls = calls.and(read);
            open.extend(self.behind(oid));
            if writes {
                calls = calls.and(write);
                open.extend(self.calls.cascades.get(&oid).into_iter().flatten());
            }
        }
        calls
    }
}

//! Masking rules resolved against a catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use postern_core::masking::{MaskFunction, MaskSlice, NamedColumn};

use super::value::{Keys, Scanner};
use super::{Masking, RelationMask, Types, blunt};
use crate::postgres::catalog::{Catalog, CatalogRelation};

impl Masking {
    /// Resolves `masks` on `database`. `key` keys [`MaskFunction::Hash`]; equal keys make equal hashes.
    #[must_use]
    pub fn compile(masks: &MaskSlice, catalog: Arc<Catalog>, database: &str, key: &[u8]) -> Self {
        if masks.is_empty() {
            return Self::default();
        }
        let types = Types::new(masks, &catalog);
        let mut relations = named(masks, &catalog, database);
        generate(&catalog, &mut relations);
        inherit(&catalog, &mut relations);
        generate(&catalog, &mut relations);
        derive(&catalog, &mut relations);
        close(&catalog, &mut relations);
        let scanner = Scanner::new(masks.detections());
        let named = !masks.names_nothing();
        Self {
            active: true,
            named,
            opaque: masks.has_opaque(),
            scanner,
            keys: Keys::new(key),
            types,
            catalog,
            relations,
        }
    }
}

impl Types {
    fn new(masks: &MaskSlice, catalog: &Catalog) -> Option<Self> {
        masks.types().next()?;
        let mask_of = |oid: u32| masks.types().find(|(name, _)| catalog.may_be_of_type(oid, name));
        let known = catalog.types().map(|oid| (oid, mask_of(oid).map(|(_, mask)| in_units(mask, oid, catalog))));
        Some(Self(known.collect()))
    }
}

/// Of money, a bucket's width in its smallest unit, of which the server keeps it: how many make one depends on `lc_monetary`, which a session may change
/// for itself.
fn in_units(function: &MaskFunction, type_oid: u32, catalog: &Catalog) -> MaskFunction {
    match function {
        MaskFunction::Bucket(width) if catalog.may_be_of_type(type_oid, "money") => {
            let wider = catalog.money_unit().and_then(|unit| width.get().checked_mul(unit)).and_then(NonZeroU64::new);
            wider.map_or(MaskFunction::Null, MaskFunction::Bucket)
        }
        _ => function.clone(),
    }
}

/// What the rules name themselves.
fn named(masks: &MaskSlice, catalog: &Catalog, database: &str) -> BTreeMap<u32, RelationMask> {
    let mut found = BTreeMap::new();
    for (oid, relation) in catalog.relations() {
        if !masks.touches_relation([database, &relation.schema, &relation.name]) {
            continue;
        }
        let mut mask = RelationMask::default();
        for (number, column) in &relation.columns {
            let path = [database, &*relation.schema, &*relation.name, &*column.name];
            let is_of = |name: &str| catalog.may_be_of_type(column.type_oid, name);
            let named = NamedColumn { path, is_of: &is_of, labels: Some(&column.labels) };
            if let Some(function) = masks.column(&named) {
                mask.columns.insert(*number, in_units(function, column.type_oid, catalog));
                mask.names.insert(Arc::clone(&column.name));
                if masks.is_opaque(&named) {
                    mask.opaque.insert(Arc::clone(&column.name));
                }
            }
        }
        if !mask.columns.is_empty() {
            found.insert(oid, mask);
        }
    }
    found
}

/// A generated column shows what it is computed from. One is never computed from another.
fn generate(catalog: &Catalog, relations: &mut BTreeMap<u32, RelationMask>) {
    for (oid, pairs) in catalog.generated() {
        let Some(mask) = relations.get_mut(&oid) else { continue };
        let Some(relation) = catalog.by_oid(oid) else { continue };
        for (number, source) in pairs {
            let Some(function) = mask.columns.get(source).map(blunt) else { continue };
            mask.columns.entry(*number).or_insert(function);
            let name = relation.columns.get(number).map(|column| Arc::clone(&column.name));
            if relation.columns.get(source).is_some_and(|column| mask.opaque.contains(&column.name)) {
                mask.opaque.extend(name.clone());
            }
            mask.names.extend(name);
        }
    }
}

/// A rule on a parent covers its children and partitions, and the reverse: each may show the rows of the other.
fn inherit(catalog: &Catalog, relations: &mut BTreeMap<u32, RelationMask>) {
    let mut open: Vec<(u32, Arc<str>, MaskFunction)> = Vec::new();
    for (oid, mask) in relations.iter() {
        let Some(relation) = catalog.by_oid(*oid) else { continue };
        open.extend(mask.columns.iter().filter_map(|(number, function)| {
            relation.columns.get(number).map(|column| (*oid, Arc::clone(&column.name), function.clone()))
        }));
    }
    while let Some((oid, name, function)) = open.pop() {
        let opaque = relations.get(&oid).is_some_and(|mask| mask.opaque.contains(&name));
        for relative in catalog.parents_of(oid).iter().chain(catalog.children_of(oid)) {
            let Some(number) = catalog.by_oid(*relative).and_then(|relation| number_of(relation, &name)) else {
                continue;
            };
            let mask = relations.entry(*relative).or_default();
            if opaque {
                mask.opaque.insert(Arc::clone(&name));
            }
            if mask.names.insert(Arc::clone(&name)) {
                mask.columns.insert(number, function.clone());
                open.push((*relative, Arc::clone(&name), function.clone()));
            }
        }
    }
}

fn number_of(relation: &CatalogRelation, name: &str) -> Option<i16> {
    relation.columns.iter().find(|(_, column)| &*column.name == name).map(|(number, _)| *number)
}

/// A view that reads an opaque column is opaque in all its columns: which of them show it, only its rule tells.
fn close(catalog: &Catalog, relations: &mut BTreeMap<u32, RelationMask>) {
    loop {
        let mut more: Vec<u32> = Vec::new();
        for (view, reads) in catalog.view_reads() {
            let open = relations.get(&view).is_some_and(|mask| mask.opaque.len() < mask.names.len());
            let shows = reads.iter().any(|read| {
                let known = catalog.by_oid(read.relation).and_then(|relation| relation.columns.get(&read.column));
                relations.get(&read.relation).is_some_and(|mask| {
                    let named = known.is_some_and(|column| mask.opaque.contains(&column.name));
                    named || (read.whole_row && !mask.opaque.is_empty())
                })
            });
            if open && shows {
                more.push(view);
            }
        }
        if more.is_empty() {
            return;
        }
        for view in more {
            if let Some(mask) = relations.get_mut(&view) {
                mask.opaque = mask.names.clone();
            }
        }
    }
}

/// A view that reads a masked column is masked whole: which of its columns show it, only its rule tells.
fn derive(catalog: &Catalog, relations: &mut BTreeMap<u32, RelationMask>) {
    loop {
        let mut more: Vec<(u32, MaskFunction)> = Vec::new();
        for (view, reads) in catalog.view_reads() {
            if relations.get(&view).is_some_and(|mask| mask.all.is_some()) {
                continue;
            }
            let shown = reads.iter().find_map(|read| {
                if read.function {
                    return Some(MaskFunction::Null);
                }
                let mask = relations.get(&read.relation)?;
                let column = mask.columns.get(&read.column).or(mask.all.as_ref());
                let any = || read.whole_row.then(|| mask.columns.values().next()).flatten();
                column.or_else(any).map(blunt)
            });
            more.extend(shown.map(|function| (view, function)));
        }
        if more.is_empty() {
            return;
        }
        for (view, function) in more {
            let names: BTreeSet<Arc<str>> = catalog
                .by_oid(view)
                .map(|relation| relation.columns.values().map(|column| Arc::clone(&column.name)).collect())
                .unwrap_or_default();
            let mask = relations.entry(view).or_default();
            mask.all = Some(function);
            mask.names.extend(names);
        }
    }
}

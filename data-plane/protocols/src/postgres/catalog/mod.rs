//! The relations of a target's database, as names and masks are resolved by them.
//!
//! The gateway reads it on a connection of its own, by the texts of [`queries`], and builds it with [`CatalogBuilder`]. Relations of
//! the system (OIDs below 16384) are left out: their names are known, and no mask names them.

mod calls;
mod labels;
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::analyze::Classified;

pub use load::{CatalogBuilder, CatalogError, CatalogPart, queries};

/// OIDs below are the system's own (FirstNormalObjectId of PostgreSQL's transam.h).
pub const FIRST_NORMAL_OID: u32 = 16_384;

/// A snapshot of a database's relations, schemas and functions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    user: Arc<str>,
    search_path: Vec<Arc<str>>,
    /// The search path as it was set.
    declared_path: Option<Arc<str>>,
    /// Code of the database's own runs at each login (event triggers, from 17 on).
    login_triggers: bool,
    /// Digits after the point of money, of which the server keeps the smallest unit.
    money_scale: Option<u8>,
    schemas: BTreeSet<Arc<str>>,
    /// Schemas that the role may not look into: names are not found there.
    closed: BTreeSet<Arc<str>>,
    relations: BTreeMap<u32, CatalogRelation>,
    by_name: BTreeMap<Arc<str>, BTreeMap<Arc<str>, u32>>,
    /// Relation to its generated columns, each beside a column that it is computed from.
    generated: BTreeMap<u32, Vec<(i16, i16)>>,
    /// View to what its rule reads.
    views: BTreeMap<u32, Vec<ViewRead>>,
    /// Child to parents, by inheritance or partitioning.
    parents: BTreeMap<u32, Vec<u32>>,
    /// Parent to children.
    children: BTreeMap<u32, Vec<u32>>,
    /// Function name to the schemas that have one, and what is known of it.
    functions: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Code>>,
    /// What is called by a cast to a type of this name.
    cast_functions: BTreeMap<Arc<str>, BTreeSet<Qualified>>,
    /// What is called by casts that nobody writes (implicit, or by assignment), from or to a type of this name. Those between the system's types are
    /// superusers' work, as code in C is.
    silent_casts: BTreeMap<Arc<str>, BTreeSet<Qualified>>,
    /// Functions that take a row as their only argument, and so can be written as a column.
    row_functions: BTreeSet<Arc<str>>,
    /// Relation to its unique indexes and exclusions, each with its columns by number. 0: an expression.
    keys: BTreeMap<u32, BTreeMap<Arc<str>, Vec<i16>>>,
    /// What runs because of relations.
    calls: calls::Behind,
    /// What texts were classified by it.
    classified: Classified,
    /// Types by their OIDs: the name, and the types that it is made of.
    types: BTreeMap<u32, (Arc<str>, Vec<u32>)>,
}

/// What the functions of one name do, or any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Code {
    /// Runs as its owner (SECURITY DEFINER).
    pub(crate) definer: bool,
    /// Not the same each time, or with an effect (VOLATILE).
    pub(crate) volatile: bool,
    /// Runs a text that is made when it runs (EXECUTE), changes settings that later names are read by, or is of a language whose texts are not looked into.
    pub(crate) opaque: bool,
    /// Takes or returns values of types that are not the system's.
    pub(crate) own_types: bool,
}

/// A schema, and a name in it.
type Qualified = (Arc<str>, Arc<str>);

/// One relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogRelation {
    /// Its schema.
    pub schema: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `relkind` of `pg_class`.
    pub kind: u8,
    /// Its columns by attribute number.
    pub columns: BTreeMap<i16, CatalogColumn>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogColumn {
    /// Its name.
    pub name: Arc<str>,
    /// OID of its type.
    pub type_oid: u32,
    /// Computed by the server; COPY leaves it out.
    pub generated: bool,
    /// Its own, and its relation's.
    pub labels: Vec<Arc<str>>,
}

/// What a view's rule reads of one relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ViewRead {
    pub(crate) relation: u32,
    /// 0: the relation as such.
    pub(crate) column: i16,
    /// The rule uses some row as a whole, of which no column is recorded.
    pub(crate) whole_row: bool,
    /// Not a relation at all: the rule calls a function of the database's own.
    pub(crate) function: bool,
}

impl Catalog {
    /// The role that it was read as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What was classified by it.
    #[must_use]
    pub(crate) const fn classified(&self) -> &Classified {
        &self.classified
    }

    /// The search path after login, as far as its schemas exist.
    #[must_use]
    pub fn search_path(&self) -> &[Arc<str>] {
        &self.search_path
    }

    /// The search path as it was set: with `"$user"`, and schemas that do not exist.
    #[must_use]
    pub fn declared_path(&self) -> Option<&str> {
        self.declared_path.as_deref()
    }

    /// Whether code of the database's own runs at each login: a session may begin with other names than the one that read this.
    #[must_use]
    pub const fn has_login_triggers(&self) -> bool {
        self.login_triggers
    }

    /// How many smallest units of money make one.
    pub(crate) fn money_unit(&self) -> Option<u64> {
        10_u64.checked_pow(self.money_scale?.into())
    }

    /// The relation of this name.
    #[must_use]
    pub fn relation(&self, schema: &str, name: &str) -> Option<(u32, &CatalogRelation)> {
        let oid = *self.by_name.get(schema)?.get(name)?;
        Some((oid, self.relations.get(&oid)?))
    }

    /// The relation with this OID.
    #[must_use]
    pub fn by_oid(&self, oid: u32) -> Option<&CatalogRelation> {
        self.relations.get(&oid)
    }

    /// Every relation.
    pub fn relations(&self) -> impl Iterator<Item = (u32, &CatalogRelation)> {
        self.relations.iter().map(|(oid, relation)| (*oid, relation))
    }

    /// Whether the schema exists.
    #[must_use]
    pub fn has_schema(&self, name: &str) -> bool {
        self.schemas.contains(name)
    }

    /// Whether unqualified names are looked up in the schema, where a search path names it.
    #[must_use]
    pub fn is_usable(&self, name: &str) -> bool {
        self.schemas.contains(name) && !self.closed.contains(name)
    }

    /// Functions, by schema and name, that a cast to a type of this name may call; those of the system and its extensions are left out.
    pub(crate) fn cast_functions(&self, type_name: &str) -> impl Iterator<Item = (&str, &str)> {
        let found =
            [&self.cast_functions, &self.silent_casts].into_iter().filter_map(|casts| casts.get(type_name)).flatten();
        found.map(|(schema, name)| (&**schema, &**name))
    }

    /// Whether `schema` has a function, or an operator of its own, of this name.
    #[must_use]
    pub fn has_function(&self, schema: &str, name: &str) -> bool {
        self.code(schema, name).is_some()
    }

    /// Whether any schema but the system's has a function, or an operator of its own, of this name.
    pub(crate) fn has_own_function(&self, name: &str) -> bool {
        let mut schemas = self.functions.get(name).into_iter().flatten();
        schemas.any(|(schema, _)| !matches!(&**schema, "pg_catalog" | "information_schema"))
    }

    /// What the functions of this name do.
    pub(crate) fn code(&self, schema: &str, name: &str) -> Option<Code> {
        self.functions.get(name)?.get(schema).copied()
    }

    /// Whether values of the type of this OID may be cast so.
    pub(crate) fn is_cast_silently(&self, oid: u32) -> bool {
        self.silent_casts.keys().any(|name| self.may_be_of_type(oid, name))
    }

    /// Types that are cast from or to without anybody's writing it, by functions of the database's own, and these functions.
    pub(crate) fn silent_casts(&self) -> impl Iterator<Item = (&str, &BTreeSet<Qualified>)> {
        self.silent_casts.iter().map(|(name, called)| (&**name, called))
    }

    /// Whether any schema has a function of this name.
    #[must_use]
    pub fn is_function(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// Whether a function of this name takes a row as its only argument.
    #[must_use]
    pub fn takes_row(&self, name: &str) -> bool {
        self.row_functions.contains(name)
    }

    /// Every type that is known.
    pub(crate) fn types(&self) -> impl Iterator<Item = u32> {
        self.types.keys().copied()
    }

    /// Whether a type is the one of this name, or made of it: a domain over it, an array, a range, a composite type. A type that is not known may be.
    #[must_use]
    pub fn may_be_of_type(&self, oid: u32, name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![oid];
        while let Some(oid) = open.pop() {
            if !seen.insert(oid) {
                continue;
            }
            match self.types.get(&oid) {
                None => return true,
                Some((known, _)) if **known == *name => return true,
                Some((_, parts)) => open.extend(parts),
            }
        }
        false
    }

    /// The columns of the constraint of this name, or of all unique indexes and exclusions of the relation. None where any may be meant: there is none
    /// of the name, one is of an expression, or those of other relations stand behind it.
    pub(crate) fn unique_columns(&self, oid: u32, constraint: Option<&str>) -> Option<BTreeSet<String>> {
        let known = self.by_oid(oid)?;
        if constraint.is_none() && self.behind(oid).next().is_some() {
            return None;
        }
        let keys = self.keys.get(&oid);
        let meant = |name: &str| constraint.is_none_or(|constraint| constraint == name);
        let found: Vec<_> = keys.into_iter().flatten().filter(|(name, _)| meant(name)).collect();
        if found.is_empty() && constraint.is_some() {
            return None;
        }
        let numbers = found.into_iter().flat_map(|(_, numbers)| numbers);
        numbers.map(|number| known.columns.get(number).map(|column| column.name.to_string())).collect()
    }

    pub(crate) fn generated(&self) -> impl Iterator<Item = (u32, &[(i16, i16)])> {
        self.generated.iter().map(|(oid, pairs)| (*oid, pairs.as_slice()))
    }

    pub(crate) fn view_reads(&self) -> impl Iterator<Item = (u32, &[ViewRead])> {
        self.views.iter().map(|(view, reads)| (*view, reads.as_slice()))
    }

    /// What stands behind a relation, by any name: what a view reads, and the other relations of an inheritance or partitioning.
    pub(crate) fn behind(&self, oid: u32) -> impl Iterator<Item = u32> {
        let read = self.views.get(&oid).into_iter().flatten().map(|read| read.relation);
        read.chain(self.parents_of(oid).iter().copied()).chain(self.children_of(oid).iter().copied())
    }

    /// Whether it is a view that reads a relation of the system, itself or through other views.
    pub(crate) fn views_the_system(&self, oid: u32) -> bool {
        let (mut open, mut seen) = (vec![oid], BTreeSet::new());
        while let Some(oid) = open.pop() {
            let reads = self.views.get(&oid).into_iter().flatten().filter(|read| !read.function);
            for read in reads {
                if read.relation < FIRST_NORMAL_OID {
                    return true;
                }
                if seen.insert(read.relation) {
                    open.push(read.relation);
                }
            }
        }
        false
    }

    pub(crate) fn parents_of(&self, oid: u32) -> &[u32] {
        self.parents.get(&oid).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn children_of(&self, oid: u32) -> &[u32] {
        self.children.get(&oid).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_not_as_asked_for_are_refused() {
        let bad: [(CatalogPart, &[Option<&str>]); 13] = [
            (CatalogPart::Session, &[Some("gate")]),
            (CatalogPart::Schemas, &[None]),
            (CatalogPart::Relations, &[Some("x"), Some("public"), Some("t"), Some("r")]),
            (CatalogPart::Relations, &[Some("-1"), Some("public"), Some("t"), Some("r")]),
            (CatalogPart::Columns, &[Some("1"), Some("1"), Some("c"), None, Some("0")]),
            (CatalogPart::Views, &[Some("1"), Some("2"), Some("99999"), Some("0")]),
            (CatalogPart::Inheritance, &[Some("1"), None]),
            (CatalogPart::Functions, &[Some("f"), None, Some("0"), Some("0"), Some("0")]),
            (CatalogPart::Casts, &[Some("t"), Some("public"), Some("f")]),
            (CatalogPart::Types, &[Some("1"), Some("t"), Some("x")]),
            (CatalogPart::Calls, &[Some("1"), Some("c"), Some("0"), Some("0"), None]),
            (CatalogPart::Keys, &[Some("1"), Some("k"), None]),
            (CatalogPart::Labels, &[Some("1"), Some("x"), None, Some("pii")]),
        ];
        for (part, values) in bad {
            assert_eq!(CatalogBuilder::new().row(part, values), Err(CatalogError::Malformed(part)));
        }
    }

    #[test]
    fn a_catalog_is_bounded() {
        let mut builder = CatalogBuilder::new();
        let row = [Some("20000"), Some("1"), Some("c"), Some("25"), Some("0")];
        let full = (0..1_000_000).find_map(|_| builder.row(CatalogPart::Columns, &row).err());
        assert_eq!(full, Some(CatalogError::TooLarge));
    }

    #[test]
    fn names_and_oids_lead_to_the_same() {
        let catalog = crate::postgres::analyze::tests::catalog();
        let (oid, relation) = catalog.relation("app", "jobs").unwrap();
        assert_eq!(catalog.by_oid(oid), Some(relation));
        assert!(catalog.relation("public", "jobs").is_none());
        assert!(catalog.takes_row("leak") && !catalog.takes_row("lower"));
        assert_eq!((catalog.user(), catalog.search_path().len()), ("gate", 1));
    }
}

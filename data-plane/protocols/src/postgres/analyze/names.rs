//! Names of relations and other objects, resolved as the server resolves them.

use std::sync::Arc;

use pg_query::{NodeEnum, protobuf as pb};

use super::walk::{Analyzer, Seen};
use crate::sql::{Relation, Unclassifiable};

/// The schema of what could not be resolved: only patterns like `*` mean it.
pub(super) const UNRESOLVED: &str = "?";
/// Temporary relations, whatever number the server gives their schema.
pub(super) const TEMPORARY: &str = "pg_temp";
pub(super) const SYSTEM: &str = "pg_catalog";

impl Analyzer<'_> {
    /// What a relation's name may mean; more than one when the session's own changes leave it open. Never empty.
    pub(super) fn resolve(&self, range: &pb::RangeVar) -> Result<Vec<Relation>, Unclassifiable> {
        if !range.catalogname.is_empty() && range.catalogname != *self.context.database {
            return Err(Unclassifiable::doubt("a relation of another database cannot be reached from here"));
        }
        Ok(self.lookup(&range.schemaname, &range.relname))
    }

    /// As [`Self::resolve`], of a dotted name.
    pub(super) fn resolve_parts(&self, parts: &[&str]) -> Result<Vec<Relation>, Unclassifiable> {
        let range = match parts {
            [name] => pb::RangeVar { relname: (*name).to_owned(), ..Default::default() },
            [schema, name] => {
                pb::RangeVar { schemaname: (*schema).to_owned(), relname: (*name).to_owned(), ..Default::default() }
            }
            [database, schema, name] => pb::RangeVar {
                catalogname: (*database).to_owned(),
                schemaname: (*schema).to_owned(),
                relname: (*name).to_owned(),
                ..Default::default()
            },
            _ => return Err(Unclassifiable::doubt("a name has too many parts")),
        };
        self.resolve(&range)
    }

    fn lookup(&self, schema: &str, name: &str) -> Vec<Relation> {
        if !schema.is_empty() {
            return vec![Relation::new(schema, name)];
        }
        let mut found = Vec::new();
        let mut add = |schema: &str| {
            let relation = Relation::new(schema, name);
            if !found.contains(&relation) {
                found.push(relation);
            }
        };
        // Another role may not look into the schemas that this one may.
        let touched = self.names.is_touched(name) || !self.names.roles().is_empty();
        if self.names.is_temporary(name) {
            add(TEMPORARY);
        }
        // The system's relations come first in every path; all of their names begin so.
        if name.starts_with("pg_") {
            add(SYSTEM);
        }
        if let Some(catalog) = &self.context.catalog {
            if catalog.relation(SYSTEM, name).is_some() {
                add(SYSTEM);
            }
            for path in self.names.paths(&self.context.search_path) {
                for schema in self.schemas_of(path) {
                    if catalog.relation(schema, name).is_some() && self.is_usable(schema) {
                        add(schema);
                        if !touched {
                            break;
                        }
                    }
                }
                if touched {
                    self.first_schemas(path).for_each(&mut add);
                }
            }
        }
        if found.is_empty() {
            found.push(Relation::new(UNRESOLVED, name));
        }
        found
    }

    /// Where an unqualified relation would be made: one place for each search path that may hold. Never empty.
    pub(super) fn place_of_new(&self, range: &pb::RangeVar) -> Result<Vec<Relation>, Unclassifiable> {
        if !range.catalogname.is_empty() || !range.schemaname.is_empty() {
            return self.resolve(range);
        }
        if range.relpersistence == "t" {
            return Ok(vec![Relation::new(TEMPORARY, &range.relname)]);
        }
        Ok(self.schemas_of_new().into_iter().map(|schema| Relation::new(schema, &range.relname)).collect())
    }

    /// The schemas in which an unqualified object may be made. Never empty.
    pub(super) fn schemas_of_new(&self) -> Vec<String> {
        let mut schemas = Vec::new();
        for path in self.names.paths(&self.context.search_path) {
            let before = schemas.len();
            for schema in self.first_schemas(path) {
                if !schemas.iter().any(|known| known == schema) {
                    schemas.push(schema.to_owned());
                }
            }
            if schemas.len() == before && self.first_schemas(path).next().is_none() {
                schemas.push(UNRESOLVED.to_owned());
            }
        }
        schemas
    }

    /// The first schema of the path, in which objects are made: several where it is open which of them exist, or may be looked into.
    fn first_schemas<'b>(&'b self, path: &'b [Arc<str>]) -> impl Iterator<Item = &'b str> {
        let open = !self.names.roles().is_empty() || self.names.is_touched("");
        let mut found = false;
        self.schemas_of(path).filter(|schema| self.is_usable(schema)).take_while(move |schema| {
            let wanted = !found;
            // What the session has just made may yet be undone, or not be there at all.
            found |= !open && !self.names.has_made_schema(schema);
            wanted
        })
    }

    /// Whether names are looked up in it.
    fn is_usable(&self, schema: &str) -> bool {
        let Some(catalog) = &self.context.catalog else { return false };
        schema == TEMPORARY
            || catalog.is_usable(schema)
            || (!self.names.roles().is_empty() && catalog.has_schema(schema))
            || self.names.has_made_schema(schema)
    }

    /// The schemas that a search path names.
    fn schemas_of<'b>(&'b self, path: &'b [Arc<str>]) -> impl Iterator<Item = &'b str> {
        path.iter().flat_map(|schema| {
            let users = &**schema == "$user";
            let plain = (!users).then_some(&**schema);
            let roles = users
                .then(|| std::iter::once(&*self.context.user).chain(self.names.roles().iter().map(String::as_str)));
            plain.into_iter().chain(roles.into_iter().flatten())
        })
    }

    /// The schemas that an unqualified function's name may be found in, outside the system's. Empty: in none that is known.
    pub(super) fn schemas_of_function(&self, name: &str) -> Vec<String> {
        let Some(catalog) = &self.context.catalog else { return Vec::new() };
        let mut found: Vec<String> = self.names.made_routines(name).map(str::to_owned).collect();
        // Any of them may have come into the path under another name.
        if self.names.has_touched_schemas() && catalog.has_own_function(name) {
            found.push(UNRESOLVED.to_owned());
        }
        for path in self.names.paths(&self.context.search_path) {
            for schema in self.schemas_of(path) {
                if schema != SYSTEM && catalog.has_function(schema, name) && !found.iter().any(|known| known == schema)
                {
                    found.push(schema.to_owned());
                }
            }
        }
        found
    }
}

/// The parts of a dotted name.
pub(super) fn parts(list: &[pb::Node]) -> Result<Vec<&str>, Unclassifiable> {
    list.iter().map(text).collect()
}

/// A name that stands in a String node.
pub(super) fn text(node: &pb::Node) -> Result<&str, Unclassifiable> {
    match &node.node {
        Some(NodeEnum::String(name)) => Ok(&name.sval),
        _ => Err(Unclassifiable::doubt("a name is not of a form that Postern knows")),
    }
}

/// The schema and name of what is no relation; `?` for an unqualified one.
pub(super) fn schema_and_name(list: &[pb::Node]) -> Result<(String, String), Unclassifiable> {
    match parts(list)?.as_slice() {
        [name] => Ok((UNRESOLVED.to_owned(), (*name).to_owned())),
        [schema, name] | [_, schema, name] => Ok(((*schema).to_owned(), (*name).to_owned())),
        _ => Err(Unclassifiable::doubt("a name has too many parts")),
    }
}

/// The parts of a dotted name that is a List node, a String node or a TypeName.
pub(super) fn parts_of_node(node: &pb::Node) -> Result<Vec<&str>, Unclassifiable> {
    match &node.node {
        Some(NodeEnum::List(list)) => parts(&list.items),
        Some(NodeEnum::String(name)) => Ok(vec![&name.sval]),
        Some(NodeEnum::TypeName(name)) => parts(&name.names),
        Some(NodeEnum::ObjectWithArgs(object)) => parts(&object.objname),
        _ => Err(Unclassifiable::doubt("a name is not of a form that Postern knows")),
    }
}

/// A node is missing where the grammar demands one.
pub(super) fn missing<T>(node: Option<T>) -> Result<T, Unclassifiable> {
    node.ok_or_else(|| Unclassifiable::doubt("the statement is not of a form that Postern knows"))
}

/// Done.
pub(super) const SEEN: Seen = Ok(());

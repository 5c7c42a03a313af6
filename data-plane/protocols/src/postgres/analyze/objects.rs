//! Objects of every kind, as definitions name them.

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{Object, ObjectKind, Verb};

use super::names::{self, SEEN, UNRESOLVED};
use super::walk::{Analyzer, Seen};
use crate::sql::{Relation, SessionEffect, Unclassifiable};

impl Analyzer<'_> {
    /// `verb` on an existing object that a node names.
    pub(super) fn act_on_named(&mut self, verb: Verb, kind: pb::ObjectType, node: &pb::Node) -> Seen {
        use pb::ObjectType as T;
        match kind {
            T::ObjectTable
            | T::ObjectView
            | T::ObjectMatview
            | T::ObjectForeignTable
            | T::ObjectIndex
            | T::ObjectSequence => {
                let parts = names::parts_of_node(node)?;
                self.reshape(verb, &parts)
            }
            T::ObjectColumn | T::ObjectRule | T::ObjectTrigger | T::ObjectPolicy | T::ObjectTabconstraint => {
                let parts = names::parts_of_node(node)?;
                let Some((_, relation)) = parts.split_last() else {
                    return Err(Unclassifiable::doubt("a name has too few parts"));
                };
                self.reshape(verb, relation)
            }
            T::ObjectSchema => {
                let name = names::text(node)?;
                let database = self.context.database.to_string();
                self.out.act_on(verb, ObjectKind::Schema, [&*database, name]);
                SEEN
            }
            T::ObjectDatabase => {
                self.out.act_on(verb, ObjectKind::Database, [names::text(node)?]);
                SEEN
            }
            T::ObjectRole => {
                self.out.act_on(verb, ObjectKind::Role, [names::text(node)?]);
                self.out.act_on(Verb::SqlGrant, ObjectKind::Role, [names::text(node)?]);
                SEEN
            }
            T::ObjectFunction
            | T::ObjectProcedure
            | T::ObjectRoutine
            | T::ObjectAggregate
            | T::ObjectOperator
            | T::ObjectType
            | T::ObjectDomain
            | T::ObjectAttribute
            | T::ObjectCollation
            | T::ObjectConversion
            | T::ObjectStatisticExt
            | T::ObjectTsconfiguration
            | T::ObjectTsdictionary
            | T::ObjectTsparser
            | T::ObjectTstemplate => {
                let parts = names::parts_of_node(node)?;
                self.act_on_routine(verb, &parts)
            }
            T::ObjectOpclass | T::ObjectOpfamily => {
                // Preceded by the access method.
                let parts = names::parts_of_node(node)?;
                self.act_on_routine(verb, parts.get(1..).unwrap_or_default())
            }
            T::ObjectDomconstraint => {
                let database = self.context.database.to_string();
                self.out.act_on(verb, ObjectKind::Routine, [&*database, UNRESOLVED, UNRESOLVED]);
                SEEN
            }
            T::ObjectAccessMethod
            | T::ObjectCast
            | T::ObjectEventTrigger
            | T::ObjectExtension
            | T::ObjectFdw
            | T::ObjectForeignServer
            | T::ObjectLanguage
            | T::ObjectPublication
            | T::ObjectSubscription
            | T::ObjectTablespace
            | T::ObjectTransform
            | T::ObjectLargeobject
            | T::ObjectParameterAcl => {
                let class = kind.as_str_name().to_ascii_lowercase();
                let class = class.strip_prefix("object_").unwrap_or(&class).replace('_', "-");
                let name = names::text(node).unwrap_or(UNRESOLVED);
                self.act_on_server(verb, &class, name);
                SEEN
            }
            T::Undefined
            | T::ObjectAmop
            | T::ObjectAmproc
            | T::ObjectDefault
            | T::ObjectDefacl
            | T::ObjectPublicationNamespace
            | T::ObjectPublicationRel
            | T::ObjectUserMapping => Err(Unclassifiable::doubt("an object of a kind that Postern does not know")),
        }
    }

    /// `verb` on what belongs to the server itself, which is administration whatever the verb.
    pub(super) fn act_on_server(&mut self, verb: Verb, class: &str, name: &str) {
        // Extensions and casts bring functions.
        self.out.changes_catalog = true;
        self.out.act_on(verb, ObjectKind::Server, [class, name]);
        self.out.act_on(Verb::SqlAdmin, ObjectKind::Server, [class, name]);
    }

    /// `verb` on an existing function, type or the like.
    pub(super) fn act_on_routine(&mut self, verb: Verb, parts: &[&str]) -> Seen {
        let database = self.context.database.to_string();
        let name = match parts {
            [name] | [_, name] | [_, _, name] => *name,
            _ => return Err(Unclassifiable::doubt("a name has too many or too few parts")),
        };
        for schema in self.schemas_of_routine(parts) {
            self.out.act_on(verb, ObjectKind::Routine, [&*database, &*schema, name]);
        }
        SEEN
    }

    /// The schemas that a function, type or the like of this name may be of. Never empty.
    pub(super) fn schemas_of_routine(&self, parts: &[&str]) -> Vec<String> {
        let schemas = match parts {
            [name] => self.schemas_of_function(name),
            [schema, _] | [_, schema, _] => vec![(*schema).to_owned()],
            _ => Vec::new(),
        };
        if schemas.is_empty() { vec![UNRESOLVED.to_owned()] } else { schemas }
    }

    /// A new function, type or the like: of its own schema, or of the first of the search path.
    pub(super) fn create_routine(&mut self, name: &[pb::Node]) -> Result<Vec<Object>, Unclassifiable> {
        let (schema, name) = names::schema_and_name(name)?;
        let schemas = if schema == UNRESOLVED { self.schemas_of_new() } else { vec![schema] };
        let mut made = Vec::new();
        for schema in schemas {
            let object = Object::new(ObjectKind::Routine, [&*self.context.database, &*schema, &*name]);
            self.out.act(Verb::SqlCreate, object.clone());
            made.push(object);
            self.out.effects.push(SessionEffect::CreatedRoutine { schema, name: name.clone() });
        }
        self.out.changes_catalog = true;
        Ok(made)
    }

    /// A new relation.
    pub(super) fn create_relation(&mut self, range: Option<&pb::RangeVar>) -> Seen {
        let range = names::missing(range)?;
        let places = self.place_of_new(range)?;
        // `pg_temp` may stand in a search path, too.
        let temporary = |relation: &&Relation| relation.schema == names::TEMPORARY;
        if places.iter().any(|relation| temporary(&relation)) {
            self.out.effects.push(SessionEffect::CreatedTemporary(range.relname.clone()));
        }
        if !places.iter().all(|relation| temporary(&relation)) {
            self.out.effects.push(SessionEffect::Touched(range.relname.clone()));
        }
        for relation in places {
            self.out.act(Verb::SqlCreate, self.object(&relation));
            self.out.facts.writes.insert(relation);
        }
        self.out.changes_catalog = true;
        SEEN
    }

    /// `verb` on the definition of a relation that exists.
    pub(super) fn reshape(&mut self, verb: Verb, parts: &[&str]) -> Seen {
        for relation in self.resolve_parts(parts)? {
            self.reshapes(verb, relation);
        }
        SEEN
    }

    pub(super) fn reshape_range(&mut self, verb: Verb, range: Option<&pb::RangeVar>) -> Seen {
        for relation in self.resolve(names::missing(range)?)? {
            self.reshapes(verb, relation);
        }
        SEEN
    }

    fn reshapes(&mut self, verb: Verb, relation: Relation) {
        self.out.act(verb, self.object(&relation));
        let touched = SessionEffect::Touched(relation.name.clone());
        let hides = verb != Verb::SqlGrant && relation.schema != names::TEMPORARY && !self.out.is_too_large();
        if hides && !self.out.effects.contains(&touched) {
            self.out.effects.push(touched);
        }
        self.out.changes_catalog = true;
        self.out.facts.reshapes.insert(relation);
    }

    /// `verb` on relations that cannot be named.
    pub(super) fn any_relation(&mut self, verb: Verb) {
        let database = self.context.database.to_string();
        self.out.act_on(verb, ObjectKind::Relation, [&*database, UNRESOLVED, UNRESOLVED]);
    }

    /// CASCADE reaches what the statement does not name.
    pub(super) fn cascade(&mut self, verb: Verb, behavior: i32) {
        if behavior == pb::DropBehavior::DropCascade as i32 {
            self.any_relation(verb);
            self.out.effects.push(SessionEffect::TouchedSchemas);
        }
    }

    /// A role that a statement names; `public` for everyone.
    pub(super) fn role(&self, role: Option<&pb::RoleSpec>) -> String {
        let Some(role) = role else { return UNRESOLVED.to_owned() };
        match pb::RoleSpecType::try_from(role.roletype) {
            Ok(pb::RoleSpecType::RolespecCstring) => role.rolename.clone(),
            Ok(pb::RoleSpecType::RolespecPublic) => "public".to_owned(),
            _ => self.context.user.to_string(),
        }
    }

    pub(super) fn grants_role(&mut self, role: Option<&pb::RoleSpec>) {
        let role = self.role(role);
        self.out.act_on(Verb::SqlGrant, ObjectKind::Role, [role]);
    }

    pub(super) fn grants_roles(&mut self, roles: &[pb::Node]) -> Seen {
        for role in roles {
            match &role.node {
                Some(NodeEnum::RoleSpec(role)) => self.grants_role(Some(role)),
                Some(NodeEnum::AccessPriv(granted)) => {
                    self.out.act_on(Verb::SqlGrant, ObjectKind::Role, [granted.priv_name.clone()]);
                }
                _ => return Err(Unclassifiable::doubt("a role is not of a form that Postern knows")),
            }
        }
        SEEN
    }
}

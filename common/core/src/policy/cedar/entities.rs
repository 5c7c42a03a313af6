//! Principals, targets and what is acted on, as Cedar's entities.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use crate::action::{Action, Object, ObjectKind, Verb};
use crate::name::Name;
use crate::principal::Principal;

/// The entity types of the schema.
pub(super) struct Types {
    issuer: EntityTypeName,
    group: EntityTypeName,
    token: EntityTypeName,
    principal: EntityTypeName,
    pub(super) target: EntityTypeName,
    database: EntityTypeName,
    schema: EntityTypeName,
    table: EntityTypeName,
    function: EntityTypeName,
    role: EntityTypeName,
    setting: EntityTypeName,
    channel: EntityTypeName,
    server: EntityTypeName,
    action: EntityTypeName,
}

static TYPES: LazyLock<Option<Types>> = LazyLock::new(Types::new);

/// Attributes of an entity.
type Attributes = Vec<(String, RestrictedExpression)>;

fn text(of: impl Into<String>) -> RestrictedExpression {
    RestrictedExpression::new_string(of.into())
}

fn id(of: &EntityTypeName, id: impl AsRef<str>) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}

impl Types {
    fn new() -> Option<Self> {
        let named = |name| EntityTypeName::from_str(name).ok();
        Some(Self {
            issuer: named("Issuer")?,
            group: named("Group")?,
            token: named("Token")?,
            principal: named("Principal")?,
            target: named("Target")?,
            database: named("Database")?,
            schema: named("Schema")?,
            table: named("Table")?,
            function: named("Function")?,
            role: named("Role")?,
            setting: named("Setting")?,
            channel: named("Channel")?,
            server: named("Server")?,
            action: named("Action")?,
        })
    }

    /// They are there: their names are constants, which a test reads.
    pub(super) fn get() -> Option<&'static Self> {
        TYPES.as_ref()
    }

    pub(super) fn principal(&self, principal: &Principal) -> EntityUid {
        id(&self.principal, principal.id.to_string())
    }

    pub(super) fn target(&self, target: &Name) -> EntityUid {
        id(&self.target, target.as_str())
    }

    pub(super) fn action(&self, action: &str) -> EntityUid {
        id(&self.action, action)
    }

    /// Whether `principal` is what `of` names.
    pub(super) fn is(&self, principal: &Principal, of: &EntityUid) -> bool {
        *of.type_name() == self.principal && of.id().unescaped() == principal.id.to_string()
    }

    /// Whether `principal` is, or is in, what `of` names.
    pub(super) fn is_in(&self, principal: &Principal, of: &EntityUid) -> bool {
        let (name, kind) = (of.id().unescaped(), of.type_name());
        if *kind == self.group {
            principal.groups.contains(name)
        } else if *kind == self.issuer {
            principal.id.issuer.as_str() == name
        } else if *kind == self.token {
            principal.tokens().any(|token| **token == *name)
        } else {
            self.is(principal, of)
        }
    }

    /// `principal`, with its claims as tags.
    pub(super) fn principal_entity(&self, principal: &Principal) -> Option<Entity> {
        let actors = principal.chain.iter().filter_map(|link| link.actor.as_ref()).map(|actor| text(actor.to_string()));
        let depth = i64::try_from(principal.chain.len().saturating_sub(1)).unwrap_or(i64::MAX);
        let attributes: Attributes = vec![
            ("issuer".into(), text(principal.id.issuer.as_str())),
            ("subject".into(), text(&*principal.id.subject)),
            ("depth".into(), RestrictedExpression::new_long(depth)),
            ("actors".into(), RestrictedExpression::new_set(actors)),
        ];
        let groups = principal.groups.iter().map(|group| id(&self.group, group));
        let tokens = principal.tokens().map(|token| id(&self.token, token));
        let parents = groups.chain(tokens).chain([id(&self.issuer, principal.id.issuer.as_str())]);
        let claims = principal.claims.iter().map(|(claim, values)| {
            (claim.to_owned(), RestrictedExpression::new_set(values.iter().map(|value| text(&**value))))
        });
        Entity::new_with_tags(self.principal(principal), attributes, parents, claims).ok()
    }

    /// The target, with its labels as tags.
    pub(super) fn target_entity(&self, target: &Name, labels: &BTreeMap<String, String>) -> Option<Entity> {
        let own = self.target(target);
        let attributes: Attributes = vec![
            ("name".into(), text(target.as_str())),
            ("target".into(), RestrictedExpression::new_entity_uid(own.clone())),
        ];
        let labels = labels.iter().map(|(key, value)| (key.clone(), text(value)));
        Entity::new_with_tags(own, attributes, [], labels).ok()
    }

    /// What `action` acts on. All that it is in stands there as its parents, so that nothing has to be looked up.
    pub(super) fn resource_entity(&self, target: &Name, object: &Object) -> Option<Entity> {
        let path = &object.path;
        let own = |kind: &EntityTypeName, parts: &[Arc<str>]| id(kind, format!("{target}/{}", dotted(parts)));
        let kind = match object.kind {
            ObjectKind::Relation => &self.table,
            ObjectKind::Routine => &self.function,
            ObjectKind::Schema => &self.schema,
            ObjectKind::Database => &self.database,
            ObjectKind::Role => &self.role,
            ObjectKind::Setting => &self.setting,
            ObjectKind::Channel => &self.channel,
            ObjectKind::Server => &self.server,
        };
        let mut parents = vec![self.target(target)];
        let mut attributes: Attributes =
            vec![("target".into(), RestrictedExpression::new_entity_uid(self.target(target)))];
        let within = match object.kind {
            ObjectKind::Relation | ObjectKind::Routine => 2,
            ObjectKind::Schema => 1,
            _ => 0,
        };
        // A name with fewer parts than its kind has is not of the schema's form: what speaks of the missing ones then fails, and denies.
        let outer = path.get(..within.min(path.len().saturating_sub(1))).unwrap_or_default();
        if let Some(database) = outer.first() {
            parents.push(own(&self.database, outer.get(..1)?));
            attributes.push(("database".into(), text(&**database)));
        }
        if let Some(schema) = outer.get(1) {
            parents.push(own(&self.schema, outer));
            attributes.push(("schema".into(), text(&**schema)));
        }
        let name = dotted_plainly(path.get(outer.len()..)?);
        attributes.push(("name".into(), text(name)));
        Entity::new_with_tags(own(kind, path), attributes, parents, []).ok()
    }
}

/// The groups of actions that `verb` is in.
pub(super) fn groups_of(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::SqlSelect => &["sql:read", "sql:*"],
        Verb::SqlInsert | Verb::SqlUpdate | Verb::SqlDelete | Verb::SqlTruncate => &["sql:write", "sql:*"],
        Verb::SqlCreate | Verb::SqlAlter | Verb::SqlDrop | Verb::SqlGrant => &["sql:define", "sql:*"],
        Verb::SqlCall
        | Verb::SqlMaintain
        | Verb::SqlLock
        | Verb::SqlNotify
        | Verb::SqlSet
        | Verb::SqlSetRole
        | Verb::SqlServerFile
        | Verb::SqlAdmin
        | Verb::SqlOpaque => &["sql:*"],
    }
}

/// Whether all of `actions` read, and nothing else.
pub(super) fn read_only(actions: &[Action]) -> bool {
    actions.iter().all(|action| action.verb == Verb::SqlSelect)
}

/// The target of which `of` is: what stands before the first slash, which no target's name holds.
pub(super) fn target_of(of: &EntityUid) -> &str {
    let all = of.id().unescaped();
    all.split_once('/').map_or(all, |(target, _)| target)
}

/// Its parts, each quoted where it could be taken for several.
fn dotted(parts: &[Arc<str>]) -> String {
    let mut all = String::new();
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            all.push('.');
        }
        if part.is_empty() || part.contains(['.', '"']) {
            all.push('"');
            all.push_str(&part.replace('"', "\"\""));
            all.push('"');
        } else {
            all.push_str(part);
        }
    }
    all
}

/// A name of one part as it is.
fn dotted_plainly(parts: &[Arc<str>]) -> String {
    match parts {
        [one] => one.to_string(),
        several => dotted(several),
    }
}

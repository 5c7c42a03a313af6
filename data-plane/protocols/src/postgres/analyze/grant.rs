//! Roles and privileges.

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{ObjectKind, Verb};

use super::names::{self, SEEN};
use super::walk::{Analyzer, Seen};
use crate::sql::Unclassifiable;

impl Analyzer<'_> {
    /// Statements on roles, owners and privileges; `None` when the node is none of them.
    pub(super) fn grants(&mut self, node: &NodeEnum) -> Option<Seen> {
        Some(match node {
            NodeEnum::GrantStmt(grant) => self.grant(grant),
            NodeEnum::GrantRoleStmt(grant) => {
                self.grants_roles(&grant.granted_roles).and_then(|()| self.grants_roles(&grant.grantee_roles))
            }
            NodeEnum::AlterDefaultPrivilegesStmt(defaults) => self.default_privileges(defaults),
            NodeEnum::CreateRoleStmt(create) => {
                self.out.act_on(Verb::SqlCreate, ObjectKind::Role, [&*create.role]);
                self.out.act_on(Verb::SqlGrant, ObjectKind::Role, [&*create.role]);
                SEEN
            }
            NodeEnum::AlterRoleStmt(alter) => {
                self.grants_role(alter.role.as_ref());
                SEEN
            }
            NodeEnum::AlterRoleSetStmt(alter) => {
                self.grants_role(alter.role.as_ref());
                SEEN
            }
            NodeEnum::DropRoleStmt(dropped) => {
                for role in &dropped.roles {
                    if let Some(NodeEnum::RoleSpec(role)) = &role.node {
                        let role = self.role(Some(role));
                        self.out.act_on(Verb::SqlDrop, ObjectKind::Role, [role]);
                    }
                }
                self.grants_roles(&dropped.roles)
            }
            NodeEnum::DropOwnedStmt(owned) => {
                self.cascade(Verb::SqlDrop, pb::DropBehavior::DropCascade as i32);
                self.grants_roles(&owned.roles)
            }
            NodeEnum::ReassignOwnedStmt(owned) => {
                self.grants_role(owned.newrole.as_ref());
                self.grants_roles(&owned.roles)
            }
            NodeEnum::AlterOwnerStmt(owner) => self.owner(owner),
            NodeEnum::CreatePolicyStmt(policy) => {
                self.table_policy(policy.table.as_ref(), policy.qual.as_deref(), policy.with_check.as_deref())
            }
            NodeEnum::AlterPolicyStmt(policy) => {
                self.table_policy(policy.table.as_ref(), policy.qual.as_deref(), policy.with_check.as_deref())
            }
            NodeEnum::SecLabelStmt(label) => {
                let Ok(kind) = pb::ObjectType::try_from(label.objtype) else {
                    return Some(Err(Unclassifiable::doubt("an object of a kind that Postern does not know")));
                };
                names::missing(label.object.as_deref())
                    .and_then(|object| self.act_on_named(Verb::SqlGrant, kind, object))
            }
            _ => return None,
        })
    }

    fn table_policy(
        &mut self,
        table: Option<&pb::RangeVar>,
        qual: Option<&pb::Node>,
        check: Option<&pb::Node>,
    ) -> Seen {
        self.reshape_range(Verb::SqlGrant, table)?;
        self.condition(qual)?;
        self.condition(check)
    }

    fn grant(&mut self, grant: &pb::GrantStmt) -> Seen {
        let Ok(kind) = pb::ObjectType::try_from(grant.objtype) else {
            return Err(Unclassifiable::doubt("an object of a kind that Postern does not know"));
        };
        if kind == pb::ObjectType::ObjectSchema {
            // Who may look into a schema finds other names.
            self.out.effects.push(crate::sql::SessionEffect::TouchedSchemas);
            self.out.changes_catalog = true;
        }
        let whole_schemas = grant.targtype == pb::GrantTargetType::AclTargetAllInSchema as i32;
        for object in &grant.objects {
            match (&object.node, whole_schemas) {
                (_, true) => self.act_on_named(Verb::SqlGrant, pb::ObjectType::ObjectSchema, object)?,
                (Some(NodeEnum::RangeVar(range)), _) => {
                    for relation in self.resolve(range)? {
                        self.out.act(Verb::SqlGrant, self.object(&relation));
                    }
                }
                (Some(NodeEnum::Integer(_) | NodeEnum::Float(_)), _) => {
                    self.act_on_server(Verb::SqlGrant, "large-object", names::UNRESOLVED);
                }
                _ => self.act_on_named(Verb::SqlGrant, kind, object)?,
            }
        }
        SEEN
    }

    fn default_privileges(&mut self, defaults: &pb::AlterDefaultPrivilegesStmt) -> Seen {
        let database = self.context.database.to_string();
        self.out.act_on(Verb::SqlGrant, ObjectKind::Database, [&*database]);
        for option in &defaults.options {
            let Some(NodeEnum::DefElem(option)) = &option.node else {
                return Err(Unclassifiable::doubt("an option is not of a form that Postern knows"));
            };
            if let Some(NodeEnum::List(list)) = option.arg.as_ref().and_then(|arg| arg.node.as_ref()) {
                for item in &list.items {
                    match &item.node {
                        Some(NodeEnum::RoleSpec(role)) => self.grants_role(Some(role)),
                        _ => self.act_on_named(Verb::SqlGrant, pb::ObjectType::ObjectSchema, item)?,
                    }
                }
            }
        }
        SEEN
    }

    fn owner(&mut self, owner: &pb::AlterOwnerStmt) -> Seen {
        let Ok(kind) = pb::ObjectType::try_from(owner.object_type) else {
            return Err(Unclassifiable::doubt("an object of a kind that Postern does not know"));
        };
        self.grants_role(owner.newowner.as_ref());
        if owner.relation.is_some() {
            return self.reshape_range(Verb::SqlGrant, owner.relation.as_ref());
        }
        self.act_on_named(Verb::SqlGrant, kind, names::missing(owner.object.as_deref())?)
    }
}

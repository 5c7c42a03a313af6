//! CREATE, ALTER and DROP of relations and schemas.

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{ObjectKind, Verb};

use super::json::kind;
use super::names::{self, SEEN};
use super::walk::{Analyzer, Flow, Seen, Stars};
use crate::sql::{SessionEffect, Unclassifiable};

impl Analyzer<'_> {
    /// Statements on relations and schemas; `None` when the node is none of them.
    pub(super) fn defines(&mut self, node: &NodeEnum) -> Option<Seen> {
        Some(match node {
            NodeEnum::CreateStmt(create) => self.create_table(create),
            NodeEnum::CreateForeignTableStmt(create) => {
                self.act_on_server(Verb::SqlCreate, "foreign-table", &create.servername);
                names::missing(create.base_stmt.as_ref()).and_then(|base| self.create_table(base))
            }
            NodeEnum::CreateTableAsStmt(create) => self.create_table_as(create),
            NodeEnum::ViewStmt(view) => self.create_view(view),
            NodeEnum::IndexStmt(index) => self.create_index(index),
            NodeEnum::CreateSeqStmt(sequence) => {
                self.create_relation(sequence.sequence.as_ref()).and_then(|()| self.options(&sequence.options))
            }
            NodeEnum::AlterSeqStmt(sequence) => self
                .reshape_range(Verb::SqlAlter, sequence.sequence.as_ref())
                .and_then(|()| self.options(&sequence.options)),
            NodeEnum::CreateSchemaStmt(schema) => self.create_schema(schema),
            NodeEnum::AlterTableStmt(alter) => self.alter_table(alter),
            NodeEnum::AlterTableMoveAllStmt(moved) => {
                self.act_on_server(Verb::SqlAlter, "tablespace", &moved.orig_tablespacename);
                // Whatever stands in it.
                self.any_relation(Verb::SqlAlter);
                SEEN
            }
            NodeEnum::RenameStmt(rename) => self.rename(rename),
            NodeEnum::AlterObjectSchemaStmt(alter) => self.move_to_schema(alter),
            NodeEnum::AlterObjectDependsStmt(alter) => {
                self.alter_any(alter.object_type, alter.relation.as_ref(), alter.object.as_deref())
            }
            NodeEnum::CommentStmt(comment) => self.alter_any(comment.objtype, None, comment.object.as_deref()),
            NodeEnum::DropStmt(dropped) => self.drop_objects(dropped),
            NodeEnum::CreateStatsStmt(stats) => self.create_statistics(stats),
            NodeEnum::AlterStatsStmt(stats) => {
                names::parts(&stats.defnames).and_then(|parts| self.act_on_routine(Verb::SqlAlter, &parts))
            }
            NodeEnum::CreateTrigStmt(trigger) => self.create_trigger(trigger),
            NodeEnum::RuleStmt(rule) => self.create_rule(rule),
            NodeEnum::RefreshMatViewStmt(refresh) => self.maintain(refresh.relation.as_ref()),
            _ => return None,
        })
    }

    /// Options with constants.
    fn options(&mut self, options: &[pb::Node]) -> Seen {
        for option in options {
            let Some(NodeEnum::DefElem(option)) = &option.node else {
                return Err(Unclassifiable::doubt("an option is not of a form that Postern knows"));
            };
            match option.arg.as_ref().and_then(|arg| arg.node.as_ref()) {
                None
                | Some(
                    NodeEnum::Integer(_)
                    | NodeEnum::Float(_)
                    | NodeEnum::String(_)
                    | NodeEnum::Boolean(_)
                    | NodeEnum::TypeName(_)
                    | NodeEnum::List(_),
                ) => {}
                Some(other) => {
                    return Err(Unclassifiable::doubt(format!("Postern does not know the option {}", kind(other))));
                }
            }
        }
        SEEN
    }

    fn create_table(&mut self, create: &pb::CreateStmt) -> Seen {
        self.create_relation(create.relation.as_ref())?;
        for parent in &create.inh_relations {
            let Some(NodeEnum::RangeVar(parent)) = &parent.node else {
                return Err(Unclassifiable::doubt("a parent table is not of a form that Postern knows"));
            };
            self.reshape_range(Verb::SqlAlter, Some(parent))?;
        }
        self.type_name(create.of_typename.as_ref())?;
        if let Some(spec) = &create.partspec {
            self.conditions(&spec.part_params)?;
        }
        if let Some(bound) = &create.partbound {
            self.partition_bound(bound)?;
        }
        for element in create.table_elts.iter().chain(&create.constraints).chain(&create.nnconstraints) {
            self.table_element(element)?;
        }
        SEEN
    }

    fn partition_bound(&mut self, bound: &pb::PartitionBoundSpec) -> Seen {
        self.conditions(&bound.listdatums)?;
        for datum in bound.lowerdatums.iter().chain(&bound.upperdatums) {
            match &datum.node {
                Some(NodeEnum::PartitionRangeDatum(datum)) => self.condition(datum.value.as_deref())?,
                _ => self.condition(Some(datum))?,
            }
        }
        SEEN
    }

    /// A column, a constraint or LIKE.
    fn table_element(&mut self, element: &pb::Node) -> Seen {
        match names::missing(element.node.as_ref())? {
            NodeEnum::ColumnDef(column) => {
                self.type_name(column.type_name.as_ref())?;
                self.condition(column.raw_default.as_deref())?;
                column.constraints.iter().try_for_each(|constraint| self.table_element(constraint))
            }
            NodeEnum::Constraint(constraint) => {
                // DEFAULT, CHECK and GENERATED call their functions whenever a row is written.
                self.condition(constraint.raw_expr.as_deref())?;
                self.condition(constraint.where_clause.as_deref())?;
                if !constraint.conname.is_empty() {
                    // The index behind it has its name.
                    self.out.effects.push(SessionEffect::Touched(constraint.conname.clone()));
                }
                if let Some(referenced) = &constraint.pktable {
                    // A foreign key tells which keys exist.
                    for relation in self.resolve(referenced)? {
                        self.selects(relation);
                    }
                }
                if !constraint.exclusions.is_empty() {
                    return self.exclusions(&constraint.exclusions);
                }
                SEEN
            }
            NodeEnum::TableLikeClause(like) => {
                for relation in self.resolve(names::missing(like.relation.as_ref())?)? {
                    self.selects(relation);
                }
                SEEN
            }
            other => Err(Unclassifiable::doubt(format!("Postern does not know {} in a table", kind(other)))),
        }
    }

    /// EXCLUDE (column WITH operator, ...)
    fn exclusions(&mut self, exclusions: &[pb::Node]) -> Seen {
        for exclusion in exclusions {
            let Some(NodeEnum::List(pair)) = &exclusion.node else {
                return Err(Unclassifiable::doubt("EXCLUDE is not of a form that Postern knows"));
            };
            for part in &pair.items {
                match &part.node {
                    Some(NodeEnum::List(operator)) => drop(self.operator(&operator.items)?),
                    _ => self.condition(Some(part))?,
                }
            }
        }
        SEEN
    }

    pub(super) fn create_table_as(&mut self, create: &pb::CreateTableAsStmt) -> Seen {
        let into = names::missing(create.into.as_deref())?;
        self.create_relation(into.rel.as_ref())?;
        self.out.facts.copies = true;
        match names::missing(create.query.as_ref().and_then(|query| query.node.as_ref()))? {
            NodeEnum::SelectStmt(select) => self.flowing(Flow::Written, |this| this.select(select, Stars::Expand)),
            NodeEnum::ExecuteStmt(execute) => {
                self.execute(execute)?;
                // What the prepared statement shows is written here.
                let facts = &mut self.out.facts;
                facts.written.extend(facts.plain.iter().chain(&facts.shown).cloned().collect::<Vec<_>>());
                facts.star_written |= facts.star_shown;
                facts.any_written |= facts.any_shown;
                SEEN
            }
            other => Err(Unclassifiable::doubt(format!("Postern does not know {} in CREATE TABLE AS", kind(other)))),
        }
    }

    fn create_view(&mut self, view: &pb::ViewStmt) -> Seen {
        self.create_relation(view.view.as_ref())?;
        if view.replace {
            let replaced = names::missing(view.view.as_ref())?;
            if replaced.relpersistence != "t" {
                self.reshape_range(Verb::SqlCreate, Some(replaced))?;
            }
        }
        self.out.facts.copies = true;
        match names::missing(view.query.as_ref().and_then(|query| query.node.as_ref()))? {
            NodeEnum::SelectStmt(select) => self.flowing(Flow::Written, |this| this.select(select, Stars::Expand))?,
            other => return Err(Unclassifiable::doubt(format!("Postern does not know {} in a view", kind(other)))),
        }
        let made = names::missing(view.view.as_ref())?;
        if self.out.facts.reads.iter().any(|relation| self.may_set(relation)) {
            self.out.effects.push(SessionEffect::SettingView(made.relname.clone()));
        }
        if self.out.facts.reads.iter().any(|relation| relation.schema == names::TEMPORARY) {
            // A view over what is temporary is temporary itself.
            let here = crate::sql::Relation::new(names::TEMPORARY, &made.relname);
            self.out.act(Verb::SqlCreate, self.object(&here));
            self.out.effects.push(SessionEffect::CreatedTemporary(here.name));
        }
        SEEN
    }

    fn create_index(&mut self, index: &pb::IndexStmt) -> Seen {
        let table = names::missing(index.relation.as_ref())?;
        for relation in self.resolve(table)? {
            let mut made = relation.clone();
            if !index.idxname.is_empty() {
                made.name.clone_from(&index.idxname);
                if made.schema == names::TEMPORARY {
                    self.out.effects.push(SessionEffect::CreatedTemporary(made.name.clone()));
                }
            }
            self.out.act(Verb::SqlCreate, self.object(&made));
            self.out.act(Verb::SqlAlter, self.object(&relation));
            // By the table's name, too, for an index that the server names after it.
            self.out.effects.push(SessionEffect::Touched(made.name));
            self.out.effects.push(SessionEffect::Touched(relation.name.clone()));
            self.out.changes_catalog = true;
            self.out.facts.writes.insert(relation);
        }
        self.conditions(&index.index_params)?;
        self.conditions(&index.index_including_params)?;
        self.condition(index.where_clause.as_deref())
    }

    fn create_statistics(&mut self, stats: &pb::CreateStatsStmt) -> Seen {
        if !stats.defnames.is_empty() {
            self.create_routine(&stats.defnames)?;
        }
        for relation in &stats.relations {
            match &relation.node {
                Some(NodeEnum::RangeVar(range)) => self.reshape_range(Verb::SqlAlter, Some(range))?,
                _ => return Err(Unclassifiable::doubt("statistics on what is no relation")),
            }
        }
        self.conditions(&stats.exprs)
    }

    fn create_schema(&mut self, schema: &pb::CreateSchemaStmt) -> Seen {
        let database = self.context.database.to_string();
        let name =
            if schema.schemaname.is_empty() { self.role(schema.authrole.as_ref()) } else { schema.schemaname.clone() };
        self.out.act_on(Verb::SqlCreate, ObjectKind::Schema, [&*database, &*name]);
        self.out.effects.push(SessionEffect::CreatedSchema(name));
        if schema.authrole.is_some() {
            self.grants_role(schema.authrole.as_ref());
        }
        self.out.changes_catalog = true;
        if schema.schema_elts.is_empty() {
            return SEEN;
        }
        // Their unqualified names are read by another search path.
        Err(Unclassifiable::unsupported("CREATE SCHEMA with elements: create them by statements of their own"))
    }

    fn alter_table(&mut self, alter: &pb::AlterTableStmt) -> Seen {
        if alter.objtype == pb::ObjectType::ObjectType as i32 {
            let range = names::missing(alter.relation.as_ref())?;
            let parts: Vec<&str> =
                [&*range.schemaname, &*range.relname].into_iter().filter(|part| !part.is_empty()).collect();
            self.act_on_routine(Verb::SqlAlter, &parts)?;
        } else {
            self.reshape_range(Verb::SqlAlter, alter.relation.as_ref())?;
        }
        for command in &alter.cmds {
            let Some(NodeEnum::AlterTableCmd(command)) = &command.node else {
                return Err(Unclassifiable::doubt("ALTER TABLE is not of a form that Postern knows"));
            };
            self.alter_command(alter, command)?;
        }
        SEEN
    }

    fn alter_command(&mut self, alter: &pb::AlterTableStmt, command: &pb::AlterTableCmd) -> Seen {
        use pb::AlterTableType as T;
        match T::try_from(command.subtype) {
            Ok(T::AtChangeOwner) => {
                self.grants_role(command.newowner.as_ref());
                self.reshape_range(Verb::SqlGrant, alter.relation.as_ref())?;
            }
            Ok(T::AtEnableRowSecurity | T::AtDisableRowSecurity | T::AtForceRowSecurity | T::AtNoForceRowSecurity) => {
                self.reshape_range(Verb::SqlGrant, alter.relation.as_ref())?;
            }
            Ok(T::Undefined) | Err(_) => {
                return Err(Unclassifiable::doubt("ALTER TABLE is not of a form that Postern knows"));
            }
            Ok(_) => {}
        }
        self.cascade(Verb::SqlDrop, command.behavior);
        match command.def.as_ref().and_then(|def| def.node.as_ref()) {
            None => SEEN,
            Some(NodeEnum::ColumnDef(_) | NodeEnum::Constraint(_)) => {
                self.table_element(names::missing(command.def.as_deref())?)
            }
            Some(NodeEnum::RangeVar(other)) => self.reshape_range(Verb::SqlAlter, Some(other)),
            Some(NodeEnum::PartitionCmd(partition)) => {
                if let Some(bound) = &partition.bound {
                    self.partition_bound(bound)?;
                }
                self.reshape_range(Verb::SqlAlter, partition.name.as_ref())
            }
            Some(
                NodeEnum::String(_)
                | NodeEnum::Integer(_)
                | NodeEnum::ReplicaIdentityStmt(_)
                | NodeEnum::AtalterConstraint(_)
                | NodeEnum::RoleSpec(_),
            ) => SEEN,
            Some(NodeEnum::List(list)) => self.options(&list.items),
            Some(NodeEnum::TypeName(name)) => self.type_name(Some(name)),
            Some(_) => self.condition(command.def.as_deref()),
        }
    }

    fn alter_any(&mut self, kind: i32, relation: Option<&pb::RangeVar>, object: Option<&pb::Node>) -> Seen {
        if relation.is_some() {
            return self.reshape_range(Verb::SqlAlter, relation);
        }
        let Ok(kind) = pb::ObjectType::try_from(kind) else {
            return Err(Unclassifiable::doubt("an object of a kind that Postern does not know"));
        };
        self.act_on_named(Verb::SqlAlter, kind, names::missing(object)?)
    }

    fn rename(&mut self, rename: &pb::RenameStmt) -> Seen {
        let database = self.context.database.to_string();
        let Ok(kind) = pb::ObjectType::try_from(rename.rename_type) else {
            return Err(Unclassifiable::doubt("an object of a kind that Postern does not know"));
        };
        if rename.relation.is_some() {
            self.reshape_range(Verb::SqlAlter, rename.relation.as_ref())?;
            if rename.relation.as_ref().is_some_and(|range| self.names.is_setting_view(&range.relname)) {
                self.out.effects.push(SessionEffect::SettingView(rename.newname.clone()));
            }
            use pb::ObjectType as T;
            if matches!(
                kind,
                T::ObjectTable
                    | T::ObjectView
                    | T::ObjectMatview
                    | T::ObjectForeignTable
                    | T::ObjectIndex
                    | T::ObjectSequence
            ) {
                // Under its new name, other grants may cover it.
                let schemas: Vec<_> = self.resolve(names::missing(rename.relation.as_ref())?)?;
                for relation in schemas {
                    let made = crate::sql::Relation::new(relation.schema, &rename.newname);
                    self.out.act(Verb::SqlCreate, self.object(&made));
                    if made.schema == names::TEMPORARY {
                        self.out.effects.push(SessionEffect::CreatedTemporary(made.name));
                    }
                }
                self.out.effects.push(SessionEffect::Touched(rename.newname.clone()));
            }
            return SEEN;
        }
        match kind {
            pb::ObjectType::ObjectSchema => {
                self.out.facts.reshapes.insert(crate::sql::Relation::new(&*rename.subname, "*"));
                self.out.act_on(Verb::SqlAlter, ObjectKind::Schema, [&*database, &*rename.subname]);
                self.out.act_on(Verb::SqlCreate, ObjectKind::Schema, [&*database, &*rename.newname]);
                self.out.effects.push(SessionEffect::CreatedSchema(rename.newname.clone()));
                self.out.effects.push(SessionEffect::TouchedSchemas);
            }
            pb::ObjectType::ObjectDatabase => {
                self.out.act_on(Verb::SqlAlter, ObjectKind::Database, [&*rename.subname]);
            }
            pb::ObjectType::ObjectRole => {
                self.out.act_on(Verb::SqlGrant, ObjectKind::Role, [&*rename.subname]);
            }
            pb::ObjectType::ObjectTablespace => self.act_on_server(Verb::SqlAlter, "tablespace", &rename.subname),
            _ => {
                let object = names::missing(rename.object.as_deref())?;
                self.act_on_named(Verb::SqlAlter, kind, object)?;
                if is_in_schema(kind) {
                    let parts = names::parts_of_node(object)?;
                    let skipped = usize::from(is_of_access_method(kind));
                    let schemas = self.schemas_of_routine(parts.get(skipped..).unwrap_or_default());
                    self.comes_to_be(&schemas, &rename.newname);
                }
            }
        }
        self.out.changes_catalog = true;
        SEEN
    }

    /// A function, type or the like under a new name, where other grants may cover it.
    fn comes_to_be(&mut self, schemas: &[String], name: &str) {
        let database = self.context.database.to_string();
        for schema in schemas {
            self.out.act_on(Verb::SqlCreate, ObjectKind::Routine, [&*database, &**schema, name]);
            let effect = SessionEffect::CreatedRoutine { schema: schema.clone(), name: name.to_owned() };
            self.out.effects.push(effect);
        }
    }

    fn move_to_schema(&mut self, alter: &pb::AlterObjectSchemaStmt) -> Seen {
        let database = self.context.database.to_string();
        self.alter_any(alter.object_type, alter.relation.as_ref(), alter.object.as_deref())?;
        if let Some(range) = &alter.relation {
            // Under its new name, other grants may cover it.
            self.out.act_on(Verb::SqlCreate, ObjectKind::Relation, [&*database, &*alter.newschema, &*range.relname]);
        } else if let Some(object) = &alter.object
            && pb::ObjectType::try_from(alter.object_type).is_ok_and(is_in_schema)
            && let Some(name) = names::parts_of_node(object)?.last()
        {
            self.comes_to_be(std::slice::from_ref(&alter.newschema), name);
        }
        self.out.changes_catalog = true;
        SEEN
    }

    fn drop_objects(&mut self, dropped: &pb::DropStmt) -> Seen {
        let Ok(kind) = pb::ObjectType::try_from(dropped.remove_type) else {
            return Err(Unclassifiable::doubt("an object of a kind that Postern does not know"));
        };
        for object in &dropped.objects {
            self.act_on_named(Verb::SqlDrop, kind, object)?;
        }
        self.cascade(Verb::SqlDrop, dropped.behavior);
        if kind == pb::ObjectType::ObjectSchema {
            self.out.effects.push(SessionEffect::TouchedSchemas);
        }
        self.out.changes_catalog = true;
        SEEN
    }

    fn create_trigger(&mut self, trigger: &pb::CreateTrigStmt) -> Seen {
        self.reshape_range(Verb::SqlAlter, trigger.relation.as_ref())?;
        self.condition(trigger.when_clause.as_deref())?;
        if let Some(referenced) = &trigger.constrrel {
            for relation in self.resolve(referenced)? {
                self.selects(relation);
            }
        }
        let name = names::parts(&trigger.funcname)?;
        self.act_on_routine(Verb::SqlCall, &name)
    }

    fn create_rule(&mut self, rule: &pb::RuleStmt) -> Seen {
        self.reshape_range(Verb::SqlAlter, rule.relation.as_ref())?;
        self.out.facts.copies = true;
        self.condition(rule.where_clause.as_deref())?;
        for action in &rule.actions {
            match &action.node {
                None | Some(NodeEnum::NotifyStmt(_)) => {}
                Some(node) => self.flowing(Flow::Both, |this| this.rows(node))?,
            }
        }
        SEEN
    }
}

/// Whether objects of this kind stand in a schema and are called, or are parts of what is.
fn is_in_schema(kind: pb::ObjectType) -> bool {
    use pb::ObjectType as T;
    matches!(
        kind,
        T::ObjectFunction
            | T::ObjectProcedure
            | T::ObjectRoutine
            | T::ObjectAggregate
            | T::ObjectOperator
            | T::ObjectType
            | T::ObjectDomain
            | T::ObjectCollation
            | T::ObjectConversion
            | T::ObjectStatisticExt
            | T::ObjectTsconfiguration
            | T::ObjectTsdictionary
            | T::ObjectTsparser
            | T::ObjectTstemplate
    ) || is_of_access_method(kind)
}

/// Whether the access method stands before the name.
fn is_of_access_method(kind: pb::ObjectType) -> bool {
    matches!(kind, pb::ObjectType::ObjectOpclass | pb::ObjectType::ObjectOpfamily)
}

//! Statements that are neither queries nor definitions of relations.

use std::borrow::Cow;
use std::sync::Arc;

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{ObjectKind, Verb};

use super::context::Known;
use super::json::kind;
use super::names::{self, SEEN, UNRESOLVED};
use super::walk::{Analyzer, Flow, Seen};
use crate::sql::{SessionEffect, Statement, StatementKind, Unclassifiable};

impl Analyzer<'_> {
    /// One whole statement.
    pub(super) fn statement(&mut self, node: &NodeEnum) -> Seen {
        use StatementKind as K;
        self.flow = Flow::Plain;
        let (kind, seen) = match node {
            NodeEnum::SelectStmt(_) => (K::Select, self.rows(node)),
            NodeEnum::InsertStmt(_) => (K::Insert, self.rows(node)),
            NodeEnum::UpdateStmt(_) => (K::Update, self.rows(node)),
            NodeEnum::DeleteStmt(_) => (K::Delete, self.rows(node)),
            NodeEnum::MergeStmt(_) => (K::Merge, self.rows(node)),
            NodeEnum::TruncateStmt(truncate) => (K::Utility, self.truncate(truncate)),
            NodeEnum::CopyStmt(copy) => (K::Copy, self.copy(copy)),
            NodeEnum::ExplainStmt(explain) => (K::Explain, self.explain(explain)),
            NodeEnum::PrepareStmt(prepare) => (K::Prepare, self.prepare(prepare)),
            NodeEnum::ExecuteStmt(execute) => (K::Execute, self.execute(execute)),
            NodeEnum::DeallocateStmt(deallocate) => {
                let name = (!deallocate.isall).then(|| deallocate.name.clone());
                self.out.effects.push(SessionEffect::Deallocated(name));
                (K::Prepare, SEEN)
            }
            NodeEnum::DeclareCursorStmt(declare) => (K::Cursor, self.declare(declare)),
            NodeEnum::FetchStmt(fetch) => (K::Cursor, self.fetch(fetch)),
            NodeEnum::ClosePortalStmt(close) => {
                let name = (!close.portalname.is_empty()).then(|| close.portalname.clone());
                self.out.effects.push(SessionEffect::CursorClosed(name));
                (K::Cursor, SEEN)
            }
            NodeEnum::TransactionStmt(transaction) => (K::Transaction, self.transaction(transaction)),
            NodeEnum::ConstraintsSetStmt(_) => (K::Transaction, SEEN),
            NodeEnum::VariableShowStmt(_) => (K::Setting, SEEN),
            NodeEnum::VariableSetStmt(set) => (K::Setting, self.set(set)),
            NodeEnum::DiscardStmt(discard) => {
                if discard.target == pb::DiscardMode::DiscardAll as i32 {
                    self.out.effects.push(SessionEffect::Discarded);
                }
                (K::Setting, SEEN)
            }
            _ => match self.defines(node).or_else(|| self.grants(node)).or_else(|| self.administers(node)) {
                Some(seen) => (K::Definition, seen),
                None => (K::Utility, self.serves(node)),
            },
        };
        seen?;
        self.out.kinds.push(kind);
        self.sees_columns(kind, node);
        self.settle();
        SEEN
    }

    /// What remains.
    fn serves(&mut self, node: &NodeEnum) -> Seen {
        match node {
            NodeEnum::VacuumStmt(vacuum) => {
                if vacuum.rels.is_empty() {
                    self.maintain_database();
                }
                for relation in &vacuum.rels {
                    match &relation.node {
                        Some(NodeEnum::VacuumRelation(relation)) => self.maintain(relation.relation.as_ref())?,
                        _ => return Err(Unclassifiable::doubt("VACUUM is not of a form that Postern knows")),
                    }
                }
                SEEN
            }
            NodeEnum::ClusterStmt(cluster) if cluster.relation.is_some() => self.maintain(cluster.relation.as_ref()),
            NodeEnum::ReindexStmt(reindex) if reindex.relation.is_some() => self.maintain(reindex.relation.as_ref()),
            NodeEnum::ReindexStmt(reindex) if reindex.kind == pb::ReindexObjectType::ReindexObjectSchema as i32 => {
                let database = self.context.database.to_string();
                self.out.act_on(Verb::SqlMaintain, ObjectKind::Schema, [&*database, &*reindex.name]);
                SEEN
            }
            NodeEnum::ClusterStmt(_) | NodeEnum::ReindexStmt(_) => {
                self.maintain_database();
                SEEN
            }
            NodeEnum::CheckPointStmt(_) => {
                self.out.act_on(Verb::SqlMaintain, ObjectKind::Server, ["system", "checkpoint"]);
                SEEN
            }
            NodeEnum::LockStmt(lock) => {
                for relation in &lock.relations {
                    let Some(NodeEnum::RangeVar(range)) = &relation.node else {
                        return Err(Unclassifiable::doubt("LOCK is not of a form that Postern knows"));
                    };
                    for relation in self.resolve(range)? {
                        self.out.act(Verb::SqlLock, self.object(&relation));
                    }
                }
                SEEN
            }
            NodeEnum::NotifyStmt(notify) => self.channel(&notify.conditionname),
            NodeEnum::ListenStmt(listen) => self.channel(&listen.conditionname),
            NodeEnum::UnlistenStmt(unlisten) if unlisten.conditionname.is_empty() => SEEN,
            NodeEnum::UnlistenStmt(unlisten) => self.channel(&unlisten.conditionname),
            NodeEnum::DoStmt(_) => {
                let database = self.context.database.to_string();
                self.out.facts.opaque_call = true;
                self.out.facts.unseen = true;
                self.out.act_on(Verb::SqlOpaque, ObjectKind::Database, [&*database]);
                SEEN
            }
            NodeEnum::CallStmt(call) => {
                let call = names::missing(call.funccall.as_deref())?;
                let parts = names::parts(&call.funcname)?;
                self.passing(|this| this.all(&call.args))?;
                match parts.as_slice() {
                    [name] => self.routine(&["", name]),
                    [schema, name] | [_, schema, name] => self.routine(&[schema, name]),
                    _ => return Err(Unclassifiable::doubt("a procedure's name has too many parts")),
                }
                SEEN
            }
            other => Err(Unclassifiable::doubt(format!("Postern does not know the statement {}", kind(other)))),
        }
    }

    fn channel(&mut self, name: &str) -> Seen {
        self.out.act_on(Verb::SqlNotify, ObjectKind::Channel, [name]);
        SEEN
    }

    pub(super) fn maintain(&mut self, range: Option<&pb::RangeVar>) -> Seen {
        for relation in self.resolve(names::missing(range)?)? {
            self.out.act(Verb::SqlMaintain, self.object(&relation));
            self.out.facts.writes.insert(relation);
        }
        SEEN
    }

    fn maintain_database(&mut self) {
        let database = self.context.database.to_string();
        self.out.act_on(Verb::SqlMaintain, ObjectKind::Database, [&*database]);
    }

    fn transaction(&mut self, transaction: &pb::TransactionStmt) -> Seen {
        use pb::TransactionStmtKind as K;
        match K::try_from(transaction.kind) {
            Ok(
                K::TransStmtBegin
                | K::TransStmtStart
                | K::TransStmtCommit
                | K::TransStmtRollback
                | K::TransStmtSavepoint
                | K::TransStmtRelease
                | K::TransStmtRollbackTo,
            ) => {}
            Ok(K::TransStmtPrepare | K::TransStmtCommitPrepared | K::TransStmtRollbackPrepared) => {
                self.out.act_on(Verb::SqlAdmin, ObjectKind::Server, ["system", "prepared-transaction"]);
            }
            Ok(K::Undefined) | Err(_) => {
                return Err(Unclassifiable::doubt("a transaction statement that Postern does not know"));
            }
        }
        SEEN
    }

    /// What EXPLAIN shows is the plan of what it would do, and with ANALYZE it does it.
    fn explain(&mut self, explain: &pb::ExplainStmt) -> Seen {
        match names::missing(explain.query.as_ref().and_then(|query| query.node.as_ref()))? {
            NodeEnum::CreateTableAsStmt(create) => self.create_table_as(create),
            NodeEnum::DeclareCursorStmt(declare) => self.declare(declare),
            NodeEnum::ExecuteStmt(execute) => self.execute(execute),
            NodeEnum::RefreshMatViewStmt(refresh) => self.maintain(refresh.relation.as_ref()),
            node => self.rows(node),
        }
    }

    /// Classifies a statement of its own within this one.
    fn inner(&mut self, node: Option<&pb::Node>) -> Result<Statement, Unclassifiable> {
        let node = names::missing(node.and_then(|node| node.node.as_ref()))?;
        let mut inner = Analyzer::new(self.context, Cow::Borrowed(self.names.as_ref()));
        inner.rows(node)?;
        inner.settle();
        inner.tell_columns();
        inner.tell_calls();
        inner.tell_limit(Some(node));
        Ok(inner.out)
    }

    fn prepare(&mut self, prepare: &pb::PrepareStmt) -> Seen {
        for name in &prepare.argtypes {
            self.expr(name)?;
        }
        let statement = self.inner(prepare.query.as_deref())?;
        self.out.absorb(&statement);
        let (name, statement, text) = (prepare.name.clone(), Arc::new(statement), Arc::from(self.text));
        self.out.effects.push(SessionEffect::Prepared { name, statement, text });
        SEEN
    }

    /// EXECUTE does what the prepared statement does; all that it may be, when that is not certain.
    pub(super) fn execute(&mut self, execute: &pb::ExecuteStmt) -> Seen {
        self.conditions(&execute.params)?;
        let known = self.names.prepared(&execute.name).to_vec();
        if known.is_empty() {
            return Err(Unclassifiable::doubt("EXECUTE of a statement that was not prepared in this session"));
        }
        for known in known {
            let statement = self.again(&known)?;
            if statement.copy.is_some() {
                return Err(Unclassifiable::unsupported("EXECUTE of a COPY"));
            }
            self.out.absorb(&statement);
            self.out.effects.extend(statement.effects.iter().cloned());
        }
        SEEN
    }

    /// A prepared statement by what its names mean now: when the search path is another, or what it reads was changed, the server reads its text anew.
    fn again(&self, known: &Known) -> Result<Statement, Unclassifiable> {
        if known.text.is_empty() {
            return Ok(Statement::clone(&known.statement));
        }
        let parsed = super::parse(&known.text)?;
        let node = match parsed.stmts.as_slice() {
            [statement] => names::missing(statement.stmt.as_ref().and_then(|node| node.node.as_ref()))?,
            _ => return Err(Unclassifiable::doubt("EXECUTE of what is not one statement")),
        };
        let mut inner = Analyzer::new(self.context, Cow::Borrowed(self.names.as_ref()));
        match node {
            NodeEnum::PrepareStmt(prepare) => {
                let node = names::missing(prepare.query.as_ref().and_then(|query| query.node.as_ref()))?;
                inner.rows(node)?;
                inner.settle();
                inner.tell_limit(Some(node));
            }
            NodeEnum::ExecuteStmt(_) | NodeEnum::ExplainStmt(_) | NodeEnum::CreateTableAsStmt(_) => {
                return Err(Unclassifiable::doubt("EXECUTE of a statement that may itself be an EXECUTE"));
            }
            node => {
                inner.statement(node)?;
                inner.tell_limit(Some(node));
            }
        }
        inner.tell_columns();
        Ok(inner.out)
    }

    fn declare(&mut self, declare: &pb::DeclareCursorStmt) -> Seen {
        // CURSOR_OPT_HOLD of PostgreSQL's parsenodes.h.
        const HOLD: i32 = 0x20;
        let statement = self.inner(declare.query.as_deref())?;
        self.out.absorb(&statement);
        self.out.effects.push(SessionEffect::CursorDeclared {
            name: declare.portalname.clone(),
            facts: Arc::new(statement.facts),
            hold: declare.options & HOLD != 0,
        });
        SEEN
    }

    fn fetch(&mut self, fetch: &pb::FetchStmt) -> Seen {
        let Some(facts) = self.names.cursor(&fetch.portalname) else {
            return Err(Unclassifiable::doubt("FETCH from a cursor that was not declared in this session"));
        };
        let facts = facts.clone();
        self.out.facts.absorb(&facts);
        SEEN
    }

    /// Databases, functions, types and what belongs to the server itself; `None` when the node is none of them.
    fn administers(&mut self, node: &NodeEnum) -> Option<Seen> {
        let database = self.context.database.to_string();
        match node {
            NodeEnum::CreatedbStmt(create) => {
                self.out.act_on(Verb::SqlCreate, ObjectKind::Database, [&*create.dbname]);
            }
            NodeEnum::DropdbStmt(dropped) => {
                self.out.act_on(Verb::SqlDrop, ObjectKind::Database, [&*dropped.dbname]);
            }
            NodeEnum::AlterDatabaseStmt(alter) => {
                self.out.act_on(Verb::SqlAlter, ObjectKind::Database, [&*alter.dbname]);
            }
            NodeEnum::AlterDatabaseSetStmt(alter) => {
                self.out.act_on(Verb::SqlAlter, ObjectKind::Database, [&*alter.dbname]);
            }
            NodeEnum::AlterDatabaseRefreshCollStmt(alter) => {
                self.out.act_on(Verb::SqlAlter, ObjectKind::Database, [&*alter.dbname]);
            }
            NodeEnum::AlterSystemStmt(alter) => {
                let name = alter.setstmt.as_ref().map_or(UNRESOLVED, |set| &set.name);
                self.out.act_on(Verb::SqlAdmin, ObjectKind::Setting, [if name.is_empty() { "*" } else { name }]);
            }
            NodeEnum::LoadStmt(_) => {
                self.out.act_on(Verb::SqlAdmin, ObjectKind::Server, ["system", "load"]);
                self.out.act_on(Verb::SqlServerFile, ObjectKind::Server, ["system", "load"]);
            }
            NodeEnum::CreateExtensionStmt(it) => self.act_on_server(Verb::SqlCreate, "extension", &it.extname),
            NodeEnum::AlterExtensionStmt(it) => self.act_on_server(Verb::SqlAlter, "extension", &it.extname),
            NodeEnum::AlterExtensionContentsStmt(it) => self.act_on_server(Verb::SqlAlter, "extension", &it.extname),
            NodeEnum::CreatePlangStmt(it) => self.act_on_server(Verb::SqlCreate, "language", &it.plname),
            NodeEnum::CreateTableSpaceStmt(it) => self.act_on_server(Verb::SqlCreate, "tablespace", &it.tablespacename),
            NodeEnum::DropTableSpaceStmt(it) => self.act_on_server(Verb::SqlDrop, "tablespace", &it.tablespacename),
            NodeEnum::AlterTableSpaceOptionsStmt(it) => {
                self.act_on_server(Verb::SqlAlter, "tablespace", &it.tablespacename);
            }
            NodeEnum::CreateFdwStmt(it) => self.act_on_server(Verb::SqlCreate, "fdw", &it.fdwname),
            NodeEnum::AlterFdwStmt(it) => self.act_on_server(Verb::SqlAlter, "fdw", &it.fdwname),
            NodeEnum::CreateForeignServerStmt(it) => {
                self.act_on_server(Verb::SqlCreate, "foreign-server", &it.servername);
            }
            NodeEnum::AlterForeignServerStmt(it) => {
                self.act_on_server(Verb::SqlAlter, "foreign-server", &it.servername);
            }
            NodeEnum::CreateUserMappingStmt(it) => {
                self.act_on_server(Verb::SqlCreate, "user-mapping", &it.servername);
            }
            NodeEnum::AlterUserMappingStmt(it) => self.act_on_server(Verb::SqlAlter, "user-mapping", &it.servername),
            NodeEnum::DropUserMappingStmt(it) => self.act_on_server(Verb::SqlDrop, "user-mapping", &it.servername),
            NodeEnum::ImportForeignSchemaStmt(it) => {
                self.act_on_server(Verb::SqlAlter, "foreign-server", &it.server_name);
                self.out.act_on(Verb::SqlCreate, ObjectKind::Schema, [&*database, &*it.local_schema]);
                self.out.changes_catalog = true;
            }
            NodeEnum::CreatePublicationStmt(it) => self.act_on_server(Verb::SqlCreate, "publication", &it.pubname),
            NodeEnum::AlterPublicationStmt(it) => self.act_on_server(Verb::SqlAlter, "publication", &it.pubname),
            NodeEnum::CreateSubscriptionStmt(it) => self.act_on_server(Verb::SqlCreate, "subscription", &it.subname),
            NodeEnum::AlterSubscriptionStmt(it) => self.act_on_server(Verb::SqlAlter, "subscription", &it.subname),
            NodeEnum::DropSubscriptionStmt(it) => self.act_on_server(Verb::SqlDrop, "subscription", &it.subname),
            NodeEnum::CreateEventTrigStmt(it) => self.act_on_server(Verb::SqlCreate, "event-trigger", &it.trigname),
            NodeEnum::AlterEventTrigStmt(it) => self.act_on_server(Verb::SqlAlter, "event-trigger", &it.trigname),
            NodeEnum::CreateAmStmt(it) => self.act_on_server(Verb::SqlCreate, "access-method", &it.amname),
            NodeEnum::CreateCastStmt(it) => return Some(self.create_cast(it)),
            NodeEnum::CreateTransformStmt(it) => self.act_on_server(Verb::SqlCreate, "transform", &it.lang),
            _ => return self.routines(node),
        }
        Some(SEEN)
    }

    /// Functions, types, operators and their like.
    fn routines(&mut self, node: &NodeEnum) -> Option<Seen> {
        let created = match node {
            NodeEnum::CreateFunctionStmt(it) => return Some(self.create_function(it)),
            NodeEnum::AlterFunctionStmt(it) => {
                let parts = it.func.as_ref().map_or(Ok(Vec::new()), |func| names::parts(&func.objname));
                return Some(parts.and_then(|parts| {
                    self.act_on_routine(Verb::SqlAlter, &parts)?;
                    self.act_on_routine(Verb::SqlAdmin, &parts)
                }));
            }
            NodeEnum::DefineStmt(it) => {
                let kind = pb::ObjectType::try_from(it.kind);
                let calls = matches!(
                    kind,
                    Ok(pb::ObjectType::ObjectAggregate | pb::ObjectType::ObjectOperator | pb::ObjectType::ObjectType)
                );
                return Some(self.create_routine(&it.defnames).map(|made| {
                    for object in made.into_iter().filter(|_| calls) {
                        self.out.act(Verb::SqlAdmin, object);
                    }
                }));
            }
            NodeEnum::CreateDomainStmt(it) => {
                let constraints = it.constraints.iter().try_for_each(|node| match &node.node {
                    Some(NodeEnum::Constraint(constraint)) => self.condition(constraint.raw_expr.as_deref()),
                    _ => Err(Unclassifiable::doubt("a domain is not of a form that Postern knows")),
                });
                // A domain over another has that one's checks, too.
                if let Err(fault) = constraints.and_then(|()| self.type_name(it.type_name.as_ref())) {
                    return Some(Err(fault));
                }
                self.checks_call(it.domainname.last());
                &it.domainname
            }
            NodeEnum::AlterDomainStmt(it) => {
                if it.behavior == pb::DropBehavior::DropCascade as i32 {
                    self.cascade(Verb::SqlDrop, it.behavior);
                }
                let def = match it.def.as_ref().and_then(|def| def.node.as_ref()) {
                    Some(NodeEnum::Constraint(constraint)) => self.condition(constraint.raw_expr.as_deref()),
                    Some(_) => self.condition(it.def.as_deref()),
                    None => SEEN,
                };
                self.checks_call(it.type_name.last());
                return Some(def.and_then(|()| self.alter_routine(&it.type_name)));
            }
            NodeEnum::CompositeTypeStmt(it) => {
                let range = it.typevar.as_ref()?;
                let parts: Vec<pb::Node> = [&range.schemaname, &range.relname]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .map(|part| pb::Node { node: Some(NodeEnum::String(pb::String { sval: part.clone() })) })
                    .collect();
                return Some(self.create_routine(&parts).map(drop));
            }
            NodeEnum::CreateEnumStmt(it) => &it.type_name,
            NodeEnum::CreateRangeStmt(it) => {
                if let Err(fault) = self.range_functions(&it.params) {
                    return Some(Err(fault));
                }
                &it.type_name
            }
            NodeEnum::CreateOpClassStmt(it) => &it.opclassname,
            NodeEnum::CreateOpFamilyStmt(it) => &it.opfamilyname,
            NodeEnum::CreateConversionStmt(it) => &it.conversion_name,
            NodeEnum::AlterEnumStmt(it) => return Some(self.alter_routine(&it.type_name)),
            NodeEnum::AlterTypeStmt(it) => return Some(self.alter_routine(&it.type_name)),
            NodeEnum::AlterOpFamilyStmt(it) => return Some(self.alter_routine(&it.opfamilyname)),
            NodeEnum::AlterOperatorStmt(it) => {
                return Some(names::missing(it.opername.as_ref()).and_then(|name| self.alter_routine(&name.objname)));
            }
            NodeEnum::AlterCollationStmt(it) => return Some(self.alter_routine(&it.collname)),
            NodeEnum::AlterTsdictionaryStmt(it) => return Some(self.alter_routine(&it.dictname)),
            NodeEnum::AlterTsconfigurationStmt(it) => return Some(self.alter_routine(&it.cfgname)),
            _ => return None,
        };
        Some(self.create_routine(created).map(drop))
    }

    /// A cast to the domain of this name calls what was called up to here.
    fn checks_call(&mut self, name: Option<&pb::Node>) {
        let called = self.out.actions.iter().filter(|action| action.verb == Verb::SqlCall);
        let calls: Vec<[String; 2]> = called
            .filter_map(|action| match action.object.path.as_slice() {
                [_, schema, name] => Some([schema.to_string(), name.to_string()]),
                _ => None,
            })
            .collect();
        if let Some(Ok(name)) = name.map(names::text)
            && !calls.is_empty()
        {
            self.out.effects.push(SessionEffect::CreatedCast { to: name.to_owned(), calls, silent: false });
        }
    }

    /// What a range type is told to call: by indexes over it, among others.
    fn range_functions(&mut self, params: &[pb::Node]) -> Seen {
        for param in params {
            let Some(NodeEnum::DefElem(param)) = &param.node else {
                return Err(Unclassifiable::doubt("a range type is not of a form that Postern knows"));
            };
            if !matches!(&*param.defname, "subtype_diff" | "canonical") {
                continue;
            }
            match names::parts_of_node(names::missing(param.arg.as_deref())?)?.as_slice() {
                [name] => self.routine(&["", name]),
                [schema, name] | [_, schema, name] => self.routine(&[schema, name]),
                _ => return Err(Unclassifiable::doubt("a name has too many or too few parts")),
            }
        }
        SEEN
    }

    fn create_cast(&mut self, cast: &pb::CreateCastStmt) -> Seen {
        self.act_on_server(Verb::SqlCreate, "cast", UNRESOLVED);
        let to = names::missing(cast.targettype.as_ref())?.names.last().map(names::text).transpose()?;
        if let (Some(to), Some(function)) = (to, &cast.func) {
            let parts = names::parts(&function.objname)?;
            let name = names::missing(parts.last().copied())?;
            let calls = self.schemas_of_routine(&parts).into_iter().map(|schema| [schema, name.to_owned()]).collect();
            let silent = cast.context != pb::CoercionContext::CoercionExplicit as i32;
            self.out.effects.push(SessionEffect::CreatedCast { to: to.to_owned(), calls, silent });
        }
        SEEN
    }

    fn alter_routine(&mut self, name: &[pb::Node]) -> Seen {
        let parts = names::parts(name)?;
        self.act_on_routine(Verb::SqlAlter, &parts)
    }

    /// A function's body is a text that runs later, unseen, with whatever calls it.
    fn create_function(&mut self, create: &pb::CreateFunctionStmt) -> Seen {
        self.out.facts.unseen = true;
        for object in self.create_routine(&create.funcname)? {
            self.out.act(Verb::SqlAdmin, object);
        }
        for parameter in &create.parameters {
            if let Some(NodeEnum::FunctionParameter(parameter)) = &parameter.node {
                self.condition(parameter.defexpr.as_deref())?;
            }
        }
        SEEN
    }
}

//! INSERT, UPDATE, DELETE, MERGE, TRUNCATE.

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::Verb;

use super::bounds::Bounded;
use super::json::kind;
use super::names::{self, SEEN};
use super::walk::{Analyzer, Flow, Seen, Stars};
use crate::sql::{Relation, Unclassifiable};

impl Analyzer<'_> {
    /// `outermost`: RETURNING goes to the client and nowhere else.
    pub(super) fn insert(&mut self, insert: &pb::InsertStmt, outermost: bool) -> Seen {
        let targets = self.target(insert.relation.as_ref())?;
        self.with(insert.with_clause.as_ref(), |this| {
            this.writes(Verb::SqlInsert, &targets, None);
            this.out.facts.copies = true;
            this.conditions(&insert.cols)?;
            this.assigns(&insert.cols, true)?;
            if let Some(source) = &insert.select_stmt {
                let Some(NodeEnum::SelectStmt(select)) = &source.node else {
                    return Err(Unclassifiable::doubt("INSERT is not of a form that Postern knows"));
                };
                this.flowing(Flow::Written, |this| this.select(select, Stars::Expand))?;
            }
            let before = this.columns;
            if let Some(conflict) = &insert.on_conflict_clause {
                this.on_conflict(conflict, &targets)?;
            }
            this.returning(insert.returning_clause.as_ref(), outermost)?;
            // Whether a key is there is read, as the server has it.
            let infers = insert.on_conflict_clause.as_ref().is_some_and(|conflict| conflict.infer.is_some());
            this.selects_if(this.columns > before || insert.returning_clause.is_some() || infers, &targets);
            SEEN
        })
    }

    fn on_conflict(&mut self, conflict: &pb::OnConflictClause, targets: &[Relation]) -> Seen {
        if conflict.infer.as_ref().is_none_or(|infer| infer.index_elems.is_empty()) {
            let constraint = conflict.infer.as_ref().map(|infer| infer.conname.as_str());
            self.unique_columns(targets, constraint);
        }
        if let Some(infer) = &conflict.infer {
            self.conditions(&infer.index_elems)?;
            for element in &infer.index_elems {
                if let Some(NodeEnum::IndexElem(element)) = &element.node {
                    self.out.facts.keys.insert(element.name.clone());
                }
            }
            self.condition(infer.where_clause.as_deref())?;
        }
        if conflict.action == pb::OnConflictAction::OnconflictUpdate as i32 {
            self.writes(Verb::SqlUpdate, targets, Some(true));
            self.assigns(&conflict.target_list, false)?;
            // Unless a relation took the name, `excluded` is the row that the client proposed.
            let before = std::mem::replace(&mut self.excluded, !self.ranges.contains("excluded"));
            let walked = self.flowing(Flow::Written, |this| this.targets(&conflict.target_list, Stars::Opaque));
            self.excluded = before;
            walked?;
            if self.ranges.contains("excluded") {
                self.out.facts.any_written = true;
            }
            self.condition(conflict.where_clause.as_deref())?;
        }
        SEEN
    }

    /// Columns whose uniqueness a constraint asks for, or any of the relation's.
    fn unique_columns(&mut self, targets: &[Relation], constraint: Option<&str>) {
        let catalog = self.context.catalog.as_ref();
        for target in targets {
            let known = catalog.and_then(|catalog| {
                let (oid, relation) = catalog.relation(&target.schema, &target.name)?;
                let certain = !self.names.is_touched(&target.name);
                let keys = certain.then(|| catalog.unique_columns(oid, constraint)).flatten();
                let all = || relation.columns.values().map(|column| column.name.to_string()).collect();
                Some(keys.unwrap_or_else(all))
            });
            self.out.facts.keys.extend(known.unwrap_or_else(|| [names::UNRESOLVED.to_owned()].into()));
        }
    }

    pub(super) fn update(&mut self, update: &pb::UpdateStmt, outermost: bool) -> Seen {
        let targets = self.target(update.relation.as_ref())?;
        self.with(update.with_clause.as_ref(), |this| {
            let bounded = Bounded::new(update.relation.as_ref(), &update.from_clause);
            this.writes(Verb::SqlUpdate, &targets, Some(bounded.by(update.where_clause.as_deref())));
            this.out.facts.copies = true;
            let before = this.columns;
            this.assigns(&update.target_list, false)?;
            this.from(&update.from_clause)?;
            this.flowing(Flow::Written, |this| this.targets(&update.target_list, Stars::Opaque))?;
            this.condition(update.where_clause.as_deref())?;
            this.returning(update.returning_clause.as_ref(), outermost)?;
            this.selects_if(this.columns > before, &targets);
            SEEN
        })
    }

    pub(super) fn delete(&mut self, delete: &pb::DeleteStmt, outermost: bool) -> Seen {
        let targets = self.target(delete.relation.as_ref())?;
        self.with(delete.with_clause.as_ref(), |this| {
            let bounded = Bounded::new(delete.relation.as_ref(), &delete.using_clause);
            this.writes(Verb::SqlDelete, &targets, Some(bounded.by(delete.where_clause.as_deref())));
            let before = this.columns;
            this.from(&delete.using_clause)?;
            this.condition(delete.where_clause.as_deref())?;
            this.returning(delete.returning_clause.as_ref(), outermost)?;
            this.selects_if(this.columns > before, &targets);
            SEEN
        })
    }

    pub(super) fn merge(&mut self, merge: &pb::MergeStmt, outermost: bool) -> Seen {
        let targets = self.target(merge.relation.as_ref())?;
        self.with(merge.with_clause.as_ref(), |this| {
            this.out.facts.copies = true;
            this.selects_if(true, &targets);
            this.from(std::slice::from_ref(names::missing(merge.source_relation.as_deref())?))?;
            this.condition(merge.join_condition.as_deref())?;
            for clause in &merge.merge_when_clauses {
                let Some(NodeEnum::MergeWhenClause(clause)) = &clause.node else {
                    return Err(Unclassifiable::doubt("MERGE is not of a form that Postern knows"));
                };
                this.merge_clause(clause, merge, &targets)?;
            }
            this.returning(merge.returning_clause.as_ref(), outermost)
        })
    }

    fn merge_clause(&mut self, clause: &pb::MergeWhenClause, merge: &pb::MergeStmt, targets: &[Relation]) -> Seen {
        let condition = clause.condition.as_deref();
        let unmatched = clause.match_kind == pb::MergeMatchKind::MergeWhenNotMatchedBySource as i32;
        let bounded =
            Bounded::new(merge.relation.as_ref(), merge.source_relation.as_deref().map_or(&[], std::slice::from_ref));
        let bounded = bounded.by(condition) || (!unmatched && bounded.by(merge.join_condition.as_deref()));
        match pb::CmdType::try_from(clause.command_type) {
            Ok(pb::CmdType::CmdInsert) => self.writes(Verb::SqlInsert, targets, None),
            Ok(pb::CmdType::CmdUpdate) => self.writes(Verb::SqlUpdate, targets, Some(bounded)),
            Ok(pb::CmdType::CmdDelete) => self.writes(Verb::SqlDelete, targets, Some(bounded)),
            Ok(pb::CmdType::CmdNothing) => {}
            _ => return Err(Unclassifiable::doubt("MERGE is not of a form that Postern knows")),
        }
        let inserts = clause.command_type == pb::CmdType::CmdInsert as i32;
        self.assigns(&clause.target_list, inserts)?;
        self.condition(condition)?;
        self.flowing(Flow::Written, |this| {
            this.targets(&clause.target_list, Stars::Opaque)?;
            this.all(&clause.values)
        })
    }

    fn returning(&mut self, clause: Option<&pb::ReturningClause>, outermost: bool) -> Seen {
        let Some(clause) = clause else { return SEEN };
        self.ranges.extend(["old".to_owned(), "new".to_owned()]);
        for option in &clause.options {
            match &option.node {
                Some(NodeEnum::ReturningOption(option)) => drop(self.ranges.insert(option.value.clone())),
                _ => return Err(Unclassifiable::doubt("RETURNING is not of a form that Postern knows")),
            }
        }
        let flow = if outermost { Flow::Plain } else { Flow::Both };
        self.flowing(flow, |this| this.targets(&clause.exprs, Stars::Expand))
    }

    pub(super) fn truncate(&mut self, truncate: &pb::TruncateStmt) -> Seen {
        for relation in &truncate.relations {
            let Some(NodeEnum::RangeVar(range)) = &relation.node else {
                return Err(Unclassifiable::doubt("TRUNCATE is not of a form that Postern knows"));
            };
            for relation in self.resolve(range)? {
                self.out.act(Verb::SqlTruncate, self.object(&relation));
                self.out.facts.writes.insert(relation);
            }
        }
        if truncate.behavior == pb::DropBehavior::DropCascade as i32 {
            // Reaches relations that it does not name.
            let database = self.context.database.to_string();
            let all = [&*database, names::UNRESOLVED, names::UNRESOLVED];
            self.out.act_on(Verb::SqlTruncate, postern_core::action::ObjectKind::Relation, all);
        }
        SEEN
    }

    /// What a writing statement writes to: a relation always, whatever WITH names.
    fn target(&mut self, range: Option<&pb::RangeVar>) -> Result<Vec<Relation>, Unclassifiable> {
        let range = names::missing(range)?;
        self.ranges.insert(range.relname.clone());
        if let Some(alias) = &range.alias {
            self.ranges.insert(alias.aliasname.clone());
        }
        let targets = self.resolve(range)?;
        if targets.iter().any(|target| self.may_set(target)) {
            return Err(Unclassifiable::doubt("an UPDATE of pg_settings is a SET of what cannot be told: use SET"));
        }
        Ok(targets)
    }

    /// Whether its rules may be those of `pg_settings`, which change settings: search_path, role. A view over one of the system's may be updatable.
    pub(super) fn may_set(&self, target: &Relation) -> bool {
        if self.names.is_setting_view(&target.name) {
            return true;
        }
        if target.name == "pg_settings" && matches!(&*target.schema, names::SYSTEM | names::UNRESOLVED) {
            return true;
        }
        let Some(catalog) = &self.context.catalog else { return false };
        catalog.relation(&target.schema, &target.name).is_some_and(|(oid, _)| catalog.views_the_system(oid))
    }

    fn writes(&mut self, verb: Verb, targets: &[Relation], bounded: Option<bool>) {
        for target in targets {
            self.out.act_bounded(verb, self.object(target), bounded);
            self.out.facts.writes.insert(target.clone());
        }
    }

    fn selects_if(&mut self, reads: bool, targets: &[Relation]) {
        if reads {
            targets.iter().cloned().for_each(|target| self.selects(target));
        }
    }

    /// A statement that may stand in EXPLAIN, PREPARE, DECLARE, COPY: it reads or writes rows.
    pub(super) fn rows(&mut self, node: &NodeEnum) -> Seen {
        match node {
            NodeEnum::SelectStmt(select) => self.select(select, Stars::Expand),
            NodeEnum::InsertStmt(insert) => self.insert(insert, true),
            NodeEnum::UpdateStmt(update) => self.update(update, true),
            NodeEnum::DeleteStmt(delete) => self.delete(delete, true),
            NodeEnum::MergeStmt(merge) => self.merge(merge, true),
            other => Err(Unclassifiable::doubt(format!("Postern does not know {} here", kind(other)))),
        }
    }
}

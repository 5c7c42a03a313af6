//! SELECT, and what stands in FROM and WITH.

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{Object, ObjectKind, Verb};

use super::json::kind;
use super::names::{self, SEEN};
use super::walk::{Analyzer, Flow, Seen, Stars};
use crate::sql::{Relation, Unclassifiable};

/// Most names of WITH that hold at one place: each relation is compared with each.
const MAX_COMMON_TABLES: usize = 500;
/// Most locking clauses of one query: each looks at all that the query reads.
const MAX_LOCKING: usize = 20;

impl Analyzer<'_> {
    /// A SELECT, TABLE, VALUES or set operation, whose values go where the walk stands.
    pub(super) fn select(&mut self, select: &pb::SelectStmt, stars: Stars) -> Seen {
        self.with(select.with_clause.as_ref(), |this| this.select_body(select, stars))
    }

    fn select_body(&mut self, select: &pb::SelectStmt, stars: Stars) -> Seen {
        if let Some(into) = into_of(select) {
            self.out.facts.copies = true;
            self.create_relation(into.rel.as_ref())?;
            return self.flowing(Flow::Written, |this| this.select_parts(select, stars));
        }
        self.select_parts(select, stars)
    }

    fn select_parts(&mut self, select: &pb::SelectStmt, stars: Stars) -> Seen {
        let first_read = self.read_log.len();
        if select.larg.is_some() || select.rarg.is_some() {
            // Both sides' columns meet by position, also where EXISTS looks at none.
            self.out.facts.any_used |= stars == Stars::Ignore;
            let stars = if stars == Stars::Expand { Stars::Opaque } else { stars };
            let flow = if self.flow == Flow::Plain { Flow::Shown } else { self.flow };
            for side in [&select.larg, &select.rarg].into_iter().flatten() {
                self.flowing(flow, |this| this.select(side, stars))?;
            }
        }
        self.from(&select.from_clause)?;
        self.targets(&select.target_list, stars)?;
        super::uses::of_targets(select, &mut self.out.facts)?;
        let flow = if self.flow == Flow::Plain { Flow::Shown } else { self.flow };
        self.flowing(flow, |this| this.all(&select.values_lists))?;
        self.conditions(&select.distinct_clause)?;
        self.condition(select.where_clause.as_deref())?;
        self.conditions(&select.group_clause)?;
        self.condition(select.having_clause.as_deref())?;
        self.conditions(&select.window_clause)?;
        self.conditions(&select.sort_clause)?;
        self.condition(select.limit_offset.as_deref())?;
        self.condition(select.limit_count.as_deref())?;
        self.locking(&select.locking_clause, first_read)
    }

    /// A list of results or of assignments.
    pub(super) fn targets(&mut self, list: &[pb::Node], stars: Stars) -> Seen {
        for target in list {
            let Some(NodeEnum::ResTarget(target)) = &target.node else {
                return Err(Unclassifiable::doubt("a list of values is not of a form that Postern knows"));
            };
            if self.flow == Flow::Condition {
                self.condition_target(target, stars)?;
                continue;
            }
            let bare = match target.val.as_ref().and_then(|value| value.node.as_ref()) {
                Some(NodeEnum::ColumnRef(column)) => Some(column),
                _ => None,
            };
            match bare {
                Some(column) if is_star(column) => self.star(stars),
                Some(column) => {
                    // Under another name, what is done with it later is not seen.
                    self.bare =
                        stars == Stars::Expand && (self.flow == Flow::Plain || super::uses::keeps_name(target, column));
                    self.maybe(target.val.as_deref())?;
                }
                None => {
                    let flow = if self.flow == Flow::Plain { Flow::Shown } else { self.flow };
                    self.flowing(flow, |this| this.maybe(target.val.as_deref()))?;
                }
            }
            self.conditions(&target.indirection)?;
        }
        SEEN
    }

    /// A value that a condition is set against; EXISTS looks at none.
    fn condition_target(&mut self, target: &pb::ResTarget, stars: Stars) -> Seen {
        let before = std::mem::take(&mut self.atom);
        let known = (self.out.facts.any_computed, self.out.facts.any_used);
        let seen = self.maybe(target.val.as_deref());
        let names = std::mem::replace(&mut self.atom, before);
        if stars == Stars::Ignore {
            (self.out.facts.any_computed, self.out.facts.any_used) = known;
        } else {
            self.out.facts.computed.extend(names);
        }
        seen
    }

    fn star(&mut self, stars: Stars) {
        self.columns = self.columns.saturating_add(1);
        let facts = &mut self.out.facts;
        match (stars, self.flow) {
            (Stars::Ignore, _) => {}
            (_, Flow::Condition) => facts.any_used = true,
            (Stars::Opaque, _) => {
                facts.any_used = true;
                self.any_column();
            }
            (Stars::Expand, Flow::Plain | Flow::Shown) => facts.star_shown = true,
            (Stars::Expand, Flow::Written) => facts.star_written = true,
            (Stars::Expand, Flow::Both) => {
                facts.star_shown = true;
                facts.star_written = true;
            }
        }
    }

    /// WITH: its names hide relations in `body`, and in what follows within the clause.
    pub(super) fn with(&mut self, clause: Option<&pb::WithClause>, body: impl FnOnce(&mut Self) -> Seen) -> Seen {
        let Some(clause) = clause else { return body(self) };
        if self.ctes.iter().map(Vec::len).fold(clause.ctes.len(), usize::saturating_add) > MAX_COMMON_TABLES {
            return Err(Unclassifiable::too_large("more tables in WITH than Postern follows"));
        }
        let mut tables = Vec::with_capacity(clause.ctes.len());
        for node in &clause.ctes {
            let Some(NodeEnum::CommonTableExpr(table)) = &node.node else {
                return Err(Unclassifiable::doubt("WITH is not of a form that Postern knows"));
            };
            tables.push(table);
        }
        let all = tables.iter().map(|table| table.ctename.clone());
        self.ranges.extend(all.clone());
        self.ctes.push(if clause.recursive { all.collect() } else { Vec::new() });
        let outer_flow = self.flow;
        let walk = |this: &mut Self| {
            for table in tables {
                let flow = if outer_flow == Flow::Condition { Flow::Condition } else { Flow::Both };
                this.flowing(flow, |this| this.common_table(table))?;
                if !clause.recursive
                    && let Some(frame) = this.ctes.last_mut()
                {
                    frame.push(table.ctename.clone());
                }
            }
            SEEN
        };
        let result = walk(self).and_then(|()| body(self));
        self.ctes.pop();
        result
    }

    fn common_table(&mut self, table: &pb::CommonTableExpr) -> Seen {
        self.renames |= !table.aliascolnames.is_empty();
        if let Some(cycle) = &table.cycle_clause {
            self.maybe(cycle.cycle_mark_value.as_deref())?;
            self.maybe(cycle.cycle_mark_default.as_deref())?;
        }
        if table.search_clause.is_some() || table.cycle_clause.is_some() {
            // They make columns that hold rows of others.
            self.any_column();
        }
        match names::missing(table.ctequery.as_ref().and_then(|query| query.node.as_ref()))? {
            NodeEnum::SelectStmt(select) => self.select(select, Stars::Expand),
            NodeEnum::InsertStmt(insert) => self.insert(insert, false),
            NodeEnum::UpdateStmt(update) => self.update(update, false),
            NodeEnum::DeleteStmt(delete) => self.delete(delete, false),
            NodeEnum::MergeStmt(merge) => self.merge(merge, false),
            other => Err(Unclassifiable::doubt(format!("Postern does not know {} in WITH", kind(other)))),
        }
    }

    /// FROM, USING.
    pub(super) fn from(&mut self, items: &[pb::Node]) -> Seen {
        let flow = if self.flow == Flow::Condition { Flow::Condition } else { Flow::Both };
        self.flowing(flow, |this| items.iter().try_for_each(|item| this.range_item(item)))
    }

    /// One item of FROM; the flow is already that of a derived table.
    pub(super) fn range_item(&mut self, item: &pb::Node) -> Seen {
        match names::missing(item.node.as_ref())? {
            NodeEnum::RangeVar(range) => self.read(range),
            NodeEnum::RangeSubselect(sub) => {
                self.alias(sub.alias.as_ref());
                match names::missing(sub.subquery.as_ref().and_then(|query| query.node.as_ref()))? {
                    NodeEnum::SelectStmt(select) => self.select(select, Stars::Expand),
                    other => Err(Unclassifiable::doubt(format!("Postern does not know {} in FROM", kind(other)))),
                }
            }
            NodeEnum::JoinExpr(join) => self.join(join),
            NodeEnum::RangeFunction(function) => {
                for function in &function.functions {
                    let Some(NodeEnum::List(parts)) = &function.node else {
                        return Err(Unclassifiable::doubt("a function in FROM is not of a form that Postern knows"));
                    };
                    for part in &parts.items {
                        match &part.node {
                            Some(NodeEnum::List(columns)) => self.column_definitions(&columns.items)?,
                            _ => self.expr(part)?,
                        }
                    }
                }
                self.column_definitions(&function.coldeflist)
            }
            NodeEnum::RangeTableFunc(table) => {
                self.maybe(table.docexpr.as_deref())?;
                self.maybe(table.rowexpr.as_deref())?;
                self.all(&table.namespaces)?;
                for column in &table.columns {
                    let Some(NodeEnum::RangeTableFuncCol(column)) = &column.node else {
                        return Err(Unclassifiable::doubt("a column of XMLTABLE is not of a form that Postern knows"));
                    };
                    self.type_name(column.type_name.as_ref())?;
                    self.maybe(column.colexpr.as_deref())?;
                    self.maybe(column.coldefexpr.as_deref())?;
                }
                SEEN
            }
            NodeEnum::RangeTableSample(sample) => {
                self.conditions(&sample.args)?;
                self.condition(sample.repeatable.as_deref())?;
                match names::parts(&sample.method)?.as_slice() {
                    ["system" | "bernoulli"] | ["pg_catalog", "system" | "bernoulli"] => {}
                    _ => return Err(Unclassifiable::doubt("a TABLESAMPLE method that is not the system's")),
                }
                self.range_item(names::missing(sample.relation.as_deref())?)
            }
            NodeEnum::JsonTable(table) => self.json_table(table),
            other => Err(Unclassifiable::doubt(format!("Postern does not know {} in FROM", kind(other)))),
        }
    }

    fn column_definitions(&mut self, columns: &[pb::Node]) -> Seen {
        for column in columns {
            let Some(NodeEnum::ColumnDef(column)) = &column.node else {
                return Err(Unclassifiable::doubt("a column definition is not of a form that Postern knows"));
            };
            self.type_name(column.type_name.as_ref())?;
        }
        SEEN
    }

    fn join(&mut self, join: &pb::JoinExpr) -> Seen {
        self.range_item(names::missing(join.larg.as_deref())?)?;
        self.range_item(names::missing(join.rarg.as_deref())?)?;
        self.condition(join.quals.as_deref())?;
        if join.is_natural || !join.using_clause.is_empty() {
            self.out.facts.passes |= self.calls_own("=");
        }
        // What is named only once is set against each other all the same.
        self.out.facts.any_used |= join.is_natural;
        for column in &join.using_clause {
            self.out.facts.used.insert(names::text(column)?.to_owned());
        }
        // Of a full join, the merged columns are expressions over both sides.
        if join.jointype == pb::JoinType::JoinFull as i32 && self.flow != Flow::Condition {
            if join.is_natural {
                self.any_column();
            }
            for column in &join.using_clause {
                self.mention(names::text(column)?);
            }
        }
        if let Some(alias) = &join.alias {
            self.ranges.insert(alias.aliasname.clone());
            if !alias.colnames.is_empty() {
                self.out.facts.any_used = true;
                self.any_column();
            }
        }
        if let Some(alias) = &join.join_using_alias {
            self.ranges.insert(alias.aliasname.clone());
        }
        SEEN
    }

    fn alias(&mut self, alias: Option<&pb::Alias>) {
        if let Some(alias) = alias {
            self.ranges.insert(alias.aliasname.clone());
            self.renames |= !alias.colnames.is_empty();
        }
    }

    /// A relation in FROM, or a name of WITH.
    fn read(&mut self, range: &pb::RangeVar) -> Seen {
        self.ranges.insert(range.relname.clone());
        if let Some(alias) = &range.alias {
            self.ranges.insert(alias.aliasname.clone());
            if !alias.colnames.is_empty() {
                self.out.facts.any_used = true;
                self.any_column();
            }
        }
        let unqualified = range.schemaname.is_empty() && range.catalogname.is_empty();
        if unqualified && self.ctes.iter().flatten().any(|name| *name == range.relname) {
            return SEEN;
        }
        let alias = range.alias.as_ref().map_or(&range.relname, |alias| &alias.aliasname);
        for relation in self.resolve(range)? {
            self.read_log.push((alias.clone(), relation.clone()));
            self.selects(relation);
        }
        SEEN
    }

    /// Rows of `relation` are read.
    pub(super) fn selects(&mut self, relation: Relation) {
        self.out.act(Verb::SqlSelect, self.object(&relation));
        self.out.facts.reads.insert(relation);
    }

    /// A relation as policy names it.
    pub(super) fn object(&self, relation: &Relation) -> Object {
        Object::new(ObjectKind::Relation, [&*self.context.database, &*relation.schema, &*relation.name])
    }

    /// FOR UPDATE, FOR SHARE and their like need what UPDATE needs.
    fn locking(&mut self, clauses: &[pb::Node], first_read: usize) -> Seen {
        if clauses.len() > MAX_LOCKING {
            return Err(Unclassifiable::too_large("more locking clauses than Postern follows"));
        }
        for clause in clauses {
            let Some(NodeEnum::LockingClause(clause)) = &clause.node else {
                return Err(Unclassifiable::doubt("a locking clause is not of a form that Postern knows"));
            };
            let mut locked = Vec::new();
            for name in &clause.locked_rels {
                match &name.node {
                    Some(NodeEnum::RangeVar(range)) => locked.push(range.relname.clone()),
                    _ => return Err(Unclassifiable::doubt("a locking clause is not of a form that Postern knows")),
                }
            }
            let read = self.read_log.get(first_read..).unwrap_or_default().to_vec();
            // A name that is no relation's own is a subquery's: then all within may be locked.
            let direct = !locked.is_empty() && locked.iter().all(|name| read.iter().any(|(alias, _)| alias == name));
            for (alias, relation) in read {
                if !direct || locked.contains(&alias) {
                    self.out.act_bounded(Verb::SqlUpdate, self.object(&relation), Some(true));
                }
            }
        }
        SEEN
    }
}

/// INTO of a set operation stands in its first part, and means the whole.
fn into_of(select: &pb::SelectStmt) -> Option<&pb::IntoClause> {
    let mut part = select;
    while let Some(first) = &part.larg {
        part = first;
    }
    part.into_clause.as_deref()
}

/// `*`, `t.*`
fn is_star(column: &pb::ColumnRef) -> bool {
    column.fields.last().is_some_and(|field| matches!(field.node, Some(NodeEnum::AStar(_))))
}

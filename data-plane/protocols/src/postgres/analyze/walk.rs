//! The walk over a parsed text: its state, and every expression.

use std::borrow::Cow;
use std::collections::BTreeSet;

use pg_query::{NodeEnum, protobuf as pb};

use super::context::{AnalyzeContext, SessionNames};
use super::functions;
use super::names::{self, SEEN};
use crate::sql::{Relation, Statement, Unclassifiable};

/// What a step of the walk comes to.
pub(super) type Seen = Result<(), Unclassifiable>;

/// Where the values of what is being walked may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flow {
    /// The outermost list of results: a bare column's origin is told by the server.
    Plain,
    /// Into expressions of the result.
    Shown,
    /// Into what is written.
    Written,
    /// Into either.
    Both,
    /// Into conditions, order and grouping only.
    Condition,
}

/// What a `*` in a list of values comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stars {
    /// Columns under their own names.
    Expand,
    /// Columns by position, or a row as one value.
    Opaque,
    /// Nothing: EXISTS looks at no value.
    Ignore,
}

/// The state of a walk.
pub(super) struct Analyzer<'a> {
    pub(super) context: &'a AnalyzeContext,
    /// The text of the statement at hand.
    pub(super) text: &'a str,
    pub(super) names: Cow<'a, SessionNames>,
    pub(super) out: Statement,
    pub(super) flow: Flow,
    /// Names of WITH, innermost frame last: they hide relations.
    pub(super) ctes: Vec<Vec<String>>,
    /// Names under which a whole row may be meant.
    pub(super) ranges: BTreeSet<String>,
    /// Last names of column references, whether a name precedes them, and where they flow.
    refs: BTreeSet<(String, bool, Flow)>,
    /// Lists of column aliases that may stand over a `*`.
    pub(super) renames: bool,
    /// Columns that the condition at hand looks at.
    pub(super) atom: Vec<String>,
    /// Column references seen so far.
    pub(super) columns: usize,
    /// Relations read so far with the name they are read under, in order.
    pub(super) read_log: Vec<(String, Relation)>,
    /// The column reference at hand stands alone in a list of values.
    pub(super) bare: bool,
    /// ON CONFLICT DO UPDATE: names of this range are what the client itself sent.
    pub(super) excluded: bool,
    /// It calls what takes or returns types of the database's own, or of which that is not known.
    pub(super) own_types: bool,
    /// Some statement reads or sets columns that the walk does not see.
    pub(super) untold: bool,
}

impl<'a> Analyzer<'a> {
    pub(super) fn new(context: &'a AnalyzeContext, names: Cow<'a, SessionNames>) -> Self {
        Self {
            context,
            text: "",
            names,
            out: Statement::default(),
            flow: Flow::Plain,
            ctes: Vec::new(),
            ranges: BTreeSet::new(),
            refs: BTreeSet::new(),
            renames: false,
            atom: Vec::new(),
            columns: 0,
            read_log: Vec::new(),
            bare: false,
            excluded: false,
            own_types: false,
            untold: false,
        }
    }

    /// After the last node of a statement: what only the whole of it tells.
    pub(super) fn settle(&mut self) {
        if self.renames {
            self.out.facts.any_shown |= self.out.facts.star_shown;
            self.out.facts.any_written |= self.out.facts.star_written;
        }
        self.out.facts.any_computed |= self.out.facts.computed.iter().any(|name| self.ranges.contains(name));
        self.out.facts.any_used |= self.renames || self.out.facts.used.iter().any(|name| self.ranges.contains(name));
        for (name, qualified, flow) in std::mem::take(&mut self.refs) {
            if self.ranges.contains(&name) {
                self.flowing(flow, Self::any_column);
            }
            // `t.f` calls f(t) when t has no column f.
            let takes_row = self.takes_row(&name);
            if qualified && takes_row {
                self.flowing(flow, Self::any_column);
                if !functions::is_harmless(&name) {
                    self.called(&name);
                }
            }
        }
        self.silent_casts();
        self.ranges.clear();
        self.renames = false;
        self.read_log.clear();
    }

    /// Casts that nobody writes: what has values of their types may call their functions.
    fn silent_casts(&mut self) {
        let Some(catalog) = self.context.catalog.clone() else { return };
        let own_types = std::mem::take(&mut self.own_types);
        let mut called: BTreeSet<[String; 2]> = self.names.made_silent_casts().clone();
        for (of, functions) in catalog.silent_casts() {
            let has = |relation: &Relation| {
                let known = catalog.relation(&relation.schema, &relation.name);
                let mut columns = known.into_iter().flat_map(|(_, relation)| relation.columns.values());
                columns.any(|column| catalog.may_be_of_type(column.type_oid, of))
            };
            let holds = self.out.facts.relations().any(has);
            if holds {
                self.passing(Self::any_column);
            }
            if holds || own_types {
                called.extend(functions.iter().map(|(schema, name)| [schema.to_string(), name.to_string()]));
            }
        }
        for [schema, name] in &called {
            self.routine(&[schema, name]);
        }
    }

    /// Walks with another flow.
    pub(super) fn flowing<T>(&mut self, flow: Flow, walk: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.flow, flow);
        let result = walk(self);
        self.flow = before;
        result
    }

    /// Conditions: whatever they look at does not flow on.
    pub(super) fn condition(&mut self, node: Option<&pb::Node>) -> Seen {
        self.flowing(Flow::Condition, |this| node.map_or(SEEN, |node| this.test(node)))
    }

    pub(super) fn conditions(&mut self, nodes: &[pb::Node]) -> Seen {
        self.flowing(Flow::Condition, |this| nodes.iter().try_for_each(|node| this.test(node)))
    }

    /// One condition. A column against what the client wrote is a guess, and one column equal to another is a join; anything else over
    /// several columns may tell a value by the rows that pass.
    fn test(&mut self, node: &pb::Node) -> Seen {
        match &node.node {
            Some(NodeEnum::BoolExpr(expr)) => expr.args.iter().try_for_each(|part| self.test(part)),
            Some(NodeEnum::GroupingSet(set)) => set.content.iter().try_for_each(|part| self.test(part)),
            _ => {
                let before = std::mem::take(&mut self.atom);
                let seen = self.expr(node);
                let names = std::mem::replace(&mut self.atom, before);
                if names.len() > 1 && !super::bounds::equates(node) {
                    self.out.facts.compares = true;
                    self.out.facts.computed.extend(names);
                }
                seen
            }
        }
    }

    pub(super) fn maybe(&mut self, node: Option<&pb::Node>) -> Seen {
        node.map_or(SEEN, |node| self.expr(node))
    }

    pub(super) fn all(&mut self, nodes: &[pb::Node]) -> Seen {
        nodes.iter().try_for_each(|node| self.expr(node))
    }

    /// Every expression. What is not named here is in doubt.
    pub(super) fn expr(&mut self, node: &pb::Node) -> Seen {
        let Some(node) = &node.node else { return SEEN };
        match node {
            NodeEnum::AConst(_)
            | NodeEnum::Integer(_)
            | NodeEnum::Float(_)
            | NodeEnum::Boolean(_)
            | NodeEnum::String(_)
            | NodeEnum::BitString(_)
            | NodeEnum::SetToDefault(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::CurrentOfExpr(_) => SEEN,
            NodeEnum::MergeSupportFunc(_) => {
                // A function's name to servers older than the grammar.
                self.out.facts.passes |= self.calls_own("merge_action");
                SEEN
            }
            NodeEnum::ColumnRef(column) => self.column(column),
            NodeEnum::List(list) => self.all(&list.items),
            NodeEnum::AExpr(expr) => {
                let systems = self.operator(&expr.name)?;
                let walk = |this: &mut Self| {
                    this.maybe(expr.lexpr.as_deref())?;
                    this.maybe(expr.rexpr.as_deref())
                };
                if systems { walk(self) } else { self.passing(walk) }
            }
            NodeEnum::BoolExpr(expr) => self.all(&expr.args),
            NodeEnum::NullTest(test) => self.maybe(test.arg.as_deref()),
            NodeEnum::BooleanTest(test) => self.maybe(test.arg.as_deref()),
            NodeEnum::TypeCast(cast) => {
                self.type_name(cast.type_name.as_ref())?;
                self.maybe(cast.arg.as_deref())
            }
            NodeEnum::TypeName(name) => self.type_name(Some(name)),
            NodeEnum::CollateClause(collate) => self.maybe(collate.arg.as_deref()),
            NodeEnum::FuncCall(call) => self.call(call),
            NodeEnum::NamedArgExpr(arg) => self.maybe(arg.arg.as_deref()),
            NodeEnum::CaseExpr(case) => {
                // CASE x WHEN y has no symbol of its own, either.
                let systems = case.arg.is_none() || !self.calls_own("=");
                let walk = |this: &mut Self| {
                    this.maybe(case.arg.as_deref())?;
                    this.all(&case.args)?;
                    this.maybe(case.defresult.as_deref())
                };
                if systems { walk(self) } else { self.passing(walk) }
            }
            NodeEnum::CaseWhen(when) => {
                self.maybe(when.expr.as_deref())?;
                self.maybe(when.result.as_deref())
            }
            NodeEnum::CoalesceExpr(expr) => self.all(&expr.args),
            NodeEnum::MinMaxExpr(expr) => self.all(&expr.args),
            NodeEnum::RowExpr(expr) => self.all(&expr.args),
            NodeEnum::AArrayExpr(expr) => self.all(&expr.elements),
            NodeEnum::GroupingFunc(func) => self.all(&func.args),
            NodeEnum::GroupingSet(set) => self.all(&set.content),
            NodeEnum::AIndirection(expr) => {
                self.maybe(expr.arg.as_deref())?;
                self.indirection(&expr.indirection)
            }
            NodeEnum::AIndices(indices) => {
                self.maybe(indices.lidx.as_deref())?;
                self.maybe(indices.uidx.as_deref())
            }
            NodeEnum::MultiAssignRef(assign) => self.maybe(assign.source.as_deref()),
            NodeEnum::ResTarget(target) => {
                self.indirection(&target.indirection)?;
                self.maybe(target.val.as_deref())
            }
            NodeEnum::SortBy(sort) => {
                if self.operator(&sort.use_op)? {
                    self.maybe(sort.node.as_deref())
                } else {
                    self.passing(|this| this.maybe(sort.node.as_deref()))
                }
            }
            NodeEnum::WindowDef(window) => self.window(window),
            NodeEnum::SubLink(link) => self.sublink(link),
            NodeEnum::IndexElem(elem) => {
                // Whether it can be unique, and in which order its rows are, is told.
                if !elem.name.is_empty() {
                    self.out.facts.used.insert(elem.name.clone());
                }
                self.all(&elem.opclassopts)?;
                self.maybe(elem.expr.as_deref())
            }
            NodeEnum::PartitionElem(elem) => self.maybe(elem.expr.as_deref()),
            NodeEnum::StatsElem(elem) => self.maybe(elem.expr.as_deref()),
            NodeEnum::DefElem(elem) => self.maybe(elem.arg.as_deref()),
            NodeEnum::XmlExpr(expr) => {
                self.all(&expr.named_args)?;
                self.all(&expr.args)
            }
            NodeEnum::XmlSerialize(expr) => {
                self.type_name(expr.type_name.as_ref())?;
                self.maybe(expr.expr.as_deref())
            }
            _ => self.json(node),
        }
    }

    /// Notes a column reference; a `*` inside an expression is a row as one value.
    pub(super) fn column(&mut self, column: &pb::ColumnRef) -> Seen {
        self.columns = self.columns.saturating_add(1);
        let bare = std::mem::take(&mut self.bare);
        let Some((last, before)) = column.fields.split_last() else {
            return Err(Unclassifiable::doubt("a column has no name"));
        };
        if matches!(last.node, Some(NodeEnum::AStar(_))) {
            self.out.facts.any_computed |= self.flow == Flow::Condition;
            self.out.facts.any_used = true;
            self.any_column();
            return SEEN;
        }
        let name = names::text(last)?;
        if self.flow == Flow::Condition {
            // A call in the form of a column is a call wherever it stands.
            let calls = !before.is_empty() && !functions::is_harmless(name) && self.takes_row(name);
            if calls {
                self.called(name);
            }
            self.out.facts.used.insert(name.to_owned());
            self.atom.push(name.to_owned());
            return SEEN;
        }
        if self.excluded && matches!(before, [range] if names::text(range)? == "excluded") {
            self.columns = self.columns.saturating_sub(1);
            return SEEN;
        }
        if !bare {
            self.out.facts.used.insert(name.to_owned());
        }
        self.refs.insert((name.to_owned(), !before.is_empty(), self.flow));
        self.mention(name);
        SEEN
    }

    /// Any column may flow where the walk stands.
    pub(super) fn any_column(&mut self) {
        let facts = &mut self.out.facts;
        facts.any_shown |= matches!(self.flow, Flow::Plain | Flow::Shown | Flow::Both);
        facts.any_written |= matches!(self.flow, Flow::Written | Flow::Both);
    }

    /// A column of this name flows where the walk stands.
    pub(super) fn mention(&mut self, name: &str) {
        let facts = &mut self.out.facts;
        match self.flow {
            Flow::Plain => drop(facts.plain.insert(name.to_owned())),
            Flow::Shown => drop(facts.shown.insert(name.to_owned())),
            Flow::Written => drop(facts.written.insert(name.to_owned())),
            Flow::Both => {
                facts.shown.insert(name.to_owned());
                facts.written.insert(name.to_owned());
                facts.derived.insert(name.to_owned());
            }
            Flow::Condition => {}
        }
    }

    /// `(expr).field`, `(expr).*`, `expr[i]`; a field that is none calls the function of its name.
    fn indirection(&mut self, steps: &[pb::Node]) -> Seen {
        for step in steps {
            match &step.node {
                Some(NodeEnum::String(field)) => {
                    self.mention(&field.sval);
                    self.out.facts.used.insert(field.sval.clone());
                    let called = self.context.catalog.as_ref().is_some_and(|catalog| catalog.is_function(&field.sval))
                        || self.has_made_routine(&field.sval);
                    if called && !functions::is_harmless(&field.sval) {
                        self.called(&field.sval);
                    }
                }
                Some(NodeEnum::AStar(_)) => {
                    self.out.facts.any_used = true;
                    self.any_column();
                }
                Some(NodeEnum::AIndices(_)) => self.expr(step)?,
                _ => return Err(Unclassifiable::doubt("an indirection is not of a form that Postern knows")),
            }
        }
        SEEN
    }

    /// Whether `t.f` may call f(t).
    fn takes_row(&self, name: &str) -> bool {
        self.context.catalog.as_ref().is_some_and(|catalog| catalog.takes_row(name)) || self.has_made_routine(name)
    }

    fn has_made_routine(&self, name: &str) -> bool {
        self.names.made_routines(name).next().is_some()
    }

    pub(super) fn type_name(&mut self, name: Option<&pb::TypeName>) -> Seen {
        let Some(name) = name else { return SEEN };
        if let (Some(catalog), Some(last)) = (&self.context.catalog, name.names.last()) {
            let last = names::text(last)?;
            let known = catalog.cast_functions(last).map(|(schema, name)| [schema.to_owned(), name.to_owned()]);
            let called: Vec<_> = known.chain(self.names.made_casts(last).cloned()).collect();
            for [schema, name] in &called {
                self.routine(&[schema, name]);
            }
        }
        self.flowing(Flow::Condition, |this| this.all(&name.typmods))
    }

    pub(super) fn window(&mut self, window: &pb::WindowDef) -> Seen {
        self.conditions(&window.partition_clause)?;
        self.conditions(&window.order_clause)?;
        self.condition(window.start_offset.as_deref())?;
        self.condition(window.end_offset.as_deref())
    }

    fn sublink(&mut self, link: &pb::SubLink) -> Seen {
        // IN has no symbol of its own.
        let equality = link.oper_name.is_empty() && link.testexpr.is_some();
        let own = equality && self.calls_own("=");
        if self.operator(&link.oper_name)? && !own {
            self.sublink_parts(link)
        } else {
            self.passing(|this| this.sublink_parts(link))
        }
    }

    fn sublink_parts(&mut self, link: &pb::SubLink) -> Seen {
        self.maybe(link.testexpr.as_deref())?;
        let Some(NodeEnum::SelectStmt(select)) = link.subselect.as_ref().and_then(|node| node.node.as_ref()) else {
            return Err(Unclassifiable::doubt("a subquery is not of a form that Postern knows"));
        };
        let exists = link.sub_link_type == pb::SubLinkType::ExistsSublink as i32;
        match self.flow {
            // EXISTS looks at no value, so what its list names goes nowhere.
            _ if exists => self.flowing(Flow::Condition, |this| this.select(select, Stars::Ignore)),
            _ => self.select(select, Stars::Opaque),
        }
    }
}

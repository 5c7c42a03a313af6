//! Whether a WHERE clause bounds the rows of an UPDATE or DELETE: whether it tells some rows of the table from others, as far as its form shows.
//!
//! What holds for every row by its form (`true`, a column that is itself, `IS NOT NULL`, `LIKE '%'`, a join of the table with itself) does not bound.
//! What holds for every row by the values that are there (`id > -1`) can look like a bound: only the server could tell.

use pg_query::{NodeEnum, protobuf as pb};

/// Alternatives that are compared with each other.
const MAX_COMPARED: usize = 50;

/// The table whose rows are to be bounded, among those that the statement reads beside it.
pub(super) struct Bounded<'a> {
    name: &'a str,
    /// It stands beside itself: columns of the same name may be the same column.
    twice: bool,
}

impl<'a> Bounded<'a> {
    /// `beside`: FROM, USING, or the source of a MERGE.
    pub(super) fn new(target: Option<&'a pb::RangeVar>, beside: &[pb::Node]) -> Self {
        let name = target.map_or("", |target| target.relname.as_str());
        Self { name, twice: reads(beside, name) }
    }

    /// Whether the condition bounds its rows.
    pub(super) fn by(&self, condition: Option<&pb::Node>) -> bool {
        self.holds(condition, false)
    }

    /// `denied`: whether the condition's opposite bounds.
    fn holds(&self, condition: Option<&pb::Node>, denied: bool) -> bool {
        let Some(node) = condition.and_then(|node| node.node.as_ref()) else { return false };
        match node {
            NodeEnum::BoolExpr(expr) => self.all_or_any(expr, denied),
            NodeEnum::AExpr(expr) => self.compares(expr),
            NodeEnum::NullTest(test) => {
                let is_null = (test.nulltesttype == pb::NullTestType::IsNull as i32) != denied;
                is_null && looks(test.arg.as_deref())
            }
            NodeEnum::BooleanTest(test) => {
                use pb::BoolTestType as T;
                let arg = test.arg.as_deref();
                match (T::try_from(test.booltesttype), denied) {
                    (Ok(T::IsTrue | T::IsNotFalse), _) => self.holds(arg, denied),
                    (Ok(T::IsFalse | T::IsNotTrue), _) => self.holds(arg, !denied),
                    (Ok(T::IsUnknown), false) | (Ok(T::IsNotUnknown), true) => looks(arg),
                    _ => false,
                }
            }
            NodeEnum::TypeCast(cast) => self.holds(cast.arg.as_deref(), denied),
            NodeEnum::CaseExpr(case) => {
                let shut = |result| self.holds(result, denied) || fails(result, denied);
                case.defresult.as_deref().is_none_or(|result| shut(Some(result)))
                    && case.args.iter().all(|when| match &when.node {
                        // Which rows come this way is bounded, or what is made of them.
                        Some(NodeEnum::CaseWhen(when)) => {
                            let chosen = match case.arg.as_deref() {
                                Some(arg) => looks(Some(arg)),
                                None => self.holds(when.expr.as_deref(), false),
                            };
                            chosen || shut(when.result.as_deref())
                        }
                        _ => false,
                    })
            }
            NodeEnum::CoalesceExpr(expr) => {
                expr.args.iter().all(|arg| self.holds(Some(arg), denied) || fails(Some(arg), denied))
            }
            NodeEnum::SubLink(link) => self.among(link),
            NodeEnum::CurrentOfExpr(_) => true,
            _ => looks(condition),
        }
    }

    fn all_or_any(&self, expr: &pb::BoolExpr, denied: bool) -> bool {
        let mut parts = expr.args.iter().map(|part| self.holds(Some(part), denied));
        match (pb::BoolExprType::try_from(expr.boolop), denied) {
            (Ok(pb::BoolExprType::NotExpr), _) => self.holds(expr.args.first(), !denied),
            (Ok(pb::BoolExprType::AndExpr), false) | (Ok(pb::BoolExprType::OrExpr), true) => parts.any(|bounds| bounds),
            _ => parts.all(|bounds| bounds) && !covers(&expr.args),
        }
    }

    fn compares(&self, expr: &pb::AExpr) -> bool {
        let (left, right) = (expr.lexpr.as_deref(), expr.rexpr.as_deref());
        let (Some(l), Some(r)) = (left, right) else { return looks(left) || looks(right) };
        if self.same(l, r) || items(r).iter().any(|item| self.same(l, item)) {
            return false;
        }
        let symbol = words(&expr.name).last().copied().unwrap_or_default();
        (looks(left) || looks(right)) && !matches_anything(symbol, r)
    }

    /// `IN (SELECT ...)`, EXISTS: of the very table, only its own condition can bound.
    fn among(&self, link: &pb::SubLink) -> bool {
        let Some(NodeEnum::SelectStmt(select)) = link.subselect.as_ref().and_then(|query| query.node.as_ref()) else {
            return false;
        };
        let condition = select.where_clause.as_deref();
        if reads(&select.from_clause, self.name) {
            let within = Bounded { name: self.name, twice: true };
            return select.limit_count.is_some() || within.by(condition);
        }
        looks(link.testexpr.as_deref()) || looks(condition)
    }

    /// Whether two expressions are the same for every row.
    fn same(&self, left: &pb::Node, right: &pb::Node) -> bool {
        let all = |left: &[pb::Node], right: &[pb::Node]| {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| self.same(left, right))
        };
        let maybe = |left: Option<&pb::Node>, right: Option<&pb::Node>| match (left, right) {
            (Some(left), Some(right)) => self.same(left, right),
            (None, None) => true,
            _ => false,
        };
        match (&left.node, &right.node) {
            (Some(NodeEnum::ColumnRef(l)), Some(NodeEnum::ColumnRef(r))) => {
                let (l, r) = (words(&l.fields), words(&r.fields));
                let close = self.twice || l.len() == 1 || r.len() == 1 || l == r;
                close && l.last().is_some() && l.last() == r.last()
            }
            (Some(NodeEnum::AConst(l)), Some(NodeEnum::AConst(r))) => l.val == r.val,
            (Some(NodeEnum::String(l)), Some(NodeEnum::String(r))) => l.sval == r.sval,
            (Some(NodeEnum::ParamRef(l)), Some(NodeEnum::ParamRef(r))) => l.number == r.number,
            (Some(NodeEnum::List(l)), Some(NodeEnum::List(r))) => all(&l.items, &r.items),
            (Some(NodeEnum::RowExpr(l)), Some(NodeEnum::RowExpr(r))) => all(&l.args, &r.args),
            (Some(NodeEnum::CoalesceExpr(l)), Some(NodeEnum::CoalesceExpr(r))) => all(&l.args, &r.args),
            (Some(NodeEnum::FuncCall(l)), Some(NodeEnum::FuncCall(r))) => {
                words(&l.funcname) == words(&r.funcname) && all(&l.args, &r.args)
            }
            (Some(NodeEnum::AExpr(l)), Some(NodeEnum::AExpr(r))) => {
                l.kind == r.kind
                    && words(&l.name) == words(&r.name)
                    && maybe(l.lexpr.as_deref(), r.lexpr.as_deref())
                    && maybe(l.rexpr.as_deref(), r.rexpr.as_deref())
            }
            (Some(NodeEnum::TypeCast(l)), _) => maybe(l.arg.as_deref(), Some(right)),
            (_, Some(NodeEnum::TypeCast(r))) => maybe(Some(left), r.arg.as_deref()),
            _ => false,
        }
    }
}

/// Whether one column equals another, or does not.
pub(super) fn equates(node: &pb::Node) -> bool {
    let Some(NodeEnum::AExpr(expr)) = &node.node else { return false };
    let column = |node: Option<&pb::Node>| matches!(node.and_then(|n| n.node.as_ref()), Some(NodeEnum::ColumnRef(_)));
    let symbol = super::names::parts(&expr.name);
    let equality = symbol.is_ok_and(|symbol| matches!(symbol.as_slice(), ["=" | "<>"]));
    equality && column(expr.lexpr.as_deref()) && column(expr.rexpr.as_deref())
}

fn words(list: &[pb::Node]) -> Vec<&str> {
    list.iter().map(|node| super::names::text(node).unwrap_or_default()).collect()
}

/// The members of a list or array.
fn items(node: &pb::Node) -> &[pb::Node] {
    match &node.node {
        Some(NodeEnum::List(list)) => &list.items,
        Some(NodeEnum::AArrayExpr(array)) => &array.elements,
        _ => &[],
    }
}

/// A constant that lets no row pass.
fn fails(node: Option<&pb::Node>, denied: bool) -> bool {
    match node.and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::AConst(constant)) => match &constant.val {
            Some(pb::a_const::Val::Boolval(value)) => value.boolval == denied,
            _ => constant.isnull,
        },
        _ => false,
    }
}

/// Whether the pattern of LIKE or of a regular expression is one that every text matches.
fn matches_anything(symbol: &str, pattern: &pb::Node) -> bool {
    let Some(text) = super::calls::literal(pattern) else { return false };
    match symbol {
        "~~" | "~~*" => !text.is_empty() && text.bytes().all(|byte| byte == b'%'),
        "~" | "~*" => matches!(text, "" | ".*" | "^" | "$" | "^.*" | ".*$" | "^.*$"),
        _ => false,
    }
}

/// Whether two of the alternatives let pass, together, every row: `a > 1 OR a <= 1`, `a = 1 OR a <> 1`.
fn covers(parts: &[pb::Node]) -> bool {
    let plain = Bounded { name: "", twice: false };
    let mut compared: Vec<(&pb::Node, &str)> = Vec::new();
    for part in parts {
        let Some(NodeEnum::AExpr(expr)) = &part.node else { continue };
        let (Some(left), Some(right)) = (expr.lexpr.as_deref(), expr.rexpr.as_deref()) else { continue };
        let symbol = words(&expr.name).last().copied().unwrap_or_default();
        let this = if looks(Some(left)) { (left, symbol) } else { (right, turned(symbol)) };
        let together = |(subject, other): &(&pb::Node, &str)| {
            let pair = [*other, this.1];
            let unequal = pair.contains(&"<>");
            let up = pair.contains(&">") || pair.contains(&">=");
            let down = pair.contains(&"<") || pair.contains(&"<=");
            (unequal || (up && down)) && plain.same(subject, this.0)
        };
        if compared.iter().take(MAX_COMPARED).any(together) {
            return true;
        }
        compared.push(this);
    }
    false
}

fn turned(symbol: &str) -> &str {
    match symbol {
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        other => other,
    }
}

/// Whether FROM reads a relation of this name.
fn reads(from: &[pb::Node], name: &str) -> bool {
    from.iter().any(|item| match &item.node {
        Some(NodeEnum::RangeVar(range)) => range.relname == name,
        Some(NodeEnum::JoinExpr(join)) => {
            [&join.larg, &join.rarg].into_iter().flatten().any(|side| reads(std::slice::from_ref(side), name))
        }
        Some(NodeEnum::RangeSubselect(sub)) => match sub.subquery.as_ref().and_then(|query| query.node.as_ref()) {
            Some(NodeEnum::SelectStmt(select)) => reads(&select.from_clause, name),
            _ => false,
        },
        Some(NodeEnum::RangeTableSample(sample)) => {
            sample.relation.as_deref().is_some_and(|relation| reads(std::slice::from_ref(relation), name))
        }
        _ => false,
    })
}

/// Whether an expression looks at a column. Nested queries count when they may be correlated.
fn looks(node: Option<&pb::Node>) -> bool {
    let Some(node) = node.and_then(|node| node.node.as_ref()) else { return false };
    let any = |nodes: &[pb::Node]| nodes.iter().any(|node| looks(Some(node)));
    match node {
        // Every row of a table has the same.
        NodeEnum::ColumnRef(column) => words(&column.fields).last() != Some(&"tableoid"),
        NodeEnum::AExpr(expr) => looks(expr.lexpr.as_deref()) || looks(expr.rexpr.as_deref()),
        NodeEnum::BoolExpr(expr) => any(&expr.args),
        NodeEnum::NullTest(test) => looks(test.arg.as_deref()),
        NodeEnum::BooleanTest(test) => looks(test.arg.as_deref()),
        NodeEnum::TypeCast(cast) => looks(cast.arg.as_deref()),
        NodeEnum::CollateClause(collate) => looks(collate.arg.as_deref()),
        NodeEnum::FuncCall(call) => any(&call.args),
        NodeEnum::NamedArgExpr(arg) => looks(arg.arg.as_deref()),
        NodeEnum::CoalesceExpr(expr) => any(&expr.args),
        NodeEnum::MinMaxExpr(expr) => any(&expr.args),
        NodeEnum::RowExpr(expr) => any(&expr.args),
        NodeEnum::AArrayExpr(expr) => any(&expr.elements),
        NodeEnum::List(list) => any(&list.items),
        NodeEnum::AIndirection(expr) => looks(expr.arg.as_deref()),
        NodeEnum::CaseExpr(case) => looks(case.arg.as_deref()) || any(&case.args) || looks(case.defresult.as_deref()),
        NodeEnum::CaseWhen(when) => looks(when.expr.as_deref()) || looks(when.result.as_deref()),
        NodeEnum::JsonIsPredicate(test) => looks(test.expr.as_deref()),
        NodeEnum::SubLink(link) => looks(link.testexpr.as_deref()) || correlated(link),
        NodeEnum::JsonFuncExpr(_) | NodeEnum::CurrentOfExpr(_) => true,
        _ => false,
    }
}

/// A subquery with a condition of its own may be correlated; `EXISTS (SELECT 1 FROM t)` is not.
fn correlated(link: &pb::SubLink) -> bool {
    match link.subselect.as_ref().and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::SelectStmt(select)) => looks(select.where_clause.as_deref()),
        _ => false,
    }
}

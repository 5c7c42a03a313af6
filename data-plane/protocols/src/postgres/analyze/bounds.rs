//! Whether a WHERE clause bounds the rows of an UPDATE or DELETE.

use pg_query::{NodeEnum, protobuf as pb};

/// Whether the condition looks at any column, other than in a comparison that every row passes. It may still hold for all rows: what it
/// tells apart is a statement that cannot but mean all of them.
pub(super) fn bounds(condition: Option<&pb::Node>) -> bool {
    let Some(node) = condition.and_then(|node| node.node.as_ref()) else { return false };
    match node {
        NodeEnum::BoolExpr(expr) => {
            let parts = || expr.args.iter().map(|part| bounds(Some(part)));
            if expr.boolop == pb::BoolExprType::OrExpr as i32 {
                parts().all(|bounds| bounds)
            } else {
                parts().any(|bounds| bounds)
            }
        }
        NodeEnum::AExpr(expr) => {
            let same = name_of(expr.lexpr.as_deref()).is_some_and(|left| Some(left) == name_of(expr.rexpr.as_deref()));
            !same && (looks(expr.lexpr.as_deref()) || looks(expr.rexpr.as_deref()))
        }
        NodeEnum::CurrentOfExpr(_) => true,
        _ => looks(condition),
    }
}

/// Whether the condition is that one column equals another, or does not.
pub(super) fn equates(node: &pb::Node) -> bool {
    let Some(NodeEnum::AExpr(expr)) = &node.node else { return false };
    let column = |node: Option<&pb::Node>| matches!(node.and_then(|n| n.node.as_ref()), Some(NodeEnum::ColumnRef(_)));
    let symbol = super::names::parts(&expr.name);
    let equality = symbol.is_ok_and(|symbol| matches!(symbol.as_slice(), ["=" | "<>"]));
    equality && column(expr.lexpr.as_deref()) && column(expr.rexpr.as_deref())
}

/// The column that a node is, without its table: `t.id = id` compares a column with itself.
fn name_of(node: Option<&pb::Node>) -> Option<&str> {
    match node?.node.as_ref()? {
        NodeEnum::ColumnRef(column) => match column.fields.last()?.node.as_ref()? {
            NodeEnum::String(name) if column.fields.len() == 1 => Some(&name.sval),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an expression looks at a column. Nested queries count when they may be correlated.
fn looks(node: Option<&pb::Node>) -> bool {
    let Some(node) = node.and_then(|node| node.node.as_ref()) else { return false };
    let any = |nodes: &[pb::Node]| nodes.iter().any(|node| looks(Some(node)));
    match node {
        NodeEnum::ColumnRef(_) => true,
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

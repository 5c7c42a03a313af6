//! SQL/JSON: constructors, queries, tables.

use std::fmt::{self, Write as _};

use pg_query::{NodeEnum, protobuf as pb};

use super::names::SEEN;
use super::walk::{Analyzer, Seen, Stars};
use crate::sql::Unclassifiable;

impl Analyzer<'_> {
    /// Every expression of SQL/JSON. What is not named here is in doubt.
    pub(super) fn json(&mut self, node: &NodeEnum) -> Seen {
        if let Some(word) = word(node)
            && self.calls_own(word)
        {
            return self.passing(|this| this.json_parts(node));
        }
        self.json_parts(node)
    }

    fn json_parts(&mut self, node: &NodeEnum) -> Seen {
        match node {
            NodeEnum::JsonValueExpr(value) => self.json_value(Some(value)),
            NodeEnum::JsonKeyValue(pair) => self.json_pair(pair),
            NodeEnum::JsonArgument(argument) => self.json_value(argument.val.as_deref()),
            NodeEnum::JsonIsPredicate(test) => self.maybe(test.expr.as_deref()),
            NodeEnum::JsonParseExpr(expr) => self.json_value(expr.expr.as_deref()),
            NodeEnum::JsonScalarExpr(expr) => self.maybe(expr.expr.as_deref()),
            NodeEnum::JsonSerializeExpr(expr) => self.json_value(expr.expr.as_deref()),
            NodeEnum::JsonObjectConstructor(made) => self.all(&made.exprs),
            NodeEnum::JsonArrayConstructor(made) => self.all(&made.exprs),
            NodeEnum::JsonArrayQueryConstructor(made) => {
                match made.query.as_ref().and_then(|node| node.node.as_ref()) {
                    Some(NodeEnum::SelectStmt(select)) => self.select(select, Stars::Opaque),
                    _ => Err(Unclassifiable::doubt("a subquery is not of a form that Postern knows")),
                }
            }
            NodeEnum::JsonObjectAgg(aggregate) => {
                if let Some(pair) = &aggregate.arg {
                    self.json_pair(pair)?;
                }
                self.json_aggregate(aggregate.constructor.as_deref())
            }
            NodeEnum::JsonArrayAgg(aggregate) => {
                self.json_value(aggregate.arg.as_deref())?;
                self.json_aggregate(aggregate.constructor.as_deref())
            }
            NodeEnum::JsonFuncExpr(expr) => {
                self.json_value(expr.context_item.as_deref())?;
                self.maybe(expr.pathspec.as_deref())?;
                self.all(&expr.passing)?;
                self.json_behavior(expr.on_empty.as_deref())?;
                self.json_behavior(expr.on_error.as_deref())
            }
            other => Err(Unclassifiable::doubt(format!("Postern does not know the expression {}", kind(other)))),
        }
    }

    /// JSON_TABLE.
    pub(super) fn json_table(&mut self, table: &pb::JsonTable) -> Seen {
        self.out.facts.passes |= self.calls_own("json_table");
        self.json_value(table.context_item.as_deref())?;
        if let Some(path) = &table.pathspec {
            self.maybe(path.string.as_deref())?;
        }
        self.all(&table.passing)?;
        self.json_behavior(table.on_error.as_deref())?;
        self.json_columns(&table.columns)
    }

    fn json_columns(&mut self, columns: &[pb::Node]) -> Seen {
        for column in columns {
            let Some(NodeEnum::JsonTableColumn(column)) = &column.node else {
                return Err(Unclassifiable::doubt("a column of JSON_TABLE is not of a form that Postern knows"));
            };
            self.type_name(column.type_name.as_ref())?;
            if let Some(path) = &column.pathspec {
                self.maybe(path.string.as_deref())?;
            }
            self.json_behavior(column.on_empty.as_deref())?;
            self.json_behavior(column.on_error.as_deref())?;
            self.json_columns(&column.columns)?;
        }
        SEEN
    }

    fn json_value(&mut self, value: Option<&pb::JsonValueExpr>) -> Seen {
        let Some(value) = value else { return SEEN };
        self.maybe(value.raw_expr.as_deref())?;
        self.maybe(value.formatted_expr.as_deref())
    }

    fn json_pair(&mut self, pair: &pb::JsonKeyValue) -> Seen {
        self.maybe(pair.key.as_deref())?;
        self.json_value(pair.value.as_deref())
    }

    fn json_behavior(&mut self, behavior: Option<&pb::JsonBehavior>) -> Seen {
        behavior.map_or(SEEN, |behavior| self.maybe(behavior.expr.as_deref()))
    }

    fn json_aggregate(&mut self, made: Option<&pb::JsonAggConstructor>) -> Seen {
        let Some(made) = made else { return SEEN };
        self.condition(made.agg_filter.as_deref())?;
        self.all(&made.agg_order)?;
        made.over.as_deref().map_or(SEEN, |window| self.window(window))
    }
}

/// The word that a node begins with. Servers older than the grammar read it as a function's name, and call the database's own.
fn word(node: &NodeEnum) -> Option<&'static str> {
    Some(match node {
        NodeEnum::JsonParseExpr(_) => "json",
        NodeEnum::JsonScalarExpr(_) => "json_scalar",
        NodeEnum::JsonSerializeExpr(_) => "json_serialize",
        NodeEnum::JsonObjectConstructor(_) => "json_object",
        NodeEnum::JsonArrayConstructor(_) | NodeEnum::JsonArrayQueryConstructor(_) => "json_array",
        NodeEnum::JsonObjectAgg(_) => "json_objectagg",
        NodeEnum::JsonArrayAgg(_) => "json_arrayagg",
        NodeEnum::JsonFuncExpr(expr) => match pb::JsonExprOp::try_from(expr.op) {
            Ok(pb::JsonExprOp::JsonExistsOp) => "json_exists",
            Ok(pb::JsonExprOp::JsonQueryOp) => "json_query",
            _ => "json_value",
        },
        _ => return None,
    })
}

/// The name of a node's type, without its content.
pub(super) fn kind(node: &NodeEnum) -> String {
    let mut head = Head(String::new());
    // Writing stops with an error as soon as the name is over: the content is never rendered.
    let _ = write!(head, "{node:?}");
    head.0
}

struct Head(String);

impl fmt::Write for Head {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        self.0.push_str(name);
        if name.len() < text.len() || self.0.len() > 64 { Err(fmt::Error) } else { Ok(()) }
    }
}

//! Calls of functions.

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{ObjectKind, Verb};

use super::functions::{self, Known};
use super::names::{self, SEEN, SYSTEM};
use super::walk::{Analyzer, Flow, Seen};
use crate::sql::Unclassifiable;

impl Analyzer<'_> {
    /// A call with all of its parts.
    pub(super) fn call(&mut self, call: &pb::FuncCall) -> Seen {
        let parts = names::parts(&call.funcname)?;
        if call.funcformat == pb::CoercionForm::CoerceSqlSyntax as i32
            && let [_, "system_user"] = parts.as_slice()
        {
            // A column's name to servers older than the grammar.
            let name = call.funcname.last().into_iter().cloned().collect();
            return self.column(&pb::ColumnRef { fields: name, location: 0 });
        }
        // The grammar gives JSON_OBJECT the system's schema; servers older than it look for the name in the path.
        if parts == [SYSTEM, "json_object"] && self.calls_own("json_object") {
            return self.passing(|this| this.arguments(call));
        }
        let (schema, name) = match parts.as_slice() {
            [name] => ("", *name),
            [schema, name] => (*schema, *name),
            [database, schema, name] if **database == *self.context.database => (*schema, *name),
            _ => return Err(Unclassifiable::doubt("a function's name has too many parts")),
        };
        let systems = schema == SYSTEM || (schema.is_empty() && self.is_systems(name));
        let known = if systems { functions::known(name) } else { Known::Nothing };
        let harmless = systems && functions::is_harmless(name);
        if harmless {
            return self.arguments(call);
        }
        if matches!(known, Known::SetConfig | Known::Notify) {
            self.out.facts.copies = true;
        }
        self.passing(|this| this.arguments(call))?;
        self.effect(call, schema, name, known)
    }

    /// Walks what is passed to a function that may keep it, wherever the call stands.
    pub(super) fn passing<T>(&mut self, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.out.facts.passes = true;
        let flow = if self.flow == Flow::Condition { Flow::Written } else { Flow::Both };
        self.flowing(flow, walk)
    }

    /// `f(a, b)` under its name: the function's arguments, order, filter and window.
    fn arguments(&mut self, call: &pb::FuncCall) -> Seen {
        self.all(&call.args)?;
        // WITHIN GROUP orders what the aggregate returns one of.
        if call.agg_within_group {
            self.all(&call.agg_order)?;
        } else {
            self.conditions(&call.agg_order)?;
        }
        self.condition(call.agg_filter.as_deref())?;
        call.over.as_deref().map_or(SEEN, |window| self.window(window))
    }

    /// Whether an unqualified call of `name` can only mean the system's function. One of the same name elsewhere in the path may fit
    /// the arguments better.
    fn is_systems(&self, name: &str) -> bool {
        let ours = functions::is_harmless(name) || functions::known(name) != Known::Nothing;
        ours && self.schemas_of_function(name).is_empty()
    }

    fn effect(&mut self, call: &pb::FuncCall, schema: &str, name: &str, known: Known) -> Seen {
        let database = self.context.database.to_string();
        let path = [&*database, SYSTEM, name];
        match known {
            Known::SetConfig => {
                self.out.facts.calls_volatile = true;
                self.set_config(call)
            }
            Known::Notify => {
                self.out.facts.calls_volatile = true;
                let channel = call.args.first().and_then(literal).unwrap_or(names::UNRESOLVED).to_owned();
                self.out.act_on(Verb::SqlNotify, ObjectKind::Channel, [channel]);
                SEEN
            }
            Known::Effect => {
                self.out.facts.calls_volatile = true;
                self.out.act_on(Verb::SqlCall, ObjectKind::Routine, path);
                SEEN
            }
            Known::File | Known::Opaque => {
                self.out.facts.calls_volatile = true;
                self.danger(name);
                SEEN
            }
            Known::Nothing => {
                self.routine(&[schema, name]);
                // Extensions live anywhere: under the name of a dangerous one, it is one.
                self.danger(name);
                SEEN
            }
        }
    }

    /// A call that is written as a field: `(expr).f` is f(expr) when there is no such field.
    pub(super) fn called(&mut self, name: &str) {
        self.passing(Self::any_column);
        self.routine(&["", name]);
        self.danger(name);
    }

    /// What a function of this name is known to do to the server.
    fn danger(&mut self, name: &str) {
        let verb = match functions::known(name) {
            Known::File => Verb::SqlServerFile,
            Known::Opaque => Verb::SqlOpaque,
            Known::Effect | Known::SetConfig | Known::Notify | Known::Nothing => return,
        };
        let database = self.context.database.to_string();
        self.out.facts.opaque_call = true;
        self.out.facts.unseen |= verb == Verb::SqlOpaque;
        self.out.act_on(verb, ObjectKind::Routine, [&*database, SYSTEM, name]);
    }

    /// `set_config(name, value, is_local)` is a SET, at a time that cannot be foretold.
    fn set_config(&mut self, call: &pb::FuncCall) -> Seen {
        let Some(setting) = call.args.first().and_then(literal) else {
            return Err(Unclassifiable::doubt("set_config() of a setting that is not named by a literal"));
        };
        let value = call.args.get(1).and_then(literal);
        self.change_setting(setting, value.map(|value| vec![value.to_owned()]).as_deref(), false, true)
    }

    /// For what uses an operator without its symbol: whether that may be one of the database's own, which then is called.
    pub(super) fn calls_own(&mut self, symbol: &str) -> bool {
        let own = !self.schemas_of_function(symbol).is_empty();
        if own {
            self.routine(&["", symbol]);
        }
        own
    }

    /// Operators by their symbols; one that is not the system's calls a function that is not known. Whether it is the system's.
    pub(super) fn operator(&mut self, name: &[pb::Node]) -> Result<bool, Unclassifiable> {
        match names::parts(name)?.as_slice() {
            [] => return Ok(true),
            ["pg_catalog", symbol] if functions::is_operator(symbol) => return Ok(true),
            // One of the same symbol elsewhere in the path may fit the arguments better.
            [symbol] if functions::is_operator(symbol) && self.schemas_of_function(symbol).is_empty() => {
                match *symbol {
                    "BETWEEN" | "NOT BETWEEN" | "BETWEEN SYMMETRIC" | "NOT BETWEEN SYMMETRIC" => {
                        let own = ["<", "<=", ">", ">="]
                            .into_iter()
                            .find(|symbol| !self.schemas_of_function(symbol).is_empty());
                        match own {
                            None => return Ok(true),
                            Some(symbol) => self.routine(&["", symbol]),
                        }
                    }
                    _ => return Ok(true),
                }
            }
            [symbol] => self.routine(&["", symbol]),
            [schema, symbol] => self.routine(&[schema, symbol]),
            _ => return Err(Unclassifiable::doubt("an operator's name has too many parts")),
        }
        Ok(false)
    }

    /// A call of what is not known to be harmless: `schema` is empty when the name is unqualified.
    pub(super) fn routine(&mut self, name: &[&str; 2]) {
        let [schema, name] = *name;
        let database = self.context.database.to_string();
        self.out.facts.opaque_call = true;
        let schemas = if schema.is_empty() { self.schemas_of_function(name) } else { vec![schema.to_owned()] };
        let builtin = schema.is_empty()
            && self.context.catalog.as_ref().is_some_and(|catalog| catalog.has_function(names::SYSTEM, name));
        if builtin {
            self.out.act_on(Verb::SqlCall, ObjectKind::Routine, [&*database, names::SYSTEM, name]);
        }
        if builtin {
            let code = self.context.catalog.as_ref().and_then(|catalog| catalog.code(names::SYSTEM, name));
            self.out.facts.calls_volatile |= code.is_none_or(|code| code.volatile);
        } else if schemas.is_empty() {
            self.own_types = true;
            self.out.facts.calls_definer = true;
            self.out.facts.calls_volatile = true;
            self.out.act_on(Verb::SqlCall, ObjectKind::Routine, [&*database, names::UNRESOLVED, name]);
        }
        let catalog = self.context.catalog.clone();
        for schema in schemas {
            self.out.act_on(Verb::SqlCall, ObjectKind::Routine, [&*database, &*schema, name]);
            // What is not known may be anything; but it is a text that cannot be seen only where that is known.
            let code = catalog.as_ref().and_then(|catalog| catalog.code(&schema, name));
            self.own_types |= code.is_none_or(|code| code.own_types);
            // It may be another by now.
            let calls = code.filter(|_| !self.names.made_routines(name).any(|made| *made == *schema || made == "?"));
            self.out.facts.calls_definer |= calls.is_none_or(|code| code.definer);
            self.out.facts.calls_volatile |= calls.is_none_or(|code| code.volatile);
            if code.is_some_and(|code| code.opaque) {
                self.out.facts.unseen = true;
                self.out.act_on(Verb::SqlOpaque, ObjectKind::Routine, [&*database, &*schema, name]);
            }
        }
    }
}

/// The text of a literal, through casts.
pub(super) fn literal(node: &pb::Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            pb::a_const::Val::Sval(text) => Some(&text.sval),
            pb::a_const::Val::Fval(number) => Some(&number.fval),
            _ => None,
        },
        _ => None,
    }
}

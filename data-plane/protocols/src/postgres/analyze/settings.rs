//! SET and RESET.

use std::sync::Arc;

use pg_query::protobuf as pb;
use postern_core::action::{Action, Object, ObjectKind, Verb};

use super::calls::literal;
use super::names::SEEN;
use super::walk::{Analyzer, Seen};
use crate::sql::{SessionEffect, Unclassifiable};

/// Settings that change neither what a statement means nor what it may do.
const HARMLESS: &[&str] = &[
    "application_name",
    "backend_flush_after",
    "bytea_output",
    "client_connection_check_interval",
    "client_min_messages",
    "commit_delay",
    "constraint_exclusion",
    "cursor_tuple_fraction",
    "datestyle",
    "deadlock_timeout",
    "default_statistics_target",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "effective_io_concurrency",
    "extra_float_digits",
    "force_parallel_mode",
    "from_collapse_limit",
    "geqo",
    "gin_fuzzy_search_limit",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "jit_above_cost",
    "join_collapse_limit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "maintenance_work_mem",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "parallel_setup_cost",
    "parallel_tuple_cost",
    "plan_cache_mode",
    "random_page_cost",
    "seed",
    "seq_page_cost",
    "session characteristics",
    "statement_timeout",
    "synchronous_commit",
    "synchronize_seqscans",
    "temp_buffers",
    "timezone",
    "transaction",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_timeout",
    "vacuum_cost_delay",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

/// Most schemas of a search path: each name is looked up in each.
const MAX_PATH: usize = 64;

impl Analyzer<'_> {
    pub(super) fn set(&mut self, set: &pb::VariableSetStmt) -> Seen {
        use pb::VariableSetKind as K;
        self.conditions(&set.args)?;
        let name = set.name.to_ascii_lowercase();
        match K::try_from(set.kind) {
            Ok(K::VarSetValue) => {
                let mut values = Vec::with_capacity(set.args.len());
                for arg in &set.args {
                    match literal(arg) {
                        Some(value) => values.push(value.to_owned()),
                        None => return self.change_setting(&name, None, !set.is_local, false),
                    }
                }
                self.change_setting(&name, Some(&values), !set.is_local, false)
            }
            Ok(K::VarSetDefault | K::VarReset) => self.reset_setting(&name, !set.is_local),
            Ok(K::VarResetAll) => {
                self.out.effects.push(SessionEffect::SearchPath { path: None, certain: true });
                SEEN
            }
            Ok(K::VarSetMulti) if name == "transaction" || name == "session characteristics" => SEEN,
            // SET TRANSACTION SNAPSHOT reads another transaction's view: rows that it may read anyway.
            Ok(K::VarSetMulti) if name == "transaction snapshot" => SEEN,
            _ => Err(Unclassifiable::doubt("SET is not of a form that Postern knows")),
        }
    }

    fn reset_setting(&mut self, name: &str, certain: bool) -> Seen {
        match name {
            "search_path" => {
                self.out.act_on(Verb::SqlSet, ObjectKind::Setting, [name]);
                self.out.effects.push(SessionEffect::SearchPath { path: None, certain });
            }
            "role" | "session_authorization" => {
                let role = self.context.user.to_string();
                self.out.act_on(Verb::SqlSetRole, ObjectKind::Role, [role]);
            }
            "client_encoding" => {}
            // Its default may be off.
            "standard_conforming_strings" => return lexing(),
            _ if is_harmless(name) => {}
            _ => self.out.act_on(Verb::SqlSet, ObjectKind::Setting, [name]),
        }
        SEEN
    }

    /// A setting gets `values`; `None` when they are no literals. `joined`: one text holds the whole list, as set_config() takes it.
    pub(super) fn change_setting(
        &mut self,
        name: &str,
        values: Option<&[String]>,
        certain: bool,
        joined: bool,
    ) -> Seen {
        let name = name.to_ascii_lowercase();
        let first = values.and_then(|values| values.first()).map(String::as_str);
        match &*name {
            "search_path" => {
                let Some(values) = values else {
                    return Err(Unclassifiable::doubt(
                        "search_path must be set to literals: later names are read by it",
                    ));
                };
                let path = if joined { split_path(first.unwrap_or_default())? } else { values.to_vec() };
                if path.len() > MAX_PATH {
                    return Err(Unclassifiable::too_large("search_path names more schemas than Postern follows"));
                }
                let path =
                    path.iter().filter(|schema| !schema.is_empty()).map(|schema| Arc::from(kept(schema))).collect();
                self.out.act_on(Verb::SqlSet, ObjectKind::Setting, ["search_path"]);
                self.out.effects.push(SessionEffect::SearchPath { path: Some(path), certain: certain && !joined });
            }
            "role" | "session_authorization" => {
                let Some(role) = first else {
                    return Err(Unclassifiable::doubt(
                        "a role that is not named by a literal: later names are read by it",
                    ));
                };
                if matches!(role, "none" | "default") {
                    let own = self.context.user.to_string();
                    self.out.act_on(Verb::SqlSetRole, ObjectKind::Role, [own]);
                } else {
                    self.out.act_on(Verb::SqlSetRole, ObjectKind::Role, [role]);
                    self.out.effects.push(SessionEffect::Role(role.to_owned()));
                }
            }
            "standard_conforming_strings" => match first.map(str::to_ascii_lowercase).as_deref() {
                Some("on" | "true" | "yes" | "1") => {}
                _ => return lexing(),
            },
            "client_encoding" | "names" => {
                let plain: String = first
                    .unwrap_or_default()
                    .chars()
                    .filter(char::is_ascii_alphanumeric)
                    .map(|c| c.to_ascii_lowercase())
                    .collect();
                if !matches!(&*plain, "utf8" | "unicode") {
                    return Err(Unclassifiable::unsupported("client_encoding must be UTF8"));
                }
            }
            _ if is_harmless(&name) => {}
            _ => self.out.act_on(Verb::SqlSet, ObjectKind::Setting, [name]),
        }
        SEEN
    }
}

/// Settings that a login may give, and no SET: they are read when a session begins.
const AT_LOGIN: &[&str] = &[
    "ignore_system_indexes",
    "jit_debugging_support",
    "jit_profiling_support",
    "local_preload_libraries",
    "log_connections",
    "log_disconnections",
    "post_auth_delay",
];

/// A setting that a startup packet gives beyond what anybody may: what SET of it would be decided as; nothing for one that is harmless.
///
/// # Errors
/// When no SET does that, or names and texts would mean other things than followed here: another role, encoding or lexing; replication.
pub(crate) fn startup_setting(name: &str, value: &str) -> Result<Option<Action>, Unclassifiable> {
    let set = || Some(Action::new(Verb::SqlSet, Object::new(ObjectKind::Setting, [name])));
    match name {
        "search_path" if split_path(value)?.len() <= MAX_PATH => Ok(set()),
        "standard_conforming_strings" if matches!(value, "on" | "true" | "yes" | "1") => Ok(None),
        "search_path"
        | "standard_conforming_strings"
        | "client_encoding"
        | "names"
        | "role"
        | "session_authorization"
        | "options"
        | "replication"
        | "is_superuser" => Err(Unclassifiable::unsupported("a setting that is not given at startup")),
        _ if AT_LOGIN.contains(&name) || name.is_empty() => {
            Err(Unclassifiable::unsupported("a setting that SET does not know"))
        }
        _ if is_harmless(name) => Ok(None),
        _ => Ok(set()),
    }
}

fn is_harmless(name: &str) -> bool {
    // A name with a dot is an extension's, or nobody's.
    HARMLESS.contains(&name) || (name.starts_with("enable_") && !name.contains('.'))
}

fn lexing() -> Seen {
    Err(Unclassifiable::unsupported(
        "standard_conforming_strings must be on: without it, texts would be read otherwise",
    ))
}

/// As much of a schema's name as the server keeps of one in a search path (NAMEDATALEN - 1), whole characters.
fn kept(name: &str) -> &str {
    const LONGEST: usize = 63;
    let end = (0..=LONGEST.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    end.and_then(|end| name.get(..end)).unwrap_or_default()
}

/// Splits `a, "B"` as the server does; unquoted names fold to lower case.
pub(crate) fn split_path(text: &str) -> Result<Vec<String>, Unclassifiable> {
    let fault = || Unclassifiable::doubt("a search_path that Postern cannot read");
    let mut schemas = Vec::new();
    if text.trim().is_empty() {
        return Ok(schemas);
    }
    for part in text.split(',') {
        let part = part.trim();
        let schema = match part.strip_prefix('"') {
            Some(rest) => {
                let name = rest.strip_suffix('"').ok_or_else(fault)?;
                if name.contains('"') {
                    return Err(fault());
                }
                name.to_owned()
            }
            None if part.is_empty() || part.contains('"') || !part.is_ascii() => return Err(fault()),
            None => part.to_ascii_lowercase(),
        };
        schemas.push(kept(&schema).to_owned());
    }
    Ok(schemas)
}

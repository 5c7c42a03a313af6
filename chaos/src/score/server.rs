//! One session with the server that knows: statements run, and what it reports of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use postern_protocols::postgres::analyze::{
    AnalyzeContext, SessionEffect, SessionNames, Statement, StatementKind, analyze,
};
use postern_protocols::postgres::catalog::{Catalog, CatalogBuilder, queries};

use super::before;
use super::judge::{self, Found, Judgement};
use super::objects::{Before, Object};
use super::tree::Tree;
use crate::live::wire::{Message, Wire, message};

/// What tells of definitions, once in a database.
pub const TRIGGERS: &str = "
    CREATE SCHEMA postern_score;
    GRANT USAGE ON SCHEMA postern_score TO PUBLIC;
    CREATE FUNCTION postern_score.made() RETURNS event_trigger LANGUAGE plpgsql AS $$
    DECLARE r record; BEGIN
        FOR r IN SELECT c.command_tag, c.object_type, c.classid, c.objid, a.object_names FROM pg_event_trigger_ddl_commands() c,
            pg_identify_object_as_address(c.classid, c.objid, c.objsubid) a WHERE c.command_tag = tg_tag AND NOT c.in_extension LOOP
            RAISE LOG 'score: %', array_to_string(ARRAY['made', r.command_tag, r.object_type, r.classid::text, r.objid::text] || r.object_names, chr(31));
        END LOOP;
    EXCEPTION WHEN OTHERS THEN RAISE LOG 'score lost: %', SQLERRM; END $$;
    CREATE FUNCTION postern_score.dropped() RETURNS event_trigger LANGUAGE plpgsql AS $$
    DECLARE r record; BEGIN
        FOR r IN SELECT object_type, classid, objid, address_names FROM pg_event_trigger_dropped_objects() WHERE original LOOP
            RAISE LOG 'score: %', array_to_string(ARRAY['dropped', tg_tag, r.object_type, r.classid::text, r.objid::text] || r.address_names, chr(31));
        END LOOP;
    EXCEPTION WHEN OTHERS THEN RAISE LOG 'score lost: %', SQLERRM; END $$;
    CREATE EVENT TRIGGER postern_score_made ON ddl_command_end EXECUTE FUNCTION postern_score.made();
    CREATE EVENT TRIGGER postern_score_dropped ON sql_drop EXECUTE FUNCTION postern_score.dropped();";

/// Said before each statement: some of a suite's own change it, and some would never end.
const TELL: &str = "SET client_min_messages = log; SET debug_print_parse = on; SET debug_pretty_print = off; SET statement_timeout = '3s'";

/// Rows of one answer that are kept: of catalogues, all that a classifier takes.
const MAX_ROWS: usize = 1_000_000;

/// A session with a server, and with what Postern knows of it.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    database: String,
    names: SessionNames,
    catalog: Arc<Catalog>,
    stale: bool,
    status: u8,
    /// Nothing stays: each statement is undone, and the next one read by the names of the beginning.
    undoing: bool,
}

/// What the server said of one statement.
#[derive(Debug, Default)]
struct Told {
    tree: Tree,
    objects: Vec<Object>,
    failed: bool,
    lost: bool,
}

impl Session {
    /// Connects as `user`, whom the server takes without a password.
    ///
    /// # Errors
    /// When it does not.
    pub fn open(address: &str, user: &str, database: &str) -> Result<Self> {
        let mut wire = Wire::connect(address)?;
        wire.login(user, database, "")?;
        let mut this = Self {
            wire,
            database: database.to_owned(),
            names: SessionNames::default(),
            catalog: Arc::default(),
            stale: true,
            status: b'I',
            undoing: false,
        };
        this.renew()?;
        Ok(this)
    }

    /// The same, and each statement is undone.
    #[must_use]
    pub const fn undoing(mut self) -> Self {
        self.undoing = true;
        self
    }

    /// Runs what is not judged.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn run(&mut self, sql: &str) -> Result<Vec<Message>> {
        self.wire.message('Q', format!("{sql}\0").as_bytes())?;
        let mut answer = Vec::new();
        loop {
            let next = self.wire.read()?;
            match next.kind {
                'G' => self.wire.send(&message('f', b"no rows\0")?)?,
                'Z' => {
                    self.status = next.body.first().copied().unwrap_or(b'I');
                    return Ok(answer);
                }
                _ if next.kind == 'D' && answer.len() > MAX_ROWS => {}
                _ => answer.push(next),
            }
        }
    }

    /// The rows of a query of one's own.
    fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        for message in self.run(sql)?.iter().filter(|message| message.kind == 'D') {
            let text = |value: Option<Vec<u8>>| value.map(|value| String::from_utf8(value).unwrap_or_default());
            rows.push(message.values()?.into_iter().map(text).collect());
        }
        Ok(rows)
    }

    fn renew(&mut self) -> Result<()> {
        if !self.stale || self.status != b'I' {
            return Ok(());
        }
        self.run("SET debug_print_parse = off")?;
        let mut builder = CatalogBuilder::new();
        for (part, query) in queries() {
            for row in self.rows(query)? {
                let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
                builder.row(part, &row)?;
            }
        }
        self.catalog = Arc::new(builder.build());
        self.names.catalog_renewed();
        self.stale = false;
        Ok(())
    }

    /// Classifies `sql` as a gateway would, has the server run it, and compares.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn judge(&mut self, sql: &str) -> Result<Judgement> {
        self.judge_as(sql, sql)
    }

    /// The same of a classifier that is wrong: it reads `read` where the server is sent `sql`.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn judge_as(&mut self, read: &str, sql: &str) -> Result<Judgement> {
        self.renew()?;
        let mut context = AnalyzeContext::new(&self.database, Arc::clone(&self.catalog), 1 << 20);
        // A session's own default is that of its login; the catalog was read by this very session, whose path may be another by now.
        context = context.beginning_with("\"$user\", public").context("a path")?;
        let statement = match analyze(read.as_bytes(), &context, &self.names) {
            Ok(statement) => statement,
            Err(refused) => return Ok(Judgement::refused(&refused)),
        };
        if let Err(refused) = self.names.begin(&statement.effects) {
            return Ok(Judgement::refused(&refused));
        }
        if self.status != b'E' {
            self.run(TELL)?;
        }
        let wrapped =
            self.status == b'I' && statement.copy.is_none() && (self.undoing || is_wrappable(&statement.kinds));
        if wrapped {
            self.run("BEGIN")?;
        }
        let had_id = self.status == b'T' && !wrapped && self.transaction_id()?;
        // What the transaction did before it failed is not known, nor whether ROLLBACK TO returns to where it had an id.
        let failed_before = self.status == b'E';
        let before = if failed_before { Before::default() } else { self.before(&statement, sql)? };
        let answer = self.run(sql)?;
        let told = told(&answer);
        let mut found = Found { objects: told.objects, lost: told.lost, before, ..Found::default() };
        let judgement = if self.status == b'E' || told.failed && told.tree.is_empty() {
            Judgement::unjudged(&statement)
        } else {
            if self.status == b'T' || !told.tree.is_empty() {
                self.name(&told.tree, &mut found)?;
            }
            if self.status == b'T' && !had_id && !failed_before {
                found.wrote = self.transaction_id()?;
            }
            if found.wrote && !found.relations.is_empty() {
                found.assigned_by_view = !self.rows(&before::assigning_views(&found.relations))?.is_empty();
            }
            judge::compare(&statement, &found, &self.database)
        };
        if self.undoing {
            self.run("ROLLBACK")?;
            self.run("DISCARD ALL")?;
            self.names = SessionNames::default();
            return Ok(judgement);
        }
        if wrapped {
            self.run(if told.failed || self.status == b'E' { "ROLLBACK" } else { "COMMIT" })?;
        }
        self.settle(&statement.effects, told.failed, statement.changes_catalog);
        Ok(judgement)
    }

    /// What stands before `statement` runs, as far as it bears on what it names.
    fn before(&mut self, statement: &Statement, text: &str) -> Result<Before> {
        let mut before = Before::default();
        if statement.kinds.contains(&StatementKind::Definition) {
            before.event_triggers = !self.rows(before::EVENT_TRIGGERS)?.is_empty();
        }
        if before::renames(statement, text) {
            before.names = Some(before::by_address(&self.rows(before::NAMES)?));
        }
        let reshaped = before::reshaped(statement);
        if reshaped.is_empty() {
            return Ok(before);
        }
        for row in self.rows(&before::belonging(&reshaped))? {
            match row.as_slice() {
                [Some(how), Some(oid), ..] if how == "0" => drop(before.named.insert(oid.parse().context("an OID")?)),
                [Some(how), _, Some(schema), Some(index), None] if how == "3" => {
                    before.indexes.insert([schema.clone(), index.clone()]);
                }
                [_, _, Some(schema), Some(relation), None] => {
                    before.heirs.insert([schema.clone(), relation.clone()]);
                }
                [_, _, Some(schema), Some(relation), Some(part)] => {
                    before.keys.insert([schema.clone(), relation.clone(), part.clone()]);
                }
                _ => {}
            }
        }
        Ok(before)
    }

    fn settle(&mut self, effects: &[SessionEffect], failed: bool, changes_catalog: bool) {
        if !failed {
            self.names.complete(effects, self.status != b'I');
        }
        if self.status == b'I' {
            self.names.transaction_ended();
        }
        self.stale |= changes_catalog;
    }

    fn transaction_id(&mut self) -> Result<bool> {
        let rows = self.rows("SELECT pg_catalog.pg_current_xact_id_if_assigned()")?;
        Ok(rows.first().and_then(|row| row.first()).is_some_and(Option::is_some))
    }

    /// Names for OIDs.
    fn name(&mut self, tree: &Tree, found: &mut Found) -> Result<()> {
        let list = |oids: &mut dyn Iterator<Item = u32>| oids.map(|oid| oid.to_string()).collect::<Vec<_>>().join(",");
        let relations = list(&mut tree.relations.keys().copied());
        if !relations.is_empty() {
            let sql = format!(
                "SELECT c.oid, CASE WHEN n.oid = pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, c.relname \
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN ({relations})"
            );
            for row in self.rows(&sql)? {
                if let [Some(oid), Some(schema), Some(name)] = row.as_slice() {
                    let permissions = oid.parse().ok().and_then(|oid: u32| tree.relations.get(&oid).copied());
                    found.relations.push((schema.clone(), name.clone(), permissions.unwrap_or_default()));
                }
            }
        }
        let behind = tree.operators.iter().map(|(_, function)| *function);
        let functions = list(&mut tree.functions.iter().chain(&tree.casts).copied().chain(behind));
        if functions.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT p.oid, CASE WHEN n.oid = pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, p.proname, p.provolatile, l.lanname FROM pg_catalog.pg_proc p \
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE p.oid IN ({functions})"
        );
        let mut known: BTreeMap<u32, judge::Function> = BTreeMap::new();
        for row in self.rows(&sql)? {
            if let [Some(oid), Some(schema), Some(name), Some(volatile), Some(language)] = row.as_slice() {
                let oid = oid.parse().context("an OID")?;
                known.insert(
                    oid,
                    judge::Function {
                        schema: schema.clone(),
                        name: name.clone(),
                        system: oid < 16_384,
                        volatile: volatile == "v",
                        compiled: matches!(&**language, "c" | "internal"),
                        symbol: None,
                    },
                );
            }
        }
        found.functions.extend(tree.functions.iter().filter_map(|oid| known.get(oid).cloned()));
        found.casts.extend(tree.casts.iter().filter_map(|oid| known.get(oid).cloned()));
        let own = list(&mut tree.operators.iter().map(|(operator, _)| *operator));
        let rows = if own.is_empty() {
            Vec::new()
        } else {
            self.rows(&format!(
                "SELECT o.oid, n.nspname, o.oprname FROM pg_catalog.pg_operator o \
                 JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE o.oid IN ({own})"
            ))?
        };
        for (operator, function) in &tree.operators {
            let symbol = rows.iter().find(|row| row.first().is_some_and(|oid| *oid == Some(operator.to_string())));
            if let Some(function) = known.get(function) {
                let symbol = symbol.and_then(|row| Some([row.get(1)?.clone()?, row.get(2)?.clone()?]));
                found.operators.push(judge::Function { symbol, ..function.clone() });
            }
        }
        Ok(())
    }
}

fn told(answer: &[Message]) -> Told {
    let mut told = Told::default();
    for message in answer {
        match message.kind {
            'N' => {
                let context = message.field('W');
                match message.field('M').as_deref() {
                    // What functions run in its turn has a context.
                    Some("parse tree:") if context.is_none() => {
                        told.tree.read(&message.field('D').unwrap_or_default());
                    }
                    Some(text) if text.starts_with("score lost: ") => told.lost = true,
                    Some(text) => {
                        let object = text.strip_prefix("score: ").and_then(Object::read);
                        // The trigger's own function is the first line of the context.
                        let nested = context.is_some_and(|context| context.lines().nth(1).is_some());
                        told.objects.extend(object.map(|object| Object { nested, ..object }));
                    }
                    None => {}
                }
            }
            'E' => told.failed = true,
            _ => {}
        }
    }
    told
}

/// Whether a transaction of one's own may be put around it.
fn is_wrappable(kinds: &[StatementKind]) -> bool {
    use StatementKind::{Delete, Explain, Insert, Merge, Prepare, Select, Update};
    matches!(kinds, [Select | Insert | Update | Delete | Merge | Explain | Prepare])
}

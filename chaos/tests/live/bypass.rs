//! I1, I3, I4 against somebody who means it: every attempt of the bypass corpus, by its real bytes, against a real PostgreSQL.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postern_chaos::live::wire::{Message, PROTOCOL_3, Wire, bind, execute, framed, message, sync};
use postern_chaos::live::{Postern, Postgres, wait_until};

use crate::bypass_corpus::{Attempt, Expected, Step, attempts, document, fixture};
use crate::shop;

/// What every planted value holds, as text, and as base64, hexadecimal and other forms of it may have it.
const SECRETS: &[&str] = &[
    "zq7secret",
    "ZQ7SECRET",
    "91827364",
    "918273.64",
    "terces7qz",
    "7a7137736563726574",
    "enE3c2VjcmV0",
    "pxN3NlY3Jld",
    "cTdzZWNyZX",
];

/// The target as far as anybody might change it.
const STATE: &str = "SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM (
    SELECT 'orders ' || o::text FROM public.orders o UNION ALL SELECT 'customers ' || c::text FROM public.customers c
    UNION ALL SELECT 'payroll ' || p::text FROM public.payroll p UNION ALL SELECT 'vault ' || v::text FROM vault.orders v
    UNION ALL SELECT 'class ' || relnamespace::regnamespace || relname || relkind::text FROM pg_class
        WHERE relnamespace::regnamespace::text !~ '^pg_(temp|toast)' AND oid >= 16384
    UNION ALL SELECT 'function ' || oid::regprocedure || md5(prosrc) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT 'schema ' || nspname || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'
    UNION ALL SELECT 'role ' || rolname || rolsuper || coalesce(rolconfig::text, '') FROM pg_roles
    UNION ALL SELECT 'setting ' || setdatabase || setrole || setconfig::text FROM pg_db_role_setting
    UNION ALL SELECT 'object ' || loid || md5(data) FROM pg_largeobject UNION ALL SELECT 'database ' || datname FROM pg_database
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite WHERE oid >= 16384
    UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots) t(t)";

/// What came of an attempt.
#[derive(Default)]
struct Seen {
    /// Everything that the client got.
    bytes: Vec<u8>,
    /// The last step's first error: its SQLSTATE, its message, and whether it is Postern's own.
    error: Option<(String, String, bool)>,
    rows: usize,
}

struct Range {
    postgres: Postgres,
    postern: Postern,
    watcher: tokio_postgres::Client,
    runtime: tokio::runtime::Runtime,
    tokens: BTreeMap<String, String>,
}

impl Range {
    fn start() -> Result<Self> {
        let (postgres, postern) = shop();
        postgres.sql("shop", &fixture("setup.sql"))?;
        postern.apply(&fixture("objects.yaml"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let string =
            format!("host=127.0.0.1 port={} user=watcher password=watcher-of-the-corpus dbname=shop", postgres.port());
        let (watcher, link) = runtime.block_on(tokio_postgres::connect(&string, tokio_postgres::NoTls))?;
        runtime.spawn(link);
        let mut tokens = BTreeMap::new();
        for who in ["reader", "setter", "writer", "masked"] {
            tokens.insert(who.to_owned(), postern.token(who, &[who])?);
            let connection = postern.connection("shop-direct", &tokens[who])?;
            wait_until(Duration::from_secs(20), "the policies", || Ok(connection.run("SELECT 1")?.status.success()))?;
        }
        Ok(Self { postgres, postern, watcher, runtime, tokens })
    }

    fn elsewhere(&self, sql: &str) -> Result<String> {
        let rows = self.runtime.block_on(self.watcher.simple_query(sql))?;
        Ok(rows
            .iter()
            .find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default())
    }

    fn play(&self, attempt: &Attempt) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut wire = Wire::connect(&self.postern.postgres_address()?)?;
        wire.stream().set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut parameters = vec![("user", "shop-direct"), ("database", "shop")];
        for step in &attempt.steps {
            if let Step::Startup(name, value) = step {
                parameters.push((name, value));
            }
        }
        let mut body = PROTOCOL_3.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        wire.send(&framed(&body)?)?;
        let token = self.tokens.get(&attempt.who).context("who")?;
        loop {
            let next = wire.read()?;
            match next.kind {
                'R' if next.body == 3_u32.to_be_bytes() => wire.message('p', format!("{token}\0").as_bytes())?,
                'Z' => break,
                'E' => {
                    seen.take(&[next]);
                    return Ok(seen);
                }
                _ => seen.bytes.extend(next.body),
            }
        }
        let mut group = Vec::new();
        for (place, step) in attempt.steps.iter().enumerate() {
            match step {
                Step::Startup(..) => continue,
                Step::Elsewhere(sql) => {
                    self.elsewhere(sql)?;
                    continue;
                }
                Step::Pipelined(sql) => {
                    group.extend([parse(b"", sql)?, bind("", &[], 0)?, execute()?].concat());
                    if matches!(attempt.steps.get(place + 1), Some(Step::Pipelined(_))) {
                        continue;
                    }
                    group.extend(sync()?);
                    wire.send(&std::mem::take(&mut group))?;
                }
                Step::Simple(sql) => wire.message('Q', &[sql, &b"\0"[..]].concat())?,
                Step::Extended(sql) => {
                    wire.send(&[parse(b"", sql)?, bind("", &[], 0)?, execute()?, sync()?].concat())?
                }
                Step::Parse(name, sql) => wire.send(&[parse(name, sql)?, sync()?].concat())?,
                Step::Bind(name, format) => wire.send(&[run(name, *format)?, execute()?, sync()?].concat())?,
                Step::Close(name) => {
                    wire.send(&[message('C', &[b"S", &name[..], b"\0"].concat())?, sync()?].concat())?
                }
                Step::Message(kind, body) => {
                    wire.message(*kind, body)?;
                    if !matches!(kind, 'Q' | 'F' | 'S') {
                        // Answered once a Sync comes.
                        continue;
                    }
                }
            }
            let answer = wire.until_answered()?;
            seen.take(&answer);
            if answer.last().is_none_or(|last| last.kind != 'Z') {
                break;
            }
        }
        Ok(seen)
    }
}

trait UntilAnswered {
    fn until_answered(&mut self) -> Result<Vec<Message>>;
}

impl UntilAnswered for Wire {
    /// Up to ReadyForQuery, or the end of the connection. Nothing is fed to a COPY.
    fn until_answered(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Ok(next) = self.read() {
            let kind = next.kind;
            messages.push(next);
            match kind {
                'Z' => break,
                'G' => self.send(&[message('f', b"no rows\0")?, sync()?].concat())?,
                _ => {}
            }
        }
        Ok(messages)
    }
}

fn parse(name: &[u8], sql: &[u8]) -> Result<Vec<u8>> {
    message('P', &[name, b"\0", sql, b"\0\0\0"].concat())
}

fn run(name: &[u8], format: u16) -> Result<Vec<u8>> {
    message('B', &[&b"\0"[..], name, b"\0\0\0\0\0\0\x01", &format.to_be_bytes()].concat())
}

impl Seen {
    /// The answer of one more step.
    fn take(&mut self, answer: &[Message]) {
        (self.error, self.rows) = (None, 0);
        for message in answer {
            self.bytes.extend(&message.body);
            self.bytes.push(0);
            self.rows += usize::from(matches!(message.kind, 'D' | 'd'));
            if message.kind == 'E' && self.error.is_none() {
                let code = message.field('C').unwrap_or_default();
                self.error = Some((code, message.field('M').unwrap_or_default(), message.field('F').is_none()));
            }
        }
    }

    fn judge(&self, attempt: &Attempt) -> Result<(), String> {
        let leaked =
            SECRETS.iter().find(|secret| self.bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        if let Some(secret) = leaked {
            return Err(format!("LEAK of {secret}: {}", self.bytes.escape_ascii()));
        }
        match (&attempt.expected, &self.error) {
            (Expected::Denied(code), Some((found, _, true))) if code == found => Ok(()),
            (Expected::Masked, None) if self.rows > 0 => Ok(()),
            (Expected::Harmless, _) => Ok(()),
            (expected, error) => Err(format!("{expected:?} expected, {} rows and {error:?} came", self.rows)),
        }
    }
}

#[test]
pub(crate) fn every_attempt_is_stopped_or_masked() {
    let attempts = attempts();
    assert!(attempts.len() >= 150, "{}", attempts.len());
    let range = Range::start().unwrap();
    let before = range.elsewhere(STATE).unwrap();
    let mut failed = String::new();
    let only = std::env::var("BYPASS").unwrap_or_default();
    for attempt in attempts.iter().filter(|attempt| attempt.name.contains(&only)) {
        let outcome = match range.play(attempt) {
            Ok(seen) => seen.judge(attempt),
            Err(error) => Err(format!("{error:#}")),
        };
        if let Err(why) = outcome {
            writeln!(failed, "{}: {why}\n    {}", attempt.name, attempt.written.join("\n    ")).unwrap();
        }
        let after = range.elsewhere(STATE).unwrap();
        if before != after {
            writeln!(failed, "{}: CHANGED the target\n    {}", attempt.name, attempt.written.join("\n    ")).unwrap();
            range.elsewhere("DELETE FROM orders; INSERT INTO orders SELECT * FROM keep.orders").unwrap();
            assert_eq!(before, range.elsewhere(STATE).unwrap(), "{failed}");
        }
    }
    assert!(failed.is_empty(), "{} lines:\n{failed}", failed.lines().count());
    assert!(range.postgres.sql("shop", "SELECT count(*) FROM orders").is_ok());
}

/// `UPDATE_FIXTURES=1` writes it anew.
#[test]
fn the_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bypass-corpus.md");
    let made = document(&attempts());
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == made, "docs/bypass-corpus.md: UPDATE_FIXTURES=1 writes it anew");
}

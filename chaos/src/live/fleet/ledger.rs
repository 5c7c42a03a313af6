//! Clients that write through the gateways and keep book of what they were told; afterwards the target must agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use super::super::cli::Cli;
use super::super::postgres::Postgres;
use super::super::process::wait_until;
use super::super::wire::Wire;

/// How long a client waits for anything, before it takes the session for lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until a session's recording is whole at the control plane, also of one that a gateway lost sight of.
const SEALED: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// Between two rows of one client: each is read again from its recording at the end, which takes longer than to write it.
const BETWEEN: Duration = Duration::from_millis(20);

/// Clients at work. Each writes one row after the other and never the same twice; when its session ends, it goes to the next gateway.
#[derive(Debug)]
pub struct Ledger {
    stop: Arc<AtomicBool>,
    /// What each client had acknowledged.
    counts: Arc<[AtomicUsize]>,
    clients: Vec<JoinHandle<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    /// Whether it was acknowledged.
    rows: BTreeMap<String, bool>,
    /// Sessions that ended under it, or were refused, by what it was told.
    lost: BTreeMap<String, usize>,
}

/// What the clients were told, all together.
#[derive(Debug, Default)]
pub struct Entered {
    /// Rows that were acknowledged.
    pub acknowledged: usize,
    /// Rows of which nothing was heard.
    pub unknown: usize,
    /// Sessions that ended, or did not begin, by what the client was told.
    pub lost: BTreeMap<String, usize>,
    rows: BTreeMap<String, bool>,
}

impl Ledger {
    pub(super) fn start(clients: usize, gateways: &[String], token: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Arc<[AtomicUsize]> = (0..clients).map(|_| AtomicUsize::new(0)).collect();
        let run = fastrand::u32(..);
        let clients = (0..clients).map(|client| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            let (gateways, token) = (gateways.to_vec(), token.to_owned());
            std::thread::spawn(move || {
                let mut book = Book::default();
                let mut turn = client;
                while !stop.load(Ordering::Relaxed) {
                    let gateway = gateways.iter().cycle().nth(turn % gateways.len()).cloned().unwrap_or_default();
                    let name = format!("{run:08x}-{client}-{turn}");
                    let mut entered = || {
                        if let Some(count) = counts.get(client) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    if let Err(why) = session(&gateway, &token, &name, &stop, &mut book, &mut entered) {
                        *book.lost.entry(format!("{why:#}")).or_default() += 1;
                        std::thread::park_timeout(PAUSE);
                    }
                    turn += 1;
                }
                book
            })
        });
        let clients = clients.collect();
        Self { stop, counts, clients }
    }

    /// Waits until every client has had `more` rows acknowledged from now on.
    ///
    /// # Errors
    /// When one has not in time.
    pub fn progress(&self, more: usize, within: Duration) -> Result<()> {
        let counts = || self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = counts();
        wait_until(within, "every client to get on", || {
            Ok(counts().iter().zip(&before).all(|(now, before)| now - before >= more))
        })
        .map_err(|error| anyhow!("{error:#}: {before:?} -> {:?}", counts()))
    }

    /// Ends the clients, and gives what they know.
    ///
    /// # Errors
    /// When one panicked.
    pub fn finish(self) -> Result<Entered> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Entered::default();
        for client in self.clients {
            let book = client.join().map_err(|_| anyhow!("a client panicked"))?;
            for (why, times) in book.lost {
                *all.lost.entry(why).or_default() += times;
            }
            all.rows.extend(book.rows);
        }
        all.acknowledged = all.rows.values().filter(|acknowledged| **acknowledged).count();
        all.unknown = all.rows.len() - all.acknowledged;
        Ok(all)
    }
}

impl Entered {
    /// Holds the book against the target and the recordings: what was acknowledged is there, once; nothing is there that nobody has written,
    /// or that is not recorded.
    ///
    /// # Errors
    /// When they differ.
    pub fn check(&self, postgres: &Postgres, cli: &Cli) -> Result<()> {
        let listed =
            postgres.sql("shop", "SELECT body, count(*) FROM notes WHERE body LIKE 'ledger %' GROUP BY body")?;
        let mut there = BTreeMap::new();
        for line in listed.lines() {
            let (body, count) = line.rsplit_once('|').ok_or_else(|| anyhow!("{line}"))?;
            there.insert(body.trim_start_matches("ledger ").to_owned(), count.parse::<usize>()?);
        }
        let lost: Vec<_> = self.rows.iter().filter(|(row, known)| **known && !there.contains_key(*row)).collect();
        ensure!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        let twice: Vec<_> = there.iter().filter(|(_, count)| **count > 1).collect();
        ensure!(twice.is_empty(), "there more than once: {twice:?}");
        let foreign: Vec<_> = there.keys().filter(|row| !self.rows.contains_key(*row)).collect();
        ensure!(foreign.is_empty(), "there, and by nobody: {foreign:?}");
        self.recorded(there.keys(), cli)
    }

    /// Every row that is there stands in a recording (I2), and every recording is whole (I10).
    fn recorded<'a>(&self, there: impl Iterator<Item = &'a String>, cli: &Cli) -> Result<()> {
        wait_until(SEALED, "every session to be sealed", || {
            Ok(cli.sessions()?.iter().all(|session| text_of(session, "state") != "open"))
        })?;
        let mut all = String::new();
        for session in cli.sessions()? {
            let id = text_of(&session, "id");
            cli.cli(["sessions", "verify", id])?.ok()?;
            all += &cli.cli(["sessions", "replay", id])?.ok()?;
        }
        // Thousands of rows in megabytes: read once.
        let statements = all.split("'ledger ").skip(1);
        let recorded: BTreeSet<&str> = statements.filter_map(|rest| Some(rest.split_once('\'')?.0)).collect();
        let missing: Vec<_> = there.filter(|row| !recorded.contains(row.as_str())).collect();
        ensure!(missing.is_empty(), "there and in no recording: {missing:?}");
        Ok(())
    }
}

fn text_of<'a>(session: &'a serde_json::Value, field: &str) -> &'a str {
    session.get(field).and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// One session, until it breaks or the client is told to stop.
fn session(
    gateway: &str,
    token: &str,
    name: &str,
    stop: &AtomicBool,
    book: &mut Book,
    entered: &mut impl FnMut(),
) -> Result<()> {
    let mut wire = Wire::connect_tls(gateway, PATIENCE)?;
    wire.login("shop", "shop", token)?;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let row = format!("{name}-{number}");
        book.rows.insert(row.clone(), false);
        let answer = wire.query(&format!("INSERT INTO notes (body) VALUES ('ledger {row}')"))?;
        if let Some(error) = answer.iter().find(|message| message.kind == 'E') {
            bail!("{} {}", error.field('C').unwrap_or_default(), error.field('M').unwrap_or_default());
        }
        book.rows.insert(row, true);
        entered();
        std::thread::park_timeout(BETWEEN);
    }
    // Orderly, so that the recording says so.
    wire.message('X', b"")
}

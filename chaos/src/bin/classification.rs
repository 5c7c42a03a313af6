//! `classification SOURCE DOCUMENT`: the score over the statements of PostgreSQL's own regression suite. SOURCE is its `src/test/regress`; see
//! `scripts/suites.sh`. Ends with 1 when anything was wrong.

#![allow(clippy::print_stderr)] // a program

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use postern_chaos::live::{Postgres, PostgresOptions};
use postern_chaos::score::{Class, Line, Score, Session, TRIGGERS, Variables, filled, lines, value};

const HEAD: &str = include_str!("../../fixtures/classification-head.md");
const DATABASE: &str = "regression";

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let source = arguments.next().context("usage: classification SOURCE DOCUMENT [TEST ...]")?;
    let document = arguments.next().context("usage: classification SOURCE DOCUMENT [TEST ...]")?;
    let only: Vec<String> = arguments.collect();
    let source = fs::canonicalize(source)?;
    let postgres = Postgres::start(PostgresOptions { trust: true, ..Default::default() })?;
    postgres.sql("postgres", &format!("CREATE DATABASE {DATABASE} TEMPLATE template0"))?;
    postgres.sql(DATABASE, TRIGGERS)?;
    // Parse trees go to the client; the server's own log need not have them too.
    for setting in ["log_statement = 'none'", "log_min_messages = 'panic'", "log_min_error_statement = 'panic'"] {
        postgres.sql("postgres", &format!("ALTER SYSTEM SET {setting}"))?;
    }
    postgres.sql("postgres", "SELECT pg_reload_conf()")?;
    let mut score = Score::default();
    for test in schedule(&source)? {
        if only.is_empty() || only.contains(&test) || test == "test_setup" {
            eprintln!("{test}: {} statements so far, {} wrong", score.total(), score.count(Class::Wrong));
            file(&postgres, &source, &test, &mut score)?;
        }
    }
    let version = postgres.sql("postgres", "SHOW server_version")?;
    let version = version.split_whitespace().next().unwrap_or_default();
    let head = HEAD.replace("@VERSION@", version).replace("@TOTAL@", &score.total().to_string());
    fs::write(document, head + &score.document())?;
    for (file, statement, why) in &score.wrong {
        eprintln!("{file}: {}\n    {}", why.join("; "), statement.replace('\n', "\n    "));
    }
    eprintln!("{} statements, {} wrong", score.total(), score.count(Class::Wrong));
    Ok(ExitCode::from(u8::from(score.count(Class::Wrong) > 0)))
}

fn schedule(source: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(source.join("parallel_schedule"))?;
    let tests = text.lines().filter_map(|line| line.strip_prefix("test:"));
    Ok(tests.flat_map(str::split_whitespace).map(str::to_owned).collect())
}

fn file(postgres: &Postgres, source: &Path, test: &str, score: &mut Score) -> Result<()> {
    let script = fs::read(source.join("sql").join(format!("{test}.sql")))?;
    let Ok(script) = String::from_utf8(script) else {
        eprintln!("{test} is not UTF-8");
        return Ok(());
    };
    let mut variables = Variables::new();
    let folder = source.display().to_string();
    for name in ["abs_srcdir", "abs_builddir", "libdir"] {
        variables.insert(name.to_owned(), folder.clone());
    }
    let mut session = Session::open(&postgres.address(), "postgres", DATABASE)?;
    for line in lines(&script) {
        match line {
            Line::Connect => session = Session::open(&postgres.address(), "postgres", DATABASE)?,
            Line::Set(name, text) => {
                let text = value(&text, &variables);
                variables.entry(name).or_insert(text);
            }
            Line::Statement(statement) => {
                let statement = filled(&statement, &variables);
                match session.judge(&statement) {
                    Ok(judgement) => score.add(test, &statement, &judgement),
                    // It ended its own session.
                    Err(_) => session = Session::open(&postgres.address(), "postgres", DATABASE)?,
                }
            }
        }
    }
    Ok(())
}

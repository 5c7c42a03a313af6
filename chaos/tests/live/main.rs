//! The whole system on real parts: PostgreSQL, the `postern` binary, psql, pgbench and drivers. Each test has its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // tests

mod access;
mod admin;
mod bad_input;
mod bad_tokens;
mod bypass;
mod bypass_corpus;
mod cedar;
mod classify;
mod clients;
mod cluster;
mod crowd;
mod decide;
mod dpop;
mod drain;
mod durability;
mod estimates;
mod everything;
mod fleet;
mod flood;
mod harness;
mod hold;
mod idle;
mod interrupted;
mod jobs;
mod kill;
mod library;
mod limits;
mod local_clients;
mod login;
mod login_triggers;
mod mask;
mod mask_numbers;
mod mask_rules;
mod nested_agents;
mod oauth;
mod obligations;
mod oidc_provider;
mod orphans;
mod passthrough;
mod pipeline;
mod policy_masks;
mod power_loss;
mod python_client;
mod readme;
mod record;
mod recording_log;
mod restart;
mod reviews;
mod revocation;
mod saml;
mod secrets;
mod secrets_vault;
mod spare;
mod startup;
mod target;
mod terminal;
mod three_processes;
mod vault_client;
mod vault_keys;
mod versions;
mod watch_order;
mod witnesses;

use postern_chaos::live::{Cli, Postern, Postgres, PostgresOptions};

/// A shop behind a Postern that guards it.
fn shop() -> (Postgres, Postern) {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let postern = Postern::with_shop(&postgres).unwrap();
    (postgres, postern)
}

/// The home of somebody with a token of the development issuer, and the command line as they use it.
fn home_of(postern: &Postern, subject: &str, groups: &[&str]) -> (tempfile::TempDir, Cli) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, postern.token(subject, groups).unwrap()).unwrap();
    let own = home.path().join("postern").display().to_string();
    let cli = postern.with("POSTERN_HOME", &own).with("POSTERN_TOKEN_FILE", &file.display().to_string());
    (home, cli)
}

/// Asserts that `text` contains every one of `parts`.
#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in:\n{text}");
    }
}

/// Asserts that `text` contains none of `parts`.
#[track_caller]
fn assert_lacks(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(!text.contains(part), "{part:?} must not be in:\n{text}");
    }
}

/// A denial as psql shows it: the SQLSTATE, and the decision to ask about.
#[track_caller]
fn assert_denied(stderr: &str) {
    assert_has(stderr, &["42501", "decision dec_"]);
}

//! I4 against a real server: statements that try to get at masked values, run as they are, their answers masked as a session masks them.
//! No byte of a masked value may be left. `statements.txt` holds them beside what becomes of each; `;;` parts texts of one session;
//! `UPDATE_FIXTURES=1` writes it anew: read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, unreachable_pub)]

mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::BytesMut;
use postern_core::Name;
use postern_core::masking::{MaskFunction, MaskSlice, MaskingRule};
use postern_core::policy::Pattern;
use postern_core::principal::{Principal, PrincipalId};
use postern_core::target::TargetSelector;
use postern_protocols::postgres::analyze::{AnalyzeContext, SessionNames, Statement, analyze};
use postern_protocols::postgres::catalog::{Catalog, CatalogBuilder, queries};
use postern_protocols::postgres::mask::{CopyMask, Field, Masking, RowPlan, scrub_fields};
use server::{Connection, Message, Server};

const STATEMENTS: &str = include_str!("statements.txt");

#[test]
fn no_masked_value_leaves() {
    let server = Server::start();
    let failed = server.connect().query(include_str!("database.sql")).into_iter().find(|(tag, _)| *tag == b'E');
    assert!(failed.is_none(), "{}", failed.unwrap().1.escape_ascii());
    let catalog = Arc::new(catalog(&mut server.connect()));
    let masking = masking(&catalog);
    let context = AnalyzeContext::new("postgres", catalog, 1 << 20);

    let mut found = String::new();
    let (mut leaks, mut held) = (Vec::new(), 0);
    for line in STATEMENTS.lines() {
        let sql = line.split_once(" | ").map_or(line, |(_, sql)| sql);
        let mut walk = Walk {
            masking: &masking,
            context: &context,
            names: SessionNames::default(),
            raw: Vec::new(),
            left: Vec::new(),
        };
        let outcome = walk.text(&mut server.connect(), sql);
        writeln!(found, "{outcome} | {sql}").unwrap();
        held += usize::from(has_canary(&walk.raw));
        if has_canary(&walk.left) {
            leaks.push(sql);
        }
    }
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/canary/statements.txt"), &found).unwrap();
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
    // Else the test shows nothing: most of them do get at the values.
    assert!(held > 100, "{held}");
    for (known, found) in STATEMENTS.lines().zip(found.lines()) {
        assert_eq!(known, found);
    }
}

struct Walk<'a> {
    masking: &'a Masking,
    context: &'a AnalyzeContext,
    names: SessionNames,
    /// What the server sent.
    raw: Vec<u8>,
    /// What would be left of it.
    left: Vec<u8>,
}

impl Walk<'_> {
    /// Runs the parts of a text in one transaction that is rolled back; the outcome of the last that ran.
    fn text(&mut self, connection: &mut Connection, sql: &str) -> String {
        connection.query("BEGIN");
        let mut outcome = String::new();
        for part in sql.split(" ;; ") {
            let Ok(statement) = analyze(part.as_bytes(), self.context, &self.names) else {
                return "unclassifiable".into();
            };
            if self.masking.admit(&statement).is_err() {
                return "refused".into();
            }
            let Ok(copy) = CopyMask::for_copy(&statement, self.masking) else { return "refused".into() };
            self.names.begin(&statement.effects).unwrap();
            outcome = self.answer(connection.query(part), &statement, copy);
        }
        outcome
    }

    fn answer(&mut self, messages: Vec<Message>, statement: &Statement, mut copy: Option<CopyMask>) -> String {
        let (mut plan, mut outcome) = (RowPlan::default(), "runs".to_owned());
        for (tag, body) in messages {
            self.raw.extend(&body);
            let mut out = BytesMut::new();
            match tag {
                b'T' => {
                    let fields = fields(&body);
                    plan = RowPlan::for_result(&fields, statement, self.masking);
                    outcome = (0..fields.len()).map(|at| if plan.mask(at).is_some() { 'x' } else { '-' }).collect();
                }
                b'D' => plan.mask_row(&body, &mut out).unwrap(),
                b'd' => match &mut copy {
                    Some(mask) => mask.push(&body, &mut out).unwrap(),
                    None => out.extend(&body),
                },
                b'c' => {
                    outcome = if copy.is_some() { "masked copy" } else { "copy" }.into();
                    copy.iter_mut().for_each(|mask| mask.finish(&mut out).unwrap());
                }
                b'E' | b'N' => {
                    let parts = body.split(|byte| *byte == 0).filter(|part| !part.is_empty());
                    let all: Vec<(u8, Vec<u8>)> = parts.map(|part| (part[0], part[1..].to_vec())).collect();
                    let scrubbed = scrub_fields(all, self.masking.scrub(statement));
                    if tag == b'E' {
                        let state = scrubbed.iter().find(|(code, _)| *code == b'C').unwrap();
                        outcome = format!("error {}", state.1.escape_ascii());
                    }
                    scrubbed.iter().for_each(|(_, value)| out.extend(value));
                }
                _ => out.extend(&body),
            }
            self.left.extend(&out);
        }
        outcome
    }
}

/// In either case, and as base64 and reversed begin.
fn has_canary(bytes: &[u8]) -> bool {
    let upper = bytes.to_ascii_uppercase();
    let holds = |word: &[u8]| upper.windows(word.len()).any(|window| window == word);
    holds(b"CANARY") || holds(b"YRANAC") || bytes.windows(8).any(|window| window == b"Q0FOQVJZ")
}

/// The columns of a RowDescription (section "Message Formats").
fn fields(mut body: &[u8]) -> Vec<Field> {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    let count = number(&body[..2]);
    body = &body[2..];
    let mut fields = Vec::new();
    for _ in 0..count {
        let end = body.iter().position(|byte| *byte == 0).unwrap();
        body = &body[end + 1..];
        fields.push(Field {
            table: number(&body[..4]),
            column: i16::from_be_bytes([body[4], body[5]]),
            type_oid: number(&body[6..10]),
            binary: false,
        });
        body = &body[18..];
    }
    fields
}

/// The values of a DataRow.
fn values(mut body: &[u8]) -> Vec<Option<String>> {
    body = &body[2..];
    let mut values = Vec::new();
    while !body.is_empty() {
        let length = i32::from_be_bytes(body[..4].try_into().unwrap());
        body = &body[4..];
        let value = usize::try_from(length).ok().map(|length| body.split_at(length));
        values.push(value.map(|(value, _)| String::from_utf8(value.to_vec()).unwrap()));
        body = value.map_or(body, |(_, rest)| rest);
    }
    values
}

fn catalog(connection: &mut Connection) -> Catalog {
    let mut builder = CatalogBuilder::new();
    for (part, sql) in queries() {
        for (tag, body) in connection.query(sql) {
            assert_ne!(tag, b'E', "{part:?}: {}", body.escape_ascii());
            if tag == b'D' {
                let values = values(&body);
                let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
                builder.row(part, &values).unwrap();
            }
        }
    }
    builder.build()
}

fn masking(catalog: &Arc<Catalog>) -> Masking {
    let columns = ["cn.people.email", "cn.people.phone", "par1.email", "kid.secret"];
    let rule = MaskingRule {
        targets: TargetSelector { names: vec!["*".into()], ..TargetSelector::default() },
        columns: columns.iter().map(|column| Pattern::parse(column)).collect::<Result<Vec<Pattern>, _>>().unwrap(),
        mask: MaskFunction::Redact("***".into()),
        exempt_groups: Vec::new(),
        ..Default::default()
    };
    let principal = Principal {
        id: PrincipalId { issuer: "dev".parse().unwrap(), subject: "ann".into() },
        groups: Default::default(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    };
    let (name, target): (Name, Name) = ("rule".parse().unwrap(), "shop".parse().unwrap());
    let slice = MaskSlice::new([(&name, &rule)], &principal, &target, &BTreeMap::new());
    Masking::compile(&slice, Arc::clone(catalog), "postgres", &[7; 32])
}

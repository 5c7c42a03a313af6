use postern_core::action::{Action, Object, ObjectKind, Verb};
use postern_core::operation::Digest;
use postern_core::policy::DecisionRecord;
use postern_core::principal::{Principal, PrincipalId};
use postern_core::recording::{Chain, MAGIC};
use postern_core::target::Protocol;
use postern_core::{Code, DecisionId, SessionId, Ttl};

use super::*;

const START: u64 = 1_795_255_200_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

fn principal(subject: &str, group: &str) -> Principal {
    Principal {
        id: PrincipalId { issuer: "dev".parse().unwrap(), subject: subject.into() },
        groups: [group.into()].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}

fn operation(number: u128) -> OperationId {
    OperationId::new(at(0), number)
}

fn asked(number: u128, sql: &str, verb: Verb, outcome: Outcome, policy: &str, reason: &str) -> Event {
    let object = Object::new(ObjectKind::Relation, ["shop", "public", "customers"]);
    Event::Operation(Box::new(OperationEvent {
        operation: operation(number),
        text: Value::Text(sql.into()),
        parameters: vec![],
        actions: vec![Action::new(verb, object)],
        digest: Digest([7; 32]),
        decision: DecisionRecord {
            id: DecisionId::new(at(0), number),
            outcome,
            revision: 12,
            policies: if policy.is_empty() { vec![] } else { vec![policy.parse().unwrap()] },
            reason: reason.into(),
            at: at(0),
            policy_age_ms: None,
            grants: Vec::new(),
            estimated_rows: None,
            obliged: postern_core::policy::Obliged::default(),
        },
    }))
}

fn done(number: u128, outcome: OperationOutcome, rows: u64, rows_omitted: u64) -> Event {
    let (operation, bytes) = (operation(number), rows * 10);
    Event::Completed(Box::new(Completed {
        operation,
        outcome,
        rows,
        bytes,
        rows_omitted,
        omitted_digest: None,
        rows_in: 0,
    }))
}

fn events() -> Vec<(u64, Event)> {
    let requirement = ApprovalRequirement { groups: vec!["dba".into()], count: 1, expires: Ttl(900) };
    let approval = |state, requirement, reviews| Event::Approval {
        operation: operation(3),
        approval: ApprovalId::new(at(0), 1),
        state,
        requirement,
        reviews,
    };
    let review = Review {
        reviewer: principal("bob", "dba"),
        verdict: ReviewVerdict::Approve,
        comment: "as agreed".into(),
        at: at(900),
    };
    let column = |name: &str, mask: Option<&str>| ColumnInfo { name: name.into(), mask: mask.map(Into::into) };
    vec![
        (
            0,
            Event::Started(Box::new(Started {
                session: SessionId::new(at(0), 1),
                principal: principal("alice", "analysts"),
                target: "shop".parse().unwrap(),
                protocol: Protocol::Postgres,
                database: "shop".into(),
                cluster: "c".into(),
                gateway: "g1".into(),
                client_address: "127.0.0.1:4711".into(),
                application: "psql\u{1b}[2J".into(),
                revision: 12,
            })),
        ),
        (120, asked(1, "SELECT name, email\nFROM customers", Verb::SqlSelect, Outcome::Permit, "read", "")),
        (
            130,
            Event::Columns {
                operation: operation(1),
                columns: vec![column("name", None), column("email", Some("redact"))],
            },
        ),
        (
            131,
            Event::Rows {
                operation: operation(1),
                rows: vec![
                    vec![Value::Text("Ada".into()), Value::Text("****".into())],
                    vec![Value::Null, Value::Text("****".into())],
                ],
            },
        ),
        (132, done(1, OperationOutcome::Done { tags: vec!["SELECT 5".into()] }, 5, 3)),
        (
            200,
            asked(
                2,
                "DROP TABLE customers",
                Verb::SqlDrop,
                Outcome::Deny,
                "",
                "no policy permits sql:drop on shop.public.customers",
            ),
        ),
        (201, done(2, OperationOutcome::NotRun { code: Code::Denied }, 0, 0)),
        (
            300,
            asked(
                3,
                "DELETE FROM customers WHERE id = 7",
                Verb::SqlDelete,
                Outcome::Hold,
                "held",
                "a human looks first",
            ),
        ),
        (310, approval(ApprovalState::Pending, Some(requirement), vec![])),
        (950, approval(ApprovalState::Consumed, None, vec![review])),
        (1000, done(3, OperationOutcome::Done { tags: vec!["DELETE 1".into()] }, 0, 0)),
        (
            1100,
            Event::Ended {
                code: None,
                reason: "the client closed the connection".into(),
                interrupted: false,
                gap: None,
            },
        ),
    ]
}

/// A recording without its seal, and how many entries it has.
pub(crate) fn sample() -> (Vec<u8>, usize) {
    let events = events();
    let mut chain = Chain::start(SessionId::new(at(0), 1));
    let mut file = MAGIC.to_vec();
    for (millis, event) in &events {
        chain.append(at(*millis), event, &mut file).unwrap();
    }
    (file, events.len())
}

#[test]
fn reads_as_a_story() {
    let mut replay = Replay::new(false);
    let text: String = events()
        .into_iter()
        .enumerate()
        .map(|(seq, (millis, event))| replay.entry(&Entry { seq: seq as u64, at: at(millis), event }))
        .collect();
    let golden = "\
session ses_01m7v4r1000000000000000001
  principal  dev/alice (analysts)
  target     shop, database shop
  through    g1 from 127.0.0.1:4711, calling itself psql\\u{1b}[2J
  started    2026-11-21T10:00:00.000Z, policy revision 12

[1] +0.120 s PERMIT by read, revision 12, decision dec_01m7v4r1000000000000000001
    SELECT name, email
    FROM customers
    does sql:select on shop.public.customers
    name | email [redact]
    -----+---------------
    Ada  | ****
    NULL | ****
    (3 more rows, not recorded)
    SELECT 5, 5 rows, 50 bytes, after 0.012 s

[2] +0.200 s DENY, revision 12, decision dec_01m7v4r1000000000000000002
    DROP TABLE customers
    does sql:drop on shop.public.customers
    no policy permits sql:drop on shop.public.customers
    not run: denied, after 0.001 s

[3] +0.300 s HOLD by held, revision 12, decision dec_01m7v4r1000000000000000003
    DELETE FROM customers WHERE id = 7
    does sql:delete on shop.public.customers
    a human looks first
    +0.310 s approval apr_01m7v4r1000000000000000001 pending: 1 of dba within 900 s
    +0.950 s approval apr_01m7v4r1000000000000000001 consumed
      approved by dev/bob: as agreed
    DELETE 1, after 0.700 s
ended +1.100 s: the client closed the connection
";
    let id = SessionId::new(at(0), 1).to_string();
    let golden = golden.replace("01m7v4r1000000000000000001", id.strip_prefix("ses_").unwrap());
    let prefix: String = id.chars().skip(4).take(10).collect();
    let golden = golden.replace("01m7v4r100", &prefix);
    assert_eq!(text, golden);
}

#[test]
fn operations_in_a_pipeline_are_told_apart() {
    let mut replay = Replay::new(false);
    let mut feed = |event| replay.entry(&Entry { seq: 0, at: at(0), event });
    let _ = feed(asked(1, "SELECT 1", Verb::SqlSelect, Outcome::Permit, "p", ""));
    let _ = feed(asked(2, "SELECT 2", Verb::SqlSelect, Outcome::Permit, "p", ""));
    let tag = |tag: &str| OperationOutcome::Done { tags: vec![tag.into()] };
    assert!(feed(done(1, tag("SELECT 1"), 1, 0)).starts_with("[1]\n    SELECT 1"));
    assert!(feed(done(2, tag("SELECT 1"), 1, 0)).starts_with("[2]\n    SELECT 1"));
}

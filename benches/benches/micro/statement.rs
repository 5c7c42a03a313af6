//! Classification by PostgreSQL's own parser, and masks on rows.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{Criterion, Throughput};
use postern_core::id::OperationId;
use postern_core::masking::{MaskFunction, MaskSlice, MaskingRule};
use postern_core::name::Name;
use postern_core::policy::{Obliged, Pattern};
use postern_core::principal::Principal;
use postern_core::target::TargetSelector;
use postern_core::time::Timestamp;
use postern_protocols::postgres::analyze::{AnalyzeContext, SessionNames, analyze};
use postern_protocols::postgres::catalog::{Catalog, CatalogBuilder, CatalogPart};
use postern_protocols::postgres::codec::write;
use postern_protocols::postgres::mask::{Field, Masking, RowPlan};
use postern_protocols::postgres::session::{ClientStep, Limits, Session};

const CUSTOMERS: u32 = 20_001;
const TEXT: u32 = 25;

fn catalog() -> Arc<Catalog> {
    let mut builder = CatalogBuilder::new();
    let mut row = |part, values: &[&str]| {
        let values: Vec<Option<&str>> = values.iter().copied().map(Some).collect();
        builder.row(part, &values).unwrap();
    };
    row(CatalogPart::Session, &["app", "1", "public"]);
    row(CatalogPart::Schemas, &["public"]);
    row(CatalogPart::Relations, &["20001", "public", "customers", "r"]);
    row(CatalogPart::Relations, &["20002", "public", "orders", "r"]);
    row(CatalogPart::Relations, &["20003", "public", "pgbench_accounts", "r"]);
    for (place, column) in ["id", "name", "email", "card"].into_iter().enumerate() {
        row(CatalogPart::Columns, &["20001", &(place + 1).to_string(), column, "25", "0"]);
    }
    Arc::new(builder.build())
}

fn masking(catalog: &Arc<Catalog>, mask: MaskFunction) -> Masking {
    let rule = MaskingRule {
        targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
        columns: vec![Pattern::parse("public.customers.email").unwrap()],
        mask,
        exempt_groups: Vec::new(),
        ..Default::default()
    };
    let name: Name = "rule".parse().unwrap();
    let principal: Principal = crate::decide::principal();
    let slice = MaskSlice::new([(&name, &rule)], &principal, &"shop".parse().unwrap(), &BTreeMap::new());
    Masking::compile(&slice, Arc::clone(catalog), "shop", &[7; 32])
}

/// A report of a kilobyte, as tools write them.
fn kilobyte() -> String {
    let mut sql =
        "SELECT c.id AS \"customers.id\", c.name AS \"customers.name\", coalesce(sum(o.amount), 0) AS \"orders.total\""
            .to_owned();
    for column in 0.. {
        let next = format!(", count(*) FILTER (WHERE o.status = 'state {column}') AS \"orders.count_{column}\"");
        if sql.len() + next.len() > 880 {
            break;
        }
        sql.push_str(&next);
    }
    sql.push_str(" FROM customers AS c LEFT JOIN orders AS o ON o.customer_id = c.id WHERE c.id > 10 GROUP BY c.id, c.name ORDER BY 3 DESC LIMIT 500");
    sql
}

/// What a session does with a statement that was classified before: it is asked for, decided by whoever decides, and answered with a row.
fn known(bench: &mut Criterion, context: Arc<AnalyzeContext>) {
    let mut session = Session::new(Limits::default(), context, Arc::new(Masking::default()), 7);
    let (mut query, mut answer) = (BytesMut::new(), BytesMut::new());
    write::query(&mut query, kilobyte().as_bytes());
    answer.extend_from_slice(b"T\0\0\0\x1e\0\x01total\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    answer.extend_from_slice(&crate::codec::data_row(&["4711"]));
    answer.extend_from_slice(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
    let mut number = 0_u128;
    bench.bench_function("session/a known statement of 1 KiB, asked, decided and answered", |b| {
        b.iter(|| {
            let (mut from_client, mut from_server) = (query.clone(), answer.clone());
            let ClientStep::Decide(pending) = session.next_client(&mut from_client).unwrap() else { unreachable!() };
            number += 1;
            black_box(session.permit(pending, OperationId::new(Timestamp::from_millis(0), number), Obliged::default()));
            let (mut to_client, mut events) = (BytesMut::new(), Vec::new());
            session.next_server(&mut from_server, &mut to_client, &mut events).unwrap();
            assert!(session.is_idle());
            to_client.len()
        });
    });
}

/// Every bench of this file.
pub(crate) fn all(bench: &mut Criterion) {
    let catalog = catalog();
    let context = AnalyzeContext::new("shop", Arc::clone(&catalog), 1 << 20);
    let names = SessionNames::default();
    for (name, sql) in [
        ("a select", "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;"),
        ("an update", "UPDATE orders SET status = 'paid', amount = amount * 1.1 WHERE id IN (1, 2, 3) RETURNING id"),
        (
            "a report",
            "WITH recent AS (SELECT * FROM orders o WHERE o.amount > 10) SELECT c.name, sum(r.amount) AS total, count(*) \
             FROM customers c JOIN recent r ON r.customer_id = c.id LEFT JOIN LATERAL (SELECT max(id) AS m FROM orders) x ON true \
             WHERE c.name LIKE 'A%' GROUP BY c.name HAVING sum(r.amount) > 5 ORDER BY total DESC LIMIT 10",
        ),
    ] {
        assert!(analyze(sql.as_bytes(), &context, &names).is_ok(), "{name}");
        bench.bench_function(&format!("analyze/{name}"), |b| {
            b.iter(|| black_box(analyze(sql.as_bytes(), &context, &names)))
        });
    }

    let long = kilobyte();
    assert!(analyze(long.as_bytes(), &context, &names).is_ok());
    bench.bench_function("analyze/1 KiB that nobody asked before", |b| {
        b.iter(|| black_box(analyze(long.as_bytes(), &context, &names)))
    });
    known(bench, Arc::new(context.clone()));

    let statement = analyze(b"SELECT * FROM customers", &context, &names).unwrap();
    let fields: Vec<Field> =
        (1..=4).map(|column| Field { table: CUSTOMERS, column, type_oid: TEXT, binary: false }).collect();
    let frame = crate::codec::data_row(&["7", "Ada", "ada@secret.example", "4000-1111-2222-3333"]);
    let body = frame.get(5..).unwrap();
    let mut group = bench.benchmark_group("mask");
    group.throughput(Throughput::Elements(1));
    for (name, mask) in [("redact", MaskFunction::Redact("****".into())), ("hash", MaskFunction::Hash)] {
        let plan = RowPlan::for_result(&fields, &statement, &masking(&catalog, mask));
        assert!(!plan.is_plain());
        let mut out = BytesMut::with_capacity(4096);
        group.bench_function(format!("{name}, one row"), |b| {
            b.iter(|| {
                out.clear();
                plan.mask_row(black_box(body), &mut out).unwrap();
                out.len()
            });
        });
    }
    group.finish();
}

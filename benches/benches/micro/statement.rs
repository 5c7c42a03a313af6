//! Classification by PostgreSQL's own parser, and masks on rows.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{Criterion, Throughput};
use postern_core::masking::{MaskFunction, MaskSlice, MaskingRule};
use postern_core::name::Name;
use postern_core::policy::Pattern;
use postern_core::principal::Principal;
use postern_core::target::TargetSelector;
use postern_protocols::postgres::analyze::{AnalyzeContext, SessionNames, analyze};
use postern_protocols::postgres::catalog::{Catalog, CatalogBuilder, CatalogPart};
use postern_protocols::postgres::mask::{Field, Masking, RowPlan};

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
    };
    let name: Name = "rule".parse().unwrap();
    let principal: Principal = crate::decide::principal();
    let slice = MaskSlice::new([(&name, &rule)], &principal, &"shop".parse().unwrap(), &BTreeMap::new());
    Masking::compile(&slice, Arc::clone(catalog), "shop", &[7; 32])
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

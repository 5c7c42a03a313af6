//! Classification by PostgreSQL's own parser, and masks on rows.

use std::hint::black_box;
use std::sync::Arc;

use criterion::Criterion;
use postern_protocols::postgres::analyze::{AnalyzeContext, SessionNames, analyze};
use postern_protocols::postgres::catalog::Catalog;

/// Every bench of this file.
pub(crate) fn all(bench: &mut Criterion) {
    let context = AnalyzeContext::new("shop", Arc::new(Catalog::default()), 1 << 20);
    let names = SessionNames::default();
    for (name, sql) in [
        ("pgbench's select", "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;"),
        ("an update", "UPDATE orders SET status = 'paid', amount = amount * 1.1 WHERE id IN (1, 2, 3) RETURNING id"),
        (
            "a report",
            "WITH recent AS (SELECT * FROM orders o WHERE o.amount > 10) SELECT c.name, sum(r.amount) AS total, count(*) \
             FROM customers c JOIN recent r ON r.customer_id = c.id LEFT JOIN LATERAL (SELECT max(id) AS m FROM orders) x ON true \
             WHERE c.name LIKE 'A%' GROUP BY c.name HAVING sum(r.amount) > 5 ORDER BY total DESC LIMIT 10",
        ),
    ] {
        bench.bench_function(&format!("analyze/{name}"), |b| {
            b.iter(|| black_box(analyze(sql.as_bytes(), &context, &names)))
        });
    }
}

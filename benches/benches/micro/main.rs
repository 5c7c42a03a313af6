//! What an operation costs inside the gateway, without any I/O: `cargo bench -p postern-benches`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)] // criterion's macros; a bench may panic

mod codec;
mod decide;
mod statement;
mod token;

criterion::criterion_group!(benches, decide::all, codec::all, statement::all, token::all);
criterion::criterion_main!(benches);

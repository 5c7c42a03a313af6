//! Frames: how fast a stream of small rows is told apart.

use std::hint::black_box;

use bytes::{BufMut as _, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use postern_protocols::postgres::codec::{Limits, Origin, next_frame};

/// A `DataRow` (PostgreSQL, "Message Formats") with these values.
pub(crate) fn data_row(values: &[&str]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(values.len()).unwrap());
    for value in values {
        body.put_u32(u32::try_from(value.len()).unwrap());
        body.put_slice(value.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(b'D');
    frame.put_u32(u32::try_from(body.len()).unwrap() + 4);
    frame.put(body);
    frame
}

/// Every bench of this file.
pub(crate) fn all(bench: &mut Criterion) {
    let row = data_row(&["7", "Ada", "ada@secret.example", "4000-1111-2222-3333"]);
    let mut stream = BytesMut::new();
    for _ in 0..1000 {
        stream.extend_from_slice(&row);
    }
    let mut group = bench.benchmark_group("codec");
    group.throughput(Throughput::Bytes(u64::try_from(stream.len()).unwrap()));
    group.bench_function("1000 rows", |b| {
        b.iter_batched(
            || stream.clone(),
            |mut buffer| {
                let mut count = 0;
                while let Some(frame) = next_frame(&mut buffer, Origin::Backend, &Limits::default()).unwrap() {
                    count += black_box(frame).raw().len();
                }
                count
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

//! Messages longer than what is held: they pass in pieces, and come out whole.

use bytes::{BufMut, BytesMut};
use postern_core::recording::OperationOutcome;

use super::flows::{client, rig};
use super::rig::{Rig, tags};
use crate::postgres::codec::{backend, write};

const LONG: usize = 3 << 20;

/// What a server sends for one row of one column with `length` bytes.
fn answer(length: usize) -> BytesMut {
    let mut out = BytesMut::new();
    write::frame(&mut out, backend::ROW_DESCRIPTION, |out| {
        out.put_slice(b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    });
    write::frame(&mut out, backend::DATA_ROW, |out| {
        out.put_u16(1);
        out.put_u32(u32::try_from(length).unwrap());
        out.put_bytes(b'x', length);
    });
    write::frame(&mut out, backend::COMMAND_COMPLETE, |out| write::text(out, b"SELECT 1"));
    write::frame(&mut out, backend::READY_FOR_QUERY, |out| out.put_u8(b'I'));
    out
}

/// Answers the query that is under way so, in pieces; the most that was held of it.
fn pieces(rig: &mut Rig, answer: &BytesMut) -> usize {
    rig.server.output = answer.clone();
    let mut held = 0;
    while rig.server_step(50_000) {
        held = held.max(rig.from_server.len());
    }
    held
}

#[test]
fn a_long_row_passes_in_pieces() {
    for (length, most) in [(LONG, 60_000), (1 << 19, 1 << 20)] {
        let mut rig = rig();
        rig.from_client.extend_from_slice(&client().query("select 1").0);
        while rig.client_step() {}
        let answer = answer(length);
        let held = pieces(&mut rig, &answer);
        assert!(held <= most, "{held} bytes of {length} were held");
        assert!(rig.to_client == answer, "it comes out as it came");
        let completed = rig.completed()[0].clone();
        assert_eq!((completed.rows, completed.rows_omitted), (1, u64::from(length == LONG)));
        assert_eq!(completed.bytes, length as u64 + 6);
        assert_eq!(completed.omitted_digest.is_some(), length == LONG);
        if let Some(digest) = completed.omitted_digest {
            // RowDescription before it, CommandComplete and ReadyForQuery after it are none of it.
            let begin = answer.windows(2).position(|two| two == [b'D', 0]).unwrap();
            let row = &answer[begin..begin + 5 + 6 + length];
            assert_eq!(digest.0, aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, row).as_ref());
        }
        assert!(matches!(completed.outcome, OperationOutcome::Done { .. }));
    }
}

#[test]
fn nothing_is_said_in_the_middle_of_a_message() {
    let mut rig = rig();
    rig.from_client.extend_from_slice(&client().query("select 1").0);
    while rig.client_step() {}
    let answer = answer(LONG);
    rig.server.output = answer.clone();
    rig.server_step(200_000);
    assert!(rig.session.is_amid());
    // What comes meanwhile waits.
    rig.from_client.extend_from_slice(&client().query("select 'deny'").0);
    assert!(!rig.client_step());
    while rig.server_step(200_000) {}
    assert!(!rig.session.is_amid());
    rig.run();
    let got = rig.to_client.split();
    assert!(got[..answer.len()] == answer[..]);
    assert_eq!(tags(&got[answer.len()..]), "E(42501)ZI");
}

#[test]
fn a_long_copy_in_passes_in_pieces() {
    let mut rig = rig();
    rig.send(&client().query("copy t from stdin").0);
    let rows = client().data(&vec![b'y'; LONG]).done().0;
    for piece in rows.chunks(70_000) {
        rig.send(piece);
        assert!(rig.from_client.len() < 140_000, "{} bytes are held", rig.from_client.len());
    }
    assert_eq!(rig.got(), "GCZI");
    assert_eq!(rig.outcomes(), ["COPY 2"]);
}

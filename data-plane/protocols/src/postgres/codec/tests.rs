use proptest::prelude::*;

use super::backend::*;
use super::frontend::{Bind, Execute, FunctionCall, Message, Named};
use super::startup::{Opening, next_opening};
use super::*;

/// A frame of a tag and a body; the length is put between them.
fn one(bytes: &[u8], from: Origin) -> Frame {
    let (tag, body) = bytes.split_first().unwrap();
    let length = u32::try_from(body.len() + 4).unwrap();
    let bytes = [&[*tag][..], &length.to_be_bytes(), body].concat();
    let mut buffer = BytesMut::from(&bytes[..]);
    let frame = next_frame(&mut buffer, from, &Limits::default()).unwrap().unwrap();
    assert!(buffer.is_empty(), "one frame");
    assert_eq!(&frame.raw()[..], &bytes[..]);
    frame
}

fn client(bytes: &[u8]) -> Result<Message, CodecError> {
    Message::parse(&one(bytes, Origin::Frontend))
}

fn server(bytes: &[u8]) -> Frame {
    one(bytes, Origin::Backend)
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("message")
    }
}

/// Tags and bodies as they are on the wire, by section "Message Formats".
#[test]
fn client_messages_are_read_as_documented() {
    assert_eq!(client(b"Qselect 1\0"), Ok(Message::Query("select 1".into())));
    let parse =
        frontend::Parse { name: "s1".into(), text: "select $1".into(), types: Bytes::from_static(&[0, 0, 0, 0x17]) };
    assert_eq!(client(b"Ps1\0select $1\0\0\x01\0\0\0\x17"), Ok(Message::Parse(parse)));
    let Ok(Message::Bind(bind)) = client(b"Bp1\0s1\0\0\x02\0\0\0\x01\0\x02\0\0\0\x0242\xff\xff\xff\xff\0\x01\0\x01")
    else {
        panic!("a Bind")
    };
    let Bind { portal, statement, parameters, formats } = bind;
    assert_eq!((&portal[..], &statement[..]), (&b"p1"[..], &b"s1"[..]));
    assert_eq!(parameters[0].value.as_deref(), Some(&b"42"[..]));
    assert_eq!((parameters[0].binary, parameters[1].binary), (false, true));
    assert_eq!(parameters[1].value, None);
    assert!(formats.is_binary(0) && formats.is_binary(5));
    assert_eq!(client(b"DSab\0"), Ok(Message::Describe(Named::Statement("ab".into()))));
    assert_eq!(client(b"DP\0"), Ok(Message::Describe(Named::Portal("".into()))));
    assert_eq!(client(b"CSs\0"), Ok(Message::Close(Named::Statement("s".into()))));
    let execute = Execute { portal: "p1".into(), max_rows: 10 };
    assert_eq!(client(b"Ep1\0\0\0\0\x0a"), Ok(Message::Execute(execute)));
    assert_eq!(client(b"S"), Ok(Message::Sync));
    assert_eq!(client(b"H"), Ok(Message::Flush));
    assert_eq!(client(b"d1\t2"), Ok(Message::CopyData));
    assert_eq!(client(b"c"), Ok(Message::CopyDone));
    assert_eq!(client(b"fno\0"), Ok(Message::CopyFail));
    assert_eq!(
        client(b"F\0\0\x04\xd2\0\0\0\0\0\0"),
        Ok(Message::FunctionCall(FunctionCall { function: 1234, arguments: Vec::new() }))
    );
    assert_eq!(client(b"X"), Ok(Message::Terminate));
}

#[test]
fn malformed_client_messages_are_refused() {
    let refused: [&[u8]; 14] = [
        // No final zero; bytes after it.
        b"Qselect 1",
        b"Qselect 1\0x",
        b"Qselect\0x\0",
        b"Sx",
        // Counts that the message cannot hold.
        b"P\0\0\xff\xff",
        b"B\0\0\xff\xff",
        b"B\0\0\0\0\xff\xff",
        // A length beyond the end, and a negative one.
        b"B\0\0\0\0\0\x01\0\0\0\x09\0\0",
        b"B\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0",
        // Unknown formats; three formats for one value.
        b"B\0\0\0\x01\0\x02\0\0\0\0",
        b"B\0\0\0\x02\0\0\0\0\0\x01\xff\xff\xff\xff\0\0\0\0",
        // Neither statement nor portal; a tag of no meaning.
        b"DQ\0",
        b"p\0",
        b"\xff",
    ];
    for bytes in refused {
        assert!(client(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn server_messages_are_read_as_documented() {
    let fields = row_description(&server(b"T\0\x01id\0\0\0\x4e\x21\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01"));
    let id = FieldDescription { name: "id".into(), table: 20_001, column: 1, type_oid: 23, binary: true };
    assert_eq!(fields, Ok(vec![id]));
    let values = data_row(&server(b"D\0\x02\0\0\0\x0242\xff\xff\xff\xff"));
    assert_eq!(values, Ok(vec![Some("42".into()), None]));
    assert_eq!(command_tag(&server(b"CSELECT 1\0")), Ok("SELECT 1".into()));
    assert_eq!(ready_for_query(&server(b"ZT")), Ok(TransactionStatus::Open));
    assert_eq!(parameter_status(&server(b"STimeZone\0UTC\0")), Ok(("TimeZone".into(), "UTC".into())));
    assert_eq!(backend_key(&server(b"K\0\0\0\x09\x01\x02\x03\x04")), Ok((9, b"\x01\x02\x03\x04"[..].into())));
    let error = message_fields(&server(b"ESERROR\0C42501\0\0")).unwrap();
    assert_eq!(field(&error, b'C'), "42501");
    assert_eq!(notification(&server(b"A\0\0\0\x07ch\0p\0")), Ok((7, "ch".into())));
}

#[test]
fn malformed_server_messages_are_refused() {
    assert!(row_description(&server(b"T\xff\xff")).is_err());
    assert!(data_row(&server(b"D\xff\xff")).is_err());
    assert!(data_row(&server(b"D\0\x01\0\0\0\x09")).is_err());
    assert!(ready_for_query(&server(b"Zx")).is_err());
    assert!(backend_key(&server(b"K\0\0\0\x09")).is_err());
    assert!(message_fields(&server(b"ESx\0y")).is_err());
}

#[test]
fn a_frame_is_laid_out_as_documented() {
    let mut buffer = BytesMut::from(&b"Q\0\0\0\x0dselect 1\0S\0\0\0\x04"[..]);
    let query = next_frame(&mut buffer, Origin::Frontend, &Limits::default()).unwrap().unwrap();
    assert_eq!((query.tag(), &query.body()[..]), (b'Q', &b"select 1\0"[..]));
    assert_eq!(&buffer[..], b"S\0\0\0\x04");
    let mut out = BytesMut::new();
    write::query(&mut out, b"select 1");
    assert_eq!(out, query.into_raw());
}

#[test]
fn lengths_are_judged_before_anything_is_held_for_them() {
    let peeked = |bytes: &[u8], from| peek(bytes, from, &Limits::default());
    assert_eq!(peeked(b"Q\0\0\0", Origin::Frontend), Ok(None));
    for length in [b"\0\0\0\x03", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\0"] {
        let frame = [b"Q", &length[..]].concat();
        assert_eq!(peeked(&frame, Origin::Frontend), Err(CodecError::BadLength { tag: b'Q' }));
    }
    let too_long = |tag: u8, length: u32, from| {
        let frame = [&[tag][..], &length.to_be_bytes()].concat();
        matches!(peeked(&frame, from), Err(CodecError::TooLong { .. }))
    };
    assert!(too_long(b'Q', 2 << 20, Origin::Frontend) && !too_long(b'Q', 1 << 20, Origin::Frontend));
    assert!(too_long(b'S', 20_000, Origin::Frontend) && too_long(b'D', 20_000, Origin::Frontend));
    assert!(!too_long(b'd', 32 << 20, Origin::Frontend) && too_long(b'd', 65 << 20, Origin::Frontend));
    assert!(!too_long(b'D', 32 << 20, Origin::Backend) && too_long(b'D', 65 << 20, Origin::Backend));
    assert!(too_long(b'Z', 20_000, Origin::Backend));
}

#[test]
fn openings_are_read_as_documented() {
    let open = |bytes: &[u8]| next_opening(&mut BytesMut::from(bytes));
    assert!(open(b"\0\0\0\x08\x04\xd2\x16\x2f") == Ok(Some(Opening::Ssl)));
    assert!(open(b"\0\0\0\x08\x04\xd2\x16\x30") == Ok(Some(Opening::GssEnc)));
    let cancel = Opening::Cancel { pid: 7, secret: b"\x01\x02\x03\x04"[..].into() };
    assert!(open(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04") == Ok(Some(cancel)));
    let startup = Opening::Startup { version: (3, 0), parameters: vec![("user".into(), "shop".into())] };
    assert!(open(b"\0\0\0\x13\0\x03\0\0user\0shop\0\0") == Ok(Some(startup)));
    assert!(open(b"\0\0\0\x0a\0\x02\0\0ab") == Ok(Some(Opening::Startup { version: (2, 0), parameters: vec![] })));
    let refused: [&[u8]; 8] = [
        // Shorter than any, longer than any, and the bytes of TLS or HTTP.
        b"\0\0\0\x07\0\x03\0",
        b"\0\0\x27\x11\0\x03\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        // No end; bytes after the end; a name twice; a secret that is too short.
        b"\0\0\0\x12\0\x03\0\0user\0shop\0",
        b"\0\0\0\x14\0\x03\0\0user\0shop\0\0x",
        b"\0\0\0\x15\0\x03\0\0user\0a\0user\0b\0\0",
        b"\0\0\0\x0e\x04\xd2\x16\x2e\0\0\0\x07\x01\x02",
    ];
    for bytes in refused {
        assert!(open(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8), cuts in prop::collection::vec(1_usize..20, 1..40)) {
        let mut wire = BytesMut::new();
        for body in &bodies {
            write::frame(&mut wire, b'd', |out| out.extend_from_slice(body));
        }
        let (mut buffer, mut got, mut cuts) = (BytesMut::new(), Vec::new(), cuts.into_iter().cycle());
        while !wire.is_empty() {
            let size = cuts.next().unwrap().min(wire.len());
            buffer.extend_from_slice(&wire.split_to(size));
            while let Some(frame) = next_frame(&mut buffer, Origin::Frontend, &Limits::default()).unwrap() {
                got.push(frame.body().to_vec());
            }
        }
        prop_assert_eq!(got, bodies);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn any_prefix_is_incomplete(text in "[a-z ]{0,40}", cut in 0_usize..50) {
        let mut wire = BytesMut::new();
        write::query(&mut wire, text.as_bytes());
        wire.truncate(cut.min(wire.len() - 1));
        prop_assert_eq!(next_frame(&mut wire, Origin::Frontend, &Limits::default()), Ok(None));
    }

    #[test]
    fn random_bodies_never_panic(tag in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut wire = BytesMut::new();
        write::frame(&mut wire, tag, |out| out.extend_from_slice(&body));
        let frame = Frame { raw: wire.freeze() };
        let _ = Message::parse(&frame);
        let _ = (row_description(&frame), data_row(&frame), command_tag(&frame), ready_for_query(&frame));
        let _ = (parameter_status(&frame), backend_key(&frame), message_fields(&frame), notification(&frame));
        let _ = next_opening(&mut BytesMut::from(&body[..]));
    }
}

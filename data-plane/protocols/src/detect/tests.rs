//! What is told, and what only looks like it.

use postern_core::masking::{Detector, Detectors};
use proptest::prelude::*;

use super::find;

fn found(detectors: &[Detector], text: &str) -> Vec<String> {
    let mut ranges = Vec::new();
    find(detectors.iter().copied().collect(), text.as_bytes(), &mut ranges);
    ranges.into_iter().map(|range| text[range].to_owned()).collect()
}

#[track_caller]
fn hits(detector: Detector, texts: &[&str]) {
    for text in texts {
        assert_eq!(found(&[detector], text), [*text]);
        // In the middle of others, and twice.
        let around = format!("x {text}, y: \"{text}\"");
        assert_eq!(found(&[detector], &around), [*text, *text], "{around}");
    }
}

#[track_caller]
fn misses(detector: Detector, texts: &[&str]) {
    for text in texts {
        assert_eq!(found(&[detector], text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn cards() {
    // Numbers that the schemes publish for tests.
    hits(
        Detector::CreditCard,
        &[
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "4222222222222",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "3782 822463 10005",
            "6011111111111117",
            "3530111333300000",
            "30569309025904",
            "6200000000000005",
        ],
    );
    misses(
        Detector::CreditCard,
        &[
            "4111111111111112",
            "4111 1111 1111 111",
            "0000000000000000",
            "1234567890123456",
            "9111111111111111",
            "41111111111111111111",
            "4111111111111111000000",
            "1700000000000000003",
            "550e8400-e29b-41d4-a716-446655440000",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "2026-11-22 10:11:12.123456",
            "a4111111111111111",
            "4111111111111111b",
        ],
    );
    assert_eq!(found(&[Detector::CreditCard], "4111 1111 1111 1111 12/29"), ["4111 1111 1111 1111"]);
    assert_eq!(found(&[Detector::CreditCard], r"x\n4111111111111111"), ["4111111111111111"]);
}

#[test]
fn accounts() {
    hits(
        Detector::Iban,
        &[
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "GB29 NWBK 6016 1331 9268 19",
            "fr1420041010050500013m02606",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
        ],
    );
    misses(
        Detector::Iban,
        &[
            "DE89370400440532013001",
            "DE8937040044053201300",
            "DE893704004405320130000",
            "XX89370400440532013000",
            "XDE89370400440532013000",
            "DEADBEEF00112233445566",
        ],
    );
}

#[test]
fn mail() {
    hits(
        Detector::Email,
        &["ada@secret.example", "a.b+c_d@sub.mail.co.uk", "用户@例子.公司", "x@y.xn--p1ai", "ADA@SECRET.EXAMPLE"],
    );
    misses(
        Detector::Email,
        &["@ada", "ada@", "ada@localhost", "a @ b.c", "ada@1.2.3.4", "@@@@@", "x@.example", "user@host:22", "3@4.5"],
    );
    assert_eq!(found(&[Detector::Email], "<ada@x.example>. bob@y.example;"), ["ada@x.example", "bob@y.example"]);
    assert_eq!(found(&[Detector::Email], "{ada@x.example,bob@y.example}"), ["ada@x.example", "bob@y.example"]);
    assert_eq!(found(&[Detector::Email], "mailto:ada@x.example?x=1"), ["ada@x.example"]);
}

#[test]
fn telephones() {
    hits(
        Detector::Phone,
        &[
            "+49 30 1234567",
            "+14155552671",
            "+44 (0)20 7946 0958",
            "0049 171 1234567",
            "(415) 555-2671",
            "415-555-2671",
            "1-415-555-2671",
            "0171 1234567",
            "(030) 1234567",
            "030/1234567",
            "020 7946 0958",
        ],
    );
    misses(
        Detector::Phone,
        &[
            "1234567890",
            "0012345678",
            "01 02 2026",
            "01/02/2026",
            "2026-11-22",
            "10.0.0.1",
            "192.168.100.200",
            "115-555-2671",
            "+1 2",
            "a+4930123456",
            "+49301234567890123456",
            "0.12345678901",
            "00:11:22:33:44:55",
        ],
    );
}

#[test]
fn people() {
    hits(
        Detector::NationalId,
        &[
            "078-05-1120",
            "123 45 6789",
            "AB123456C",
            "AB 12 34 56 C",
            "12345678Z",
            "X1234567L",
            "RSSMRA85T10A562S",
            "1 85 05 78 006 084 91",
            "185057800608491",
            "86095742719",
            "44051401359",
            "529.982.247-25",
            "52998224725",
        ],
    );
    misses(
        Detector::NationalId,
        &[
            "000-12-3456",
            "666-12-3456",
            "900-12-3456",
            "123-00-4567",
            "123-45-0000",
            "123456789",
            "123-456-789",
            "BG123456A",
            "AB123456E",
            "DB123456A",
            "12345678A",
            "X1234567A",
            "RSSMRA85T10A562T",
            "185057800608492",
            "86095742718",
            "12345678901",
            "44051401358",
            "529.982.247-26",
            "111.111.111-11",
            "2026-11-22",
        ],
    );
}

#[test]
fn tokens() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
    hits(
        Detector::Jwt,
        &[jwt, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a.b.c.d"],
    );
    misses(
        Detector::Jwt,
        &[
            "eyJhbGciOiJIUzI1NiJ9",
            "eyJhbGciOiJIUzI1NiJ9.",
            "eyJ0eXAiOiJ4In0.eyJzdWIiOiJhIn0.x",
            "eyJoZWxsbw.x.y",
            "xeyJhbGciOiJIUzI1NiJ9.a.b",
        ],
    );
}

#[test]
fn keys() {
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----";
    hits(
        Detector::PrivateKey,
        &[pem, "-----BEGIN OPENSSH PRIVATE KEY-----\\nb3Bl\\n-----END OPENSSH PRIVATE KEY-----"],
    );
    assert_eq!(found(&[Detector::PrivateKey], "k=-----BEGIN PRIVATE KEY-----\nMII").len(), 1, "cut short");
    misses(
        Detector::PrivateKey,
        &[
            "-----BEGIN PUBLIC KEY-----\nMII\n-----END PUBLIC KEY-----",
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN PRIVATE KEY",
        ],
    );
    // Put together here, so that nothing which looks like a secret stands in the source.
    let made = |prefix: &str, body: &str, count: usize| format!("{prefix}{}", body.repeat(count));
    let good = [
        made("AKIA", "ABCD", 4),
        made("AIza", "abcde", 7),
        made("ghp_", "abcd", 9),
        made("github_pat_", "ab", 11),
        made("glpat-", "abcd", 5),
        made("xoxb-", "1234567890-", 2) + "a",
        made("sk_live_", "abcd", 4),
        made("npm_", "abcd", 9),
        made("AccountKey=", "abcd", 21),
        made("abc8Q~", "abcd", 8),
        made("aws_secret_access_key = ", "abcd", 10),
    ];
    hits(Detector::CloudKey, &good.iter().map(String::as_str).collect::<Vec<_>>());
    let bad = [
        made("AKIA", "ABCD", 3),
        made("AKIA", "ABCD", 5),
        made("xAKIA", "ABCD", 4),
        made("AKIA", "abcd", 4),
        made("ghp_", "abcd", 8),
        made("sk_live_", "a", 3),
        made("pk_live_", "abcd", 4),
        made("aws_secret_access_key = ", "abcd", 11),
    ];
    misses(Detector::CloudKey, &bad.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Ordinary texts of ordinary tables.
#[test]
fn ordinary_texts_are_left_alone() {
    let texts = [
        "The quick brown fox jumps over the lazy dog.",
        "Order 1002345 of 2026-11-22 10:11:12+00: 3 items at 19.99, total 59.97",
        "550e8400-e29b-41d4-a716-446655440000",
        "d41d8cd98f00b204e9800998ecf8427e",
        "192.168.0.1:5432",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "https://example.com/a/b?page=10&size=100#top",
        "v1.2.3-rc.4+build.567",
        "1700000000000",
        "12345678901234567",
        "(1,2,3)",
        "3.14159265358979",
        "SELECT * FROM t WHERE a = $1",
        "Bahnhofstr. 12, 8001 Zürich",
        "978-3-16-148410-0",
        "x-request-id: 0af7651916cd43dd8448eb211c80319c",
    ];
    for text in texts {
        assert_eq!(found(&Detector::ALL, text), Vec::<String>::new(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(text in proptest::collection::vec(prop_oneof![Just(b'@'), Just(b'-'), Just(b'.'), Just(b' '), b'0'..=b'9', any::<u8>()], 0..300)) {
        let all: Detectors = Detector::ALL.into_iter().collect();
        let mut ranges = Vec::new();
        find(all, &text, &mut ranges);
        let mut last = 0;
        for range in ranges {
            prop_assert!(range.start >= last && range.start < range.end && range.end <= text.len());
            last = range.end;
        }
    }
}

/// What makes a naive search look at everything again and again.
#[test]
fn time_is_linear() {
    let hostile = [
        "@",
        "a@",
        "1 ",
        "1-",
        "eyJ",
        "eyJ-",
        "eyJhbGciOiJub25lIn0.-",
        "-----BEGIN PRIVATE KEY----",
        "AKIA",
        "DE89 ",
        "+1 ",
        "(0",
        "sk_live_ ",
    ];
    for part in hostile {
        let text = part.repeat((1 << 20) / part.len());
        assert!(found(&Detector::ALL, &text).len() <= text.len());
    }
}

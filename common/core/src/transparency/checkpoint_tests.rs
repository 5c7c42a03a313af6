use rcgen::{KeyPair, PKCS_ED25519};

use super::*;

fn pkcs8() -> Vec<u8> {
    KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_der()
}

fn head(size: u64) -> Checkpoint {
    Checkpoint { origin: "log.example".into(), size, root: Digest([7; 32]) }
}

#[test]
fn a_head_is_read_back_and_verified() {
    let log = NoteSigner::of_log("log.example", &pkcs8()).unwrap();
    let signed = SignedCheckpoint::sign(head(12), &log);
    let text = signed.to_string();
    assert!(text.starts_with("log.example\n12\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n\u{2014} log.example "));
    let read: SignedCheckpoint = text.parse().unwrap();
    assert_eq!(read, signed);
    let key: NoteKey = log.key().to_string().parse().unwrap();
    assert_eq!(read.verify(&key), Ok(&head(12)));
    let other = NoteSigner::of_log("log.example", &pkcs8()).unwrap();
    assert_eq!(read.verify(other.key()), Err(CheckpointFault::Unsigned));
    let elsewhere = NoteSigner::of_log("another.example", &pkcs8()).unwrap();
    assert_eq!(read.verify(elsewhere.key()), Err(CheckpointFault::Origin));
}

#[test]
fn no_byte_of_it_can_be_changed() {
    let log = NoteSigner::of_log("log.example", &pkcs8()).unwrap();
    let text = SignedCheckpoint::sign(head(12), &log).to_string();
    for at in 0..text.len() {
        for with in [b'1', b'A', b'\n', b' ', 0xff] {
            let mut changed = text.clone().into_bytes();
            if changed[at] == with {
                continue;
            }
            changed[at] = with;
            let Ok(changed) = String::from_utf8(changed) else { continue };
            let verified = changed.parse::<SignedCheckpoint>().and_then(|it| it.verify(log.key()).cloned());
            // Base64 that ends in other unused bits is refused, too.
            assert!(verified.is_err(), "byte {at} to {with}: {changed}");
        }
        assert!(text.get(..at).is_none_or(|cut| cut.parse::<SignedCheckpoint>().is_err()));
    }
}

#[test]
fn witnesses_sign_beside_the_log() {
    let log = NoteSigner::of_log("log.example", &pkcs8()).unwrap();
    let witness = NoteSigner::of_witness("witness.example", &pkcs8()).unwrap();
    let mut signed = SignedCheckpoint::sign(head(12), &log);
    let mut seen: SignedCheckpoint = signed.to_string().parse().unwrap();
    seen.cosign(&witness, 1_764_000_000);
    let lines = seen.signature_lines();
    signed.add_witness(witness.key(), &lines).unwrap();
    signed.add_witness(witness.key(), &lines).unwrap();
    assert_eq!(signed.to_string(), seen.to_string());
    assert_eq!(signed.verify_witness(witness.key()).unwrap(), Timestamp::from_secs(1_764_000_000));
    signed.verify(log.key()).unwrap();
    // A witness' key is no log's, and the other way round.
    assert!(signed.verify(witness.key()).is_err());
    assert!(signed.verify_witness(log.key()).is_err());
    let mut other = SignedCheckpoint::sign(head(13), &log);
    assert_eq!(other.add_witness(witness.key(), &lines), Err(CheckpointFault::Signature));
}

#[test]
fn what_is_no_checkpoint_is_told() {
    let log = NoteSigner::of_log("log.example", &pkcs8()).unwrap();
    let text = SignedCheckpoint::sign(head(12), &log).to_string();
    for (from, to) in
        [("12", "012"), ("12", "-1"), ("12", "9999999999999999999"), ("log.example\n", "\n"), ("BwcH", "")]
    {
        assert_eq!(
            text.replacen(from, to, 1).parse::<SignedCheckpoint>().unwrap_err(),
            CheckpointFault::Checkpoint,
            "{to}"
        );
    }
    assert_eq!("".parse::<SignedCheckpoint>().unwrap_err(), CheckpointFault::Note);
    for key in ["", "a+b+c", "log.example+00000000+AQcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"] {
        assert_eq!(key.parse::<NoteKey>(), Err(CheckpointFault::Key), "{key}");
    }
    assert!(NoteSigner::of_log("two words", &pkcs8()).is_err());
}

#[test]
fn keys_of_others_are_read() {
    // The example of the Go checksum database's own documentation.
    let text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    let key: NoteKey = text.parse().unwrap();
    assert_eq!((key.name(), key.to_string().as_str()), ("sum.golang.org", text));
}

use postern_core::Timestamp;

use super::*;

fn session(n: u128) -> SessionId {
    SessionId::new(Timestamp::from_secs(1_000_000), n)
}

fn wrapping(number: u32) -> WrappingKey {
    WrappingKey::new(number, &[u8::try_from(number).unwrap(); KEY]).unwrap()
}

fn piece<'a>(index: u64, content: &'a [u8], last: bool) -> Piece<'a> {
    Piece { header: b"head", index, content, last, level: 1 }
}

#[test]
fn a_key_opens_for_its_own_recording_alone() {
    let (_, slot) = wrapping(1).make(session(1)).unwrap();
    assert_eq!(slot.number(), 1);
    assert!(wrapping(1).open(session(1), &slot).is_ok());
    assert_eq!(wrapping(1).open(session(2), &slot).unwrap_err(), CipherFault::Key(1));
    assert_eq!(wrapping(2).open(session(1), &slot).unwrap_err(), CipherFault::Key(2));
    for place in 4..KEY_SLOT {
        let mut changed = *slot.as_bytes();
        changed[place] ^= 1;
        assert!(wrapping(1).open(session(1), &KeySlot::from_bytes(changed)).is_err(), "byte {place}");
    }
}

#[test]
fn a_piece_opens_in_its_own_place_alone() {
    let (key, slot) = wrapping(1).make(session(1)).unwrap();
    let (other, _) = wrapping(1).make(session(1)).unwrap();
    for content in [&b""[..], b"short", &[b'a'; 5_000], &(0..=255).cycle().take(700).collect::<Vec<u8>>()] {
        let mut out = Vec::new();
        key.seal(piece(3, content, true), &mut out).unwrap();
        let (length, sealed) = out.split_first_chunk::<LENGTH>().unwrap();
        assert_eq!(piece_length(3, *length), Ok(sealed.len()));
        let reopened = wrapping(1).open(session(1), &slot).unwrap();
        assert_eq!(reopened.open(b"head", 3, sealed.to_vec()), Ok((content.to_vec(), true)));
        assert_eq!(key.open(b"head", 2, sealed.to_vec()), Err(CipherFault::Piece(2)));
        assert_eq!(key.open(b"heat", 3, sealed.to_vec()), Err(CipherFault::Piece(3)));
        assert_eq!(other.open(b"head", 3, sealed.to_vec()), Err(CipherFault::Piece(3)));
        for cut in 0..sealed.len().min(64) {
            assert!(key.open(b"head", 3, sealed[..cut].to_vec()).is_err());
        }
        for place in (0..sealed.len()).take(200) {
            let mut changed = sealed.to_vec();
            changed[place] ^= 0x40;
            assert!(key.open(b"head", 3, changed).is_err(), "byte {place}");
        }
    }
}

#[test]
fn the_same_twice_is_not_the_same_where_it_lies() {
    let (key, _) = wrapping(1).make(session(1)).unwrap();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    key.seal(piece(0, b"select 1", false), &mut a).unwrap();
    key.seal(piece(0, b"select 1", false), &mut b).unwrap();
    assert_ne!(a, b);
    assert_eq!(key.open(b"head", 0, a[LENGTH..].to_vec()), Ok((b"select 1".to_vec(), false)));
}

#[test]
fn lengths_are_bounded() {
    for length in [0, 28, u32::try_from(MAX_PIECE).unwrap() + 1, u32::MAX] {
        assert!(piece_length(0, length.to_be_bytes()).is_err(), "{length}");
    }
    // A recording's largest frame fits.
    let (key, _) = wrapping(1).make(session(1)).unwrap();
    let content = vec![7; MAX_BODY + 36];
    let mut out = Vec::new();
    key.seal(piece(0, &content, false), &mut out).unwrap();
    assert!(out.len() < 10_000);
    assert!(key.open(b"head", 0, out[LENGTH..].to_vec()).unwrap().0 == content);
}

#[test]
fn what_unpacks_to_more_than_a_frame_is_refused() {
    let (key, _) = wrapping(1).make(session(1)).unwrap();
    let content = vec![0; MAX_CONTENT + 1];
    let mut out = Vec::new();
    key.seal(piece(0, &content, false), &mut out).unwrap();
    assert_eq!(key.open(b"head", 0, out[LENGTH..].to_vec()), Err(CipherFault::Unpack(0)));
}

#[test]
fn pieces_are_whole_frames() {
    let frame = |size: usize| {
        let length = u32::try_from(size).unwrap().to_be_bytes();
        [&length[..], &vec![b'x'; size], &[0; 32]].concat()
    };
    let sizes = [10, 200_000, 100_000, 1, 300_000, 1, 1, 262_000, 500];
    let all: Vec<u8> = sizes.iter().flat_map(|size| frame(*size)).collect();
    let parted: Vec<&[u8]> = pieces(&all).collect();
    assert_eq!(parted.concat(), all);
    for part in &parted {
        let mut walk = frames(part);
        assert!(walk.by_ref().all(|frame| frame.is_ok()));
        assert_eq!(walk.offset(), part.len());
        assert!(part.len() <= PIECE || frames(part).count() == 1);
    }
    assert_eq!(parted.len(), 5);
    assert_eq!(pieces(&[]).count(), 0);
    assert_eq!(pieces(&all[..300]).map(<[u8]>::len).sum::<usize>(), 300);
}

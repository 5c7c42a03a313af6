use super::*;

fn keyring(dir: &Path, name: &str) -> Keyring {
    Keyring::in_file(&dir.join(name)).unwrap()
}

#[tokio::test]
async fn opens_only_what_it_sealed_and_where_it_belongs() {
    let dir = tempfile::tempdir().unwrap();
    let (kek, again) = (keyring(dir.path(), "kek"), keyring(dir.path(), "kek"));
    let sealed = kek.seal("Secret/db", b"hunter2").await.unwrap();
    assert_eq!(again.open("Secret/db", &sealed).await.unwrap().expose(), b"hunter2");
    assert!(matches!(kek.open("Secret/other", &sealed).await, Err(KeyError::Open { .. })));

    let other = keyring(dir.path(), "other");
    assert!(matches!(other.open("Secret/db", &sealed).await, Err(KeyError::Unknown { .. })));
    for part in 0..3 {
        let mut bad = sealed.clone();
        match part {
            0 => bad.wrapped_key[20] ^= 1,
            1 => bad.nonce[0] ^= 1,
            _ => bad.ciphertext[0] ^= 1,
        }
        assert!(matches!(kek.open("Secret/db", &bad).await, Err(KeyError::Open { .. })));
    }
}

#[tokio::test]
async fn the_same_secret_is_never_sealed_alike() {
    let dir = tempfile::tempdir().unwrap();
    let kek = keyring(dir.path(), "kek");
    let (one, two) = (kek.seal("a", b"x").await.unwrap(), kek.seal("a", b"x").await.unwrap());
    assert_ne!(one.ciphertext, two.ciphertext);
    assert_ne!(one.wrapped_key, two.wrapped_key);
}

#[test]
fn a_key_file_must_hold_a_key() {
    for bad in ["", "zz", &"0".repeat(63), &"g".repeat(64), &"0".repeat(65)] {
        assert!(matches!(LocalKek::from_hex(bad, "here"), Err(KeyError::Form(_))), "{bad}");
    }
}

#[tokio::test]
async fn an_older_key_still_opens_and_a_lost_one_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (old_path, new_path) = (dir.path().join("old"), dir.path().join("new"));
    let old = Keyring::in_file(&old_path).unwrap();
    let sealed = old.seal("Secret/db", b"hunter2").await.unwrap();
    let config = KekConfig { current: KekSource::File(new_path), previous: vec![KekSource::File(old_path)] };
    assert!(matches!(Keyring::new(&config, true), Err(KeyError::File { .. })));
    let both = Keyring::new(&config, false).unwrap();
    assert_eq!(both.open("Secret/db", &sealed).await.unwrap().expose(), b"hunter2");
    assert_ne!(both.seal("Secret/db", b"x").await.unwrap().kek_id, sealed.kek_id);
    assert_eq!(both.ids()[1], old.current_id());
    let twice = KekConfig { current: config.previous[0].clone(), previous: config.previous.clone() };
    assert!(matches!(Keyring::new(&twice, true), Err(KeyError::Twice(_))));
}

#[tokio::test]
async fn a_data_key_goes_under_another_key_and_the_secret_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (old_path, new_path) = (dir.path().join("old"), dir.path().join("new"));
    let sealed = Keyring::in_file(&old_path).unwrap().seal("Secret/db", b"hunter2").await.unwrap();
    let config = KekConfig { current: KekSource::File(new_path.clone()), previous: vec![KekSource::File(old_path)] };
    let both = Keyring::new(&config, false).unwrap();
    assert!(!both.is_current(&sealed, None));
    let (mut damaged, mut foreign) = (sealed.clone(), sealed.clone());
    damaged.wrapped_key[14] ^= 1;
    foreign.kek_id = "lost".to_owned();
    let done = both.rewrap_all(&[("Secret/db", &damaged), ("Secret/db", &sealed), ("Secret/db", &foreign)]).await;
    assert!(matches!(done[0], Err(KeyError::Open { .. })) && matches!(done[2], Err(KeyError::Unknown { .. })));
    let rewrapped = done[1].as_ref().unwrap();
    assert_eq!(rewrapped.ciphertext, sealed.ciphertext);
    assert!(both.is_current(rewrapped, None));
    let alone = Keyring::in_file(&new_path).unwrap();
    assert_eq!(alone.open("Secret/db", rewrapped).await.unwrap().expose(), b"hunter2");
}

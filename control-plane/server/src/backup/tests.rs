use super::*;
use crate::keys::config::KekConfig;
use postern_core::secret::Sealed;
use postern_state::{Cluster, Entry, commands};

fn state() -> State {
    let sealed = || Sealed { kek_id: "k".into(), wrapped_key: vec![1], nonce: vec![2], ciphertext: vec![3] };
    let cluster = Cluster {
        id: "c".into(),
        incarnation: "i".into(),
        // Longer than a piece, so that there are several.
        ca_pem: "x".repeat(PIECE * 2 + 17),
        ca_key: sealed(),
        session_token_jwks: "{}".into(),
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
        session_token_key: sealed(),
        mask_key: sealed(),
    };
    let mut state = State::default();
    let command = commands::InitCluster(cluster).into();
    let entry = Entry { proposed_at: clock::now(), request_id: None, command, audit: None };
    state.apply(1, &entry.encode()).unwrap().outcome.unwrap();
    state
}

fn kek(dir: &std::path::Path, name: &str) -> Kek {
    Kek::new(&KekConfig::file(&dir.join(name)), false).unwrap()
}

#[tokio::test]
async fn a_backup_opens_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = (kek(dir.path(), "right"), kek(dir.path(), "wrong"));
    let state = state();
    let file: Vec<u8> = Backup::begin(&state, &right).await.unwrap().flat_map(Result::unwrap).collect();
    let (header, clear) = open(&file, &right).await.unwrap();
    assert_eq!((header.cluster_id.as_str(), header.index), ("c", 1));
    assert_eq!(State::restore(&clear).unwrap().hash(), state.hash());
    assert!(!file.windows(64).any(|window| window == "x".repeat(64).as_bytes()), "in clear");

    assert!(matches!(open(&file, &wrong).await, Err(BackupError::Key(_))));
    assert!(matches!(open(b"something else entirely", &right).await, Err(BackupError::NotABackup)));
    let cuts = [9, 40, 200, PIECE, file.len() - PIECE, file.len() - 33, file.len() - 32, file.len() - 1];
    for cut in cuts {
        let error = open(&file[..cut], &right).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, BackupError::Truncated), "{cut}: {error}");
    }
    for at in [15, 600, PIECE, PIECE + 700, file.len() - 100, file.len() - 1] {
        let mut bad = file.clone();
        bad[at] ^= 4;
        assert!(open(&bad, &right).await.is_err(), "{at}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(open(&longer, &right).await.is_err());
    // A later version.
    let text = String::from_utf8(file[12..40].to_vec()).unwrap();
    assert!(text.contains("\"version\":1"), "{text}");
    let at = 12 + text.find(":1").unwrap() + 1;
    let mut later = file;
    later[at] = b'2';
    assert!(matches!(open(&later, &right).await, Err(BackupError::Version(2))));
}

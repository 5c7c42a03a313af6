use std::path::Path;

use super::*;

#[tokio::test]
async fn a_file_is_read_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    let read = async || local::file(&path).await.map(|password| password.expose().to_vec());
    for (content, expected) in
        [("hunter2\n", "hunter2"), ("hunter3\r\n", "hunter3"), ("two\nlines\n\n", "two\nlines\n"), (" x ", " x ")]
    {
        std::fs::write(&path, content).unwrap();
        assert_eq!(read().await.unwrap(), expected.as_bytes());
    }
    for bad in ["", "\n", "a\0b"] {
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(read().await, Err(CredentialError::NoPassword(_))), "{bad:?}");
    }
    std::fs::write(&path, vec![b'x'; 65 << 10]).unwrap();
    assert!(matches!(read().await, Err(CredentialError::File { .. })));
    assert!(matches!(local::file(dir.path()).await, Err(CredentialError::File { .. })));
    assert!(matches!(local::file(Path::new("/nowhere/at/all")).await, Err(CredentialError::File { .. })));
}

#[test]
fn an_account_shows_no_password() {
    let account =
        Account { username: "app".into(), proof: Proof::Password(SecretBytes::new(b"canary".to_vec())), holding: None };
    let shown = format!("{account:?}");
    assert!(shown.contains("app") && !shown.contains("canary") && !shown.contains("99, 97"), "{shown}");
}

#[test]
fn a_configuration_that_allows_nothing_useful_is_a_fault() {
    let with = |change: fn(&mut CredentialsConfig)| {
        let mut config = CredentialsConfig::default();
        change(&mut config);
        config.faults()
    };
    assert!(with(|_| {}).is_none());
    assert!(with(|config| config.file_dirs.push("relative".into())).is_some());
    assert!(with(|config| config.env_allow.push(String::new())).is_some());
    assert!(with(|config| config.vault_allow.push(String::new())).is_some());
}

#[test]
fn a_certificate_may_have_a_password_before_it() {
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\npassword: inside\n-----END PRIVATE KEY-----\npassword: after\n";
    for (before, password) in [
        ("", None),
        ("subject=CN = app\n", None),
        ("password:none\n", None),
        ("password: hunter2\n", Some("hunter2")),
        ("subject=CN = app\npassword:  a b \r\n", Some(" a b ")),
    ] {
        let proof = Proof::of(CredentialKind::Certificate, SecretBytes::new(format!("{before}{PEM}").into_bytes()));
        assert_eq!(proof.password().map(SecretBytes::expose), password.map(str::as_bytes), "{before:?}");
        assert!(proof.certificate().is_some());
    }
}

//! I5: no credential, token or key in anything that leaves or rests.

use std::fs;
use std::path::{Path, PathBuf};

use postern_chaos::live::Role;

use crate::shop;

pub(crate) fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

#[test]
fn nothing_at_rest_or_in_the_log_tells_a_secret() {
    let (postgres, mut postern) = shop();
    let oidc = postern.token("olga", &["operators"]).unwrap();
    let session_token = postern.cli_as(&oidc, ["token"]).unwrap().ok().unwrap().trim().to_owned();
    for token in [&oidc, &session_token] {
        for target in ["shop", "shop-direct", "nowhere"] {
            let connection = postern.connection(target, token).unwrap();
            connection.run("SELECT count(*) FROM orders; SELECT * FROM payroll; SELECT 1/0; nonsense").unwrap();
            connection.sslmode("require").run("SELECT 1").unwrap();
        }
    }
    let _ = postern.connection("shop", &format!("{oidc}x")).unwrap().run("SELECT 1");
    let session = postern.last_ended_session().unwrap();
    let shown = [
        postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap(),
        postern.cli(["describe", "secret", "shop-password"]).unwrap().ok().unwrap(),
        postern.cli(["get", "secrets", "-o", "yaml"]).unwrap().ok().unwrap(),
        postern.metrics().unwrap(),
    ]
    .concat();
    postern.stop().unwrap();

    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        Role::Scram.password().to_owned(),
        oidc.clone(),
        signature(&oidc),
        session_token.clone(),
        signature(&session_token),
    ];
    for secret in &secrets {
        assert!(!shown.contains(secret.as_str()), "shown by a command");
        assert!(!postern.log().contains(secret.as_str()), "in the log");
    }
    for token in [&oidc, &session_token] {
        assert!(!postgres.log().contains(token.as_str()), "in the target's log");
    }
    let mut found = Vec::new();
    files(&postern.data_dir(), &mut found);
    assert!(found.len() > 5);
    for path in &found {
        let bytes = fs::read(path).unwrap();
        for secret in &secrets {
            let inside = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!inside, "a secret lies in clear in {}", path.display());
        }
        // Private keys, where a file is one, are for the owner alone.
        if bytes.windows(11).any(|window| window == b"PRIVATE KEY") || path.extension().is_some_and(|e| e == "key") {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o077;
            assert_eq!(mode, 0, "{} is open to others", path.display());
        }
    }
}

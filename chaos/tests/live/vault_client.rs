//! The client of Vault, against the tests' own.

use std::fs;
use std::time::Duration;

use postern_chaos::live::vault::{DatabaseRole, Rule};
use postern_chaos::live::{Postgres, PostgresOptions, Vault as Server, wait_until};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::vault::{Transit, Vault, VaultConfig, VaultError};
use serde_json::json;

const LONG: Duration = Duration::from_secs(600);

pub(crate) fn config(server: &Server, auth: serde_json::Value) -> VaultConfig {
    serde_json::from_value(json!({"address": server.url(), "timeout": "3s", "auth": auth})).unwrap()
}

/// With a token in a file.
fn with_token(server: &Server, token: &str) -> (Vault, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    (Vault::new(&config(server, json!({"method": "token", "file": file}))).unwrap(), dir)
}

fn rules() -> Vec<Rule> {
    vec![
        Rule::new("secret/data/app/*", &["read"]),
        Rule::new("transit/encrypt/app", &["update"]),
        Rule::new("transit/decrypt/app", &["update"]),
        Rule::new("database/creds/app", &["read"]),
        Rule::new("sys/leases/revoke", &["update"]),
    ]
}

#[tokio::test]
async fn logs_in_by_every_method_and_again_when_its_token_is_gone() {
    let server = Server::start().unwrap();
    server.put_kv("secret", "app/db", json!({"password": "hunter2"}));
    let dir = tempfile::tempdir().unwrap();
    let shown = dir.path().join("shown");
    fs::write(&shown, "shown-secret\n").unwrap();
    for (mount, auth) in [
        ("approle", json!({"method": "approle", "role_id": "app", "secret_id_file": shown})),
        ("kubernetes", json!({"method": "kubernetes", "role": "app", "jwt_file": shown})),
        ("jwt", json!({"method": "jwt", "role": "app", "jwt_file": shown})),
    ] {
        server.set_login(mount, "app", "shown-secret", &rules(), LONG, LONG);
        let vault = Vault::new(&config(&server, auth.clone())).unwrap();
        let read = async || vault.kv_field("secret", "app/db", "password", 0).await;
        assert_eq!(read().await.unwrap().value.expose(), b"hunter2", "{mount}");
        assert_eq!(vault.generation().await, 1);

        // Nobody logs in for every refusal: what is refused may be the path.
        let before = server.calls("login");
        for _ in 0..5 {
            let denied = vault.kv_field("secret", "other", "password", 0).await;
            assert!(matches!(denied, Err(VaultError::Denied { .. })), "{denied:?}");
        }
        assert_eq!(server.calls("login"), before, "{mount}");

        fs::write(&shown, "wrong").unwrap();
        let error = Vault::new(&config(&server, auth)).unwrap().kv_field("secret", "app/db", "password", 0).await;
        assert!(matches!(error, Err(VaultError::Login(_) | VaultError::Denied { .. })), "{error:?}");
        assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
        fs::write(&shown, "shown-secret").unwrap();
    }
}

#[tokio::test]
async fn a_token_in_a_file_is_read_again_when_it_is_refused() {
    let server = Server::start().unwrap();
    server.put_kv("secret", "app/db", json!({"password": "hunter2"}));
    let (vault, dir) = with_token(&server, "hvs.wrong-token-canary");
    let error = vault.kv_field("secret", "app/db", "password", 0).await.unwrap_err();
    assert!(matches!(error, VaultError::Denied { .. }) && !error.is_transient());
    let shown = format!("{error} {error:?} {vault:?}");
    assert!(shown.contains("permission denied") && shown.contains("secret/data/app/db"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");

    fs::write(dir.path().join("token"), server.token(&rules(), LONG, LONG)).unwrap();
    // At most one new login in a while: the test need not wait for it.
    let again = Vault::new(&config(&server, json!({"method": "token", "file": dir.path().join("token")}))).unwrap();
    assert_eq!(again.kv_field("secret", "app/db", "password", 0).await.unwrap().value.expose(), b"hunter2");
    let nothing = Vault::new(&config(&server, json!({"method": "token", "variable": "POSTERN_TEST_NO_SUCH"}))).unwrap();
    let error = nothing.kv_field("secret", "app/db", "password", 0).await.unwrap_err();
    assert!(error.to_string().contains("POSTERN_TEST_NO_SUCH is not set"), "{error}");
}

#[tokio::test]
async fn a_token_is_kept_alive_by_itself() {
    let server = Server::start().unwrap();
    server.put_kv("secret", "app/db", json!({"password": "hunter2"}));
    let (vault, _dir) = with_token(&server, &server.token(&rules(), Duration::from_secs(2), LONG));
    let supervisor = Supervisor::new();
    supervisor.spawn("keep", OnEnd::EndSession, vault.clone().keep(supervisor.shutdown_token()));
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        vault.kv_field("secret", "app/db", "password", 0).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(server.calls("renew-self") >= 2);
    supervisor.request_shutdown("done");
}

#[tokio::test]
async fn what_passes_is_told_from_what_stays() {
    let mut server = Server::start().unwrap();
    server.put_kv("secret", "app/db", json!({"password": "hunter2"}));
    let (vault, _dir) = with_token(&server, server.root_token());
    let read = async || vault.kv_field("secret", "app/db", "password", 0).await.unwrap_err();
    vault.kv_field("secret", "app/db", "password", 0).await.unwrap();
    server.seal();
    assert_eq!(read().await, VaultError::Sealed("Vault is sealed".into()));
    server.unseal();
    server.set_standby(true);
    assert_eq!(read().await, VaultError::Standby);
    server.set_standby(false);
    server.set_rate_limited(true);
    assert_eq!(read().await, VaultError::RateLimited);
    server.set_rate_limited(false);
    server.set_namespace("team");
    assert!(matches!(read().await, VaultError::Denied { .. }));
    server.stop();
    let error = read().await;
    assert!(matches!(error, VaultError::Unreachable(_)) && error.is_transient(), "{error:?}");
    server.resume().unwrap();
    for address in ["http://vault.example:8200", "vault:8200", "https://vault:8200/v1", ""] {
        let config = VaultConfig { address: address.into(), ..config(&server, json!({"method": "token"})) };
        assert!(matches!(Vault::new(&config), Err(VaultError::Config(_))), "{address}");
    }
}

#[tokio::test]
async fn reads_versions_and_fields_of_a_secret() {
    let server = Server::start().unwrap();
    let (vault, _dir) = with_token(&server, server.root_token());
    server.put_kv("secret", "app/ab", json!({"password": "one", "number": 5432, "list": []}));
    server.put_kv("secret", "app/ab", json!({"password": "two"}));
    let read = async |field: &'static str, version| vault.kv_field("secret", "app/ab", field, version).await;
    let newest = read("password", 0).await.unwrap();
    assert_eq!((newest.value.expose(), newest.version), (&b"two"[..], 2));
    assert_eq!(read("password", 1).await.unwrap().value.expose(), b"one");
    assert_eq!(read("number", 1).await.unwrap().value.expose(), b"5432");
    assert!(matches!(read("list", 1).await, Err(VaultError::Form { .. })));
    for (field, version, word) in [("none", 1, "lacks the field"), ("password", 9, "has no secret/data/app/ab")] {
        let error = read(field, version).await.unwrap_err();
        assert!(matches!(error, VaultError::NotFound { .. }) && error.to_string().contains(word), "{error}");
    }
    server.delete_kv("secret", "app/ab");
    let error = read("password", 0).await.unwrap_err();
    assert!(error.to_string().contains("was deleted"), "{error}");
    for path in ["../sys/raw", "a//b", "", "a/./b", "a\nb"] {
        assert!(matches!(vault.kv_field("secret", path, "x", 0).await, Err(VaultError::Config(_))), "{path:?}");
    }
}

#[tokio::test]
async fn transit_opens_in_its_place_alone() {
    let server = Server::start().unwrap();
    server.create_key("transit", "app");
    let (vault, _dir) = with_token(&server, &server.token(&rules(), LONG, LONG));
    let transit = Transit::new(vault.clone(), "transit", "app").unwrap();
    let one = transit.encrypt(b"key one", "Secret/one").await.unwrap();
    server.rotate_key("transit", "app");
    let two = transit.encrypt(b"key two", "Secret/two").await.unwrap();
    assert_eq!((one.key_version, two.key_version), (1, 2));
    let opened = transit
        .decrypt(&[(&one.ciphertext, "Secret/one"), (&one.ciphertext, "Secret/two"), (&two.ciphertext, "Secret/two")])
        .await
        .unwrap();
    assert_eq!(opened[0].as_ref().unwrap().expose(), b"key one");
    assert!(opened[1].as_ref().unwrap_err().contains("authentication failed"));
    assert_eq!(opened[2].as_ref().unwrap().expose(), b"key two");
    // All that fail are told apart too, though the whole answer is then a 400.
    server.set_min_decryption_version("transit", "app", 2);
    let opened = transit.decrypt(&[(&one.ciphertext, "Secret/one"), ("nonsense", "x")]).await.unwrap();
    assert!(opened[0].as_ref().unwrap_err().contains("too old"));
    assert!(opened[1].as_ref().unwrap_err().contains("no prefix"));
    // A key that is not there is not made by a token that may only use it.
    let other = Transit::new(vault, "transit", "other").unwrap();
    assert!(matches!(other.encrypt(b"x", "y").await, Err(VaultError::Denied { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_last_as_long_as_their_lease() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let server = Server::start().unwrap();
    let (vault, _dir) = with_token(&server, &server.token(&rules(), LONG, LONG));
    let (ttl, max_ttl) = (Duration::from_secs(60), Duration::from_secs(90));
    let creation = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'".to_owned();
    server.set_database_role("database", "app", DatabaseRole { port: postgres.port(), creation, ttl, max_ttl });
    let exists = |name: &str| {
        postgres.sql("shop", &format!("SELECT count(*) FROM pg_roles WHERE rolname = '{name}'")).unwrap() == "1"
    };
    let account = vault.database_account("database", "app").await.unwrap();
    assert!(exists(&account.username) && account.lease.renewable);
    assert!(!format!("{account:?}").contains(std::str::from_utf8(account.password.expose()).unwrap()));
    let renewed = vault.renew_lease(&account.lease, Duration::from_secs(60)).await.unwrap();
    assert_eq!(renewed.duration, Duration::from_secs(60));
    // Not past its greatest age.
    let renewed = vault.renew_lease(&account.lease, Duration::from_secs(600)).await.unwrap();
    assert!(renewed.duration <= max_ttl);
    vault.revoke_lease(&account.lease).await.unwrap();
    assert!(!exists(&account.username));
    let error = vault.renew_lease(&account.lease, ttl).await.unwrap_err();
    assert!(
        matches!(&error, VaultError::Status { status: 400, detail, .. } if detail == "lease not found"),
        "{error:?}"
    );

    let account = vault.database_account("database", "app").await.unwrap();
    server.revoke_tokens();
    wait_until(Duration::from_secs(5), "the account to go with its token", || Ok(!exists(&account.username))).unwrap();
}

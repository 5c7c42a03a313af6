//! Secrets at rest under a key that never leaves Vault.

use std::time::Duration;

use postern_chaos::live::Vault as Server;
use postern_chaos::live::vault::Rule;
use postern_server::keys::config::KekConfig;
use postern_server::keys::{KeyError, Keyring};
use serde_json::json;

const LONG: Duration = Duration::from_secs(600);

/// A Vault with a key, and what is said of it in a configuration.
fn server() -> (Server, serde_json::Value) {
    let server = Server::start().unwrap();
    server.create_key("transit", "postern");
    let rules = [Rule::new("transit/encrypt/postern", &["update"]), Rule::new("transit/decrypt/postern", &["update"])];
    server.set_login("approle", "control", "", &rules, LONG, LONG);
    let auth = json!({"method": "approle", "role_id": "control"});
    let vault = json!({"address": server.url(), "timeout": "2s", "auth": auth});
    (server, json!({"source": "vault", "key": "postern", "vault": vault}))
}

fn keyring(config: &serde_json::Value) -> Keyring {
    let config: KekConfig = serde_json::from_value(config.clone()).unwrap();
    Keyring::new(&config, true).unwrap()
}

#[tokio::test]
async fn opens_from_memory_while_vault_is_away_and_waits_for_it_at_the_start() {
    let (mut server, config) = server();
    let keys = keyring(&config);
    keys.ready().await.unwrap();
    let sealed = keys.seal("Secret/db", b"hunter2").await.unwrap();
    assert_eq!(keys.current_id(), "vault:transit/postern");
    assert!(sealed.wrapped_key.starts_with(b"vault:v1:"));
    assert!(keys.open("Secret/other", &sealed).await.is_err());
    server.stop();
    assert_eq!(keys.open("Secret/db", &sealed).await.unwrap().expose(), b"hunter2");
    let error = keys.seal("Secret/db", b"x").await.unwrap_err();
    assert!(error.is_transient(), "{error}");

    let fresh = keyring(&config);
    let error = fresh.open("Secret/db", &sealed).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("cannot be reached"), "{error}");
    server.resume().unwrap();
    server.seal();
    let (waited, ()) = tokio::join!(fresh.open_waiting("Secret/db", &sealed), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.unseal();
    });
    assert_eq!(waited.unwrap().expose(), b"hunter2");
}

#[tokio::test]
async fn waiting_ends_where_it_would_not_help() {
    let (server, mut config) = server();
    config["vault"]["auth"]["role_id"] = "stranger".into();
    let error = keyring(&config).ready().await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("invalid role or secret ID"), "{error}");
    let (other, config) = {
        let (other, config) = self::server();
        other.ignore_associated_data("transit", "postern");
        (other, config)
    };
    assert!(matches!(keyring(&config).ready().await, Err(KeyError::Unbound(_))));
    drop((server, other));
}

#[tokio::test]
async fn many_who_open_ask_once_and_nobody_hammers() {
    let (mut server, config) = server();
    let keys = keyring(&config);
    let mut sealed = Vec::new();
    for number in 0..300 {
        sealed.push((format!("Secret/s{number}"), keys.seal(&format!("Secret/s{number}"), b"x").await.unwrap()));
    }
    let fresh = keyring(&config);
    let items: Vec<_> = sealed.iter().map(|(of, sealed)| (of.as_str(), sealed)).collect();
    let all = futures::future::join_all((0..20).map(|_| fresh.open_all(&items))).await;
    assert!(all.iter().flatten().all(Result::is_ok));
    assert_eq!(server.calls("decrypt"), 3, "300 data keys in batches of 128, once");

    let away = keyring(&config);
    server.seal();
    let began = std::time::Instant::now();
    let mut tried = 0;
    while began.elapsed() < Duration::from_secs(1) {
        assert!(away.open("Secret/s1", &sealed[1].1).await.is_err());
        tried += 1;
        tokio::task::yield_now().await;
    }
    let asked = server.calls("login") + server.calls("decrypt") - 5;
    assert!(tried > 100 && asked < 60, "{tried} tries, {asked} calls");
    server.stop();
}

#[tokio::test]
async fn data_keys_go_from_a_file_to_vault_and_back() {
    let (server, vault) = server();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kek");
    let file = Keyring::in_file(&path).unwrap();
    let sealed = file.seal("Secret/db", b"hunter2").await.unwrap();

    let mut to_vault = vault.clone();
    to_vault["previous"] = json!([{"source": "file", "path": path}]);
    let both = keyring(&to_vault);
    let newest = both.newest_version().await.unwrap();
    assert!(newest == Some(1) && !both.is_current(&sealed, newest));
    let wrapped = both.rewrap_all(&[("Secret/db", &sealed)]).await.remove(0).unwrap();
    assert!(wrapped.ciphertext == sealed.ciphertext && both.is_current(&wrapped, newest));

    // A new version of Vault's key is a rotation too.
    server.rotate_key("transit", "postern");
    let newest = both.newest_version().await.unwrap();
    assert!(!both.is_current(&wrapped, newest));
    let again = both.rewrap_all(&[("Secret/db", &wrapped)]).await.remove(0).unwrap();
    server.set_min_decryption_version("transit", "postern", 2);
    let alone = keyring(&vault);
    assert_eq!(alone.open("Secret/db", &again).await.unwrap().expose(), b"hunter2");
    assert!(matches!(alone.open("Secret/db", &wrapped).await, Err(KeyError::Refused { .. })));

    let mut back = json!({"source": "file", "path": path, "previous": [vault]});
    let back_again = keyring(&back).rewrap_all(&[("Secret/db", &again)]).await.remove(0).unwrap();
    assert_eq!(file.open("Secret/db", &back_again).await.unwrap().expose(), b"hunter2");
    back["previous"] = json!([]);
    assert!(keyring(&back).open("Secret/db", &again).await.is_err());
}

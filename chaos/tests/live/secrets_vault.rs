//! Secrets under keys of Vault's, and targets' credentials from Vault, files and the environment.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_chaos::live::vault::{DatabaseRole, Rule};
use postern_chaos::live::{Postgres, PostgresOptions, Role, RoleOptions, ThreeProcesses, Vault, wait_until};
use serde_json::json;

use crate::{assert_has, assert_lacks};

const LONG: Duration = Duration::from_secs(3600);
const SECRET_ID: &str = "secret-id-canary-77aa";

fn started(options: RoleOptions) -> (Postgres, ThreeProcesses) {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let three = ThreeProcesses::start(&postgres, options).unwrap();
    (postgres, three)
}

/// A Vault with a key, and the sub-table of a configuration that names it: `[control.kek]`, `[[control.kek.previous]]`.
fn vault_with_key() -> Vault {
    let vault = Vault::start().unwrap();
    vault.create_key("transit", "postern");
    let rules = [Rule::new("transit/encrypt/postern", &["update"]), Rule::new("transit/decrypt/postern", &["update"])];
    vault.set_login("approle", "control", SECRET_ID, &rules, LONG, LONG);
    vault
}

fn kek(vault: &Vault, table: &str) -> String {
    let bare = table.trim_matches(['[', ']']);
    format!(
        "{table}\nsource = \"vault\"\nkey = \"postern\"\n[{bare}.vault]\naddress = \"{}\"\n\
         auth = {{ method = \"approle\", role_id = \"control\", secret_id_variable = \"VAULT_SECRET_ID\" }}\n",
        vault.url()
    )
}

fn environment() -> Vec<(String, String)> {
    vec![("VAULT_SECRET_ID".to_owned(), SECRET_ID.to_owned())]
}

#[track_caller]
fn logs_in(three: &ThreeProcesses, target: &str) -> String {
    let run = three.connection(target, "ada", &["dba"]).unwrap().run("SELECT current_user").unwrap();
    assert!(run.status.success(), "{target}: {}\n{}", run.stderr, three.log("gateway"));
    run.stdout
}

#[test]
fn a_control_plane_waits_for_a_sealed_vault_and_then_serves() {
    let vault = vault_with_key();
    let options =
        RoleOptions { control: kek(&vault, "[control.kek]"), environment: environment(), ..Default::default() };
    let (_postgres, mut three) = started(options);
    logs_in(&three, "shop");
    let data = fs::read_dir(three.folder().join("control")).unwrap();
    assert!(data.flatten().all(|entry| entry.file_name() != "kek"), "no key of its own lies on the disk");

    // Away while it runs: what is there goes on.
    vault.seal();
    logs_in(&three, "shop-direct");
    let error =
        three.apply("apiVersion: postern/v1\nkind: Secret\nmetadata: {name: other}\nspec: {value: x}\n").unwrap_err();
    assert_has(&error.to_string(), &["Vault is sealed"]);

    three.stop_control().unwrap();
    let before = vault.calls("login");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let asked =
                wait_until(Duration::from_secs(30), "the node to ask again", || Ok(vault.calls("login") > before + 2));
            vault.unseal();
            asked.unwrap();
        });
        three.start_control().unwrap();
    });
    logs_in(&three, "shop");
    assert_has(&three.log("control"), &["waiting for the key-encryption key", "the key-encryption key is there"]);

    // A login that Vault refuses is no reason to wait.
    vault.set_login("approle", "control", "another", &[], LONG, LONG);
    three.stop_control().unwrap();
    let error = format!("{:#}", three.start_control().unwrap_err());
    assert_has(&error, &["cannot start", "invalid role or secret ID"]);
    for role in ["control", "gateway", "agent"] {
        assert_lacks(&three.log(role), &[SECRET_ID, vault.root_token(), Role::Scram.password(), "hvs."]);
    }
}

#[test]
fn the_key_is_replaced_while_secrets_are_written() {
    let vault = vault_with_key();
    let (_postgres, mut three) = started(RoleOptions { environment: environment(), ..Default::default() });
    let many: String = (0..250).map(|n| secret(&format!("before-{n}"), "one")).collect();
    three.apply(&many).unwrap();
    let folder = three.folder().to_owned();
    let old = folder.join("control/kek").display().to_string();
    let status = |three: &ThreeProcesses| -> serde_json::Value {
        let shown = three.cli(["secrets", "rotate-kek", "--status", "-o", "json"]).unwrap().ok().unwrap();
        serde_json::from_str(&shown).unwrap()
    };
    // Those of recordings and of their log are the cluster's last.
    let whole = || Ok(status(&three)["uses"][0]["sealed"] == 256);
    wait_until(Duration::from_secs(20), "the cluster's own keys", whole).unwrap();
    assert_eq!(status(&three)["left"], 0);

    // To Vault, while others write.
    let previous = format!("[[control.kek.previous]]\nsource = \"file\"\npath = \"{old}\"\n");
    three.set_control(kek(&vault, "[control.kek]") + &previous);
    three.stop_control().unwrap();
    three.start_control().unwrap();
    assert_eq!(status(&three)["left"], 256, "{}", status(&three));
    let announced = |three: &ThreeProcesses, key: &str| {
        wait_until(Duration::from_secs(20), "the member to tell of its new key", || {
            Ok(status(three)["members"].to_string().contains(key))
        })
        .unwrap();
    };
    announced(&three, "vault:transit/postern");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                three.apply(&secret(&format!("before-{}", n % 250), &format!("value {n}"))).unwrap();
                three.apply(&secret(&format!("during-{n}"), "two")).unwrap();
                n += 1;
            }
        });
        let done = three.cli(["secrets", "rotate-kek"]).unwrap();
        stop.store(true, Ordering::Relaxed);
        assert_has(&done.ok().unwrap(), &["put under vault:transit/postern, 0 left"]);
    });
    let after = status(&three);
    assert_eq!((&after["left"], &after["current"]), (&json!(0), &json!("vault:transit/postern")), "{after}");
    assert_has(&three.cli(["secrets", "rotate-kek"]).unwrap().ok().unwrap(), &["0 put under"]);

    // A new version of Vault's own key is a rotation as well.
    vault.rotate_key("transit", "postern");
    assert_ne!(status(&three)["left"], 0);
    three.cli(["secrets", "rotate-kek"]).unwrap().ok().unwrap();
    // A member's own key is not in the state: it goes under the new version when the member starts.
    three.stop_control().unwrap();
    three.start_control().unwrap();
    vault.set_min_decryption_version("transit", "postern", 2);

    // The file is not needed any more.
    fs::remove_file(&old).unwrap();
    three.set_control(kek(&vault, "[control.kek]"));
    three.stop_control().unwrap();
    three.start_control().unwrap();
    logs_in(&three, "shop");

    // And back: to another file, and no Vault.
    let new = folder.join("new-kek").display().to_string();
    fs::write(&new, "ab".repeat(32)).unwrap();
    let current = format!("[control.kek]\nsource = \"file\"\npath = \"{new}\"\n");
    three.set_control(current.clone() + &kek(&vault, "[[control.kek.previous]]"));
    three.stop_control().unwrap();
    three.start_control().unwrap();
    let current_id = status(&three)["current"].as_str().unwrap().to_owned();
    announced(&three, &current_id);
    three.cli(["secrets", "rotate-kek"]).unwrap().ok().unwrap();
    drop(vault);
    three.set_control(current);
    three.stop_control().unwrap();
    three.start_control().unwrap();
    logs_in(&three, "shop");
    assert_eq!(status(&three)["left"], 0);
    assert_lacks(&three.log("control"), &[SECRET_ID, Role::Scram.password(), &"ab".repeat(32), "hvs."]);
}

fn secret(name: &str, value: &str) -> String {
    format!("apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: {name}}}\nspec: {{value: \"{value}\"}}\n---\n")
}

/// A target of the shop's with this credential.
fn target(postgres: &Postgres, name: &str, credential: &str) -> String {
    format!(
        "apiVersion: postern/v1\nkind: Target\nmetadata: {{name: {name}, labels: {{kind: shop}}}}\nspec:\n  protocol: postgres\n  \
         address: \"{}\"\n  tls: {{mode: disable}}\n  credential: {credential}\n  databases: [shop]\n---\n",
        postgres.address()
    )
}

#[test]
fn credentials_are_resolved_where_the_target_is_dialled() {
    let mut vault = Vault::start().unwrap();
    let password = Role::Scram.password();
    let rules = [
        Rule::new("secret/data/shop/*", &["read"]),
        Rule::new("secret/data/others/*", &["read"]),
        Rule::new("database/creds/shop", &["read"]),
        Rule::new("sys/leases/revoke", &["update"]),
    ];
    vault.set_login("approle", "gateway", SECRET_ID, &rules, LONG, LONG);
    vault.put_kv("secret", "shop/app", json!({"password": password, "user": "app"}));
    vault.put_kv("secret", "others/app", json!({"password": password}));
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("app"), format!("{password}\n")).unwrap();
    fs::write(&outside, password).unwrap();
    let gateway = format!(
        "[gateway.credentials]\nenv_allow = [\"SHOP_*\"]\nfile_dirs = [\"{}\"]\n\
         vault_allow = [\"secret/shop/*\", \"database/shop\"]\nkv_ttl = \"1h\"\n[gateway.vault]\naddress = \"{}\"\ntimeout = \"2s\"\n\
         auth = {{ method = \"approle\", role_id = \"gateway\", secret_id_variable = \"VAULT_SECRET_ID\" }}\n",
        inside.display(),
        vault.url()
    );
    let mut environment = environment();
    environment.extend([("SHOP_PASSWORD", password), ("OTHER_PASSWORD", password)].map(|(k, v)| (k.into(), v.into())));
    let (postgres, mut three) = started(RoleOptions { gateway, environment, ..Default::default() });
    let role = DatabaseRole {
        port: postgres.port(),
        creation: "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' IN ROLE app".to_owned(),
        ttl: Duration::from_secs(6),
        max_ttl: LONG,
    };
    vault.set_database_role("database", "shop", role);
    let (file, other) = (inside.join("app"), outside.clone());
    let targets = [
        ("by-kv", "{username: app, vaultKv: {path: shop/app}}".to_owned()),
        ("by-env", "{username: app, env: SHOP_PASSWORD}".to_owned()),
        ("by-file", format!("{{username: app, file: {}}}", file.display())),
        ("by-lease", "{vaultDatabase: {role: shop}}".to_owned()),
        ("no-kv", "{username: app, vaultKv: {path: others/app}}".to_owned()),
        ("no-env", "{username: app, env: OTHER_PASSWORD}".to_owned()),
        ("no-file", format!("{{username: app, file: {}}}", other.display())),
        ("no-field", "{username: app, vaultKv: {path: shop/app, field: none}}".to_owned()),
        ("no-secret", "{username: app, vaultKv: {path: shop/none}}".to_owned()),
    ];
    let objects: String = targets.iter().map(|(name, credential)| target(&postgres, name, credential)).collect();
    three.apply(&objects).unwrap();
    wait_until(Duration::from_secs(10), "the targets at the gateway", || {
        Ok(three.connection("by-env", "ada", &["dba"])?.run("SELECT 1")?.status.success())
    })
    .unwrap();
    for name in ["by-kv", "by-env", "by-file"] {
        assert_has(&logs_in(&three, name), &["app"]);
    }
    for (name, log) in [
        ("no-kv", "gateway.credentials.vault_allow"),
        ("no-env", "gateway.credentials.env_allow"),
        ("no-file", "gateway.credentials.file_dirs"),
        ("no-field", "lacks the field"),
        ("no-secret", "Vault has no secret/data/shop/none"),
    ] {
        let run = three.connection(name, "ada", &["dba"]).unwrap().run("SELECT 1").unwrap();
        assert_has(&run.stderr, &["the gateway has no credential for the target now"]);
        assert_lacks(&run.stderr, &["allow", "Vault", "secret"]);
        assert_has(&three.log("gateway"), &["credential-unavailable", log]);
    }

    // Asked of Vault once, not per session; the same account for all of them.
    let account = logs_in(&three, "by-lease");
    assert_has(&account, &["v-token-shop-"]);
    // The session and the reading of its catalog logged in at once.
    assert_eq!(vault.accounts(), [account.trim()]);
    let before = (vault.calls("secret/data/shop/app"), vault.calls("creds"));
    for _ in 0..3 {
        logs_in(&three, "by-kv");
        assert_eq!(logs_in(&three, "by-lease"), account);
    }
    assert_eq!((vault.calls("secret/data/shop/app"), vault.calls("creds")), before);

    // Kept up past its first life.
    wait_until(Duration::from_secs(20), "a renewal", || Ok(vault.calls("leases/renew") >= 2)).unwrap();
    assert_eq!(logs_in(&three, "by-lease"), account);

    // Taken away by somebody: refused by the target, made anew.
    vault.revoke_leases();
    assert_ne!(logs_in(&three, "by-lease"), account);

    // A password that was changed at the target and in Vault, while the old one is still remembered; files are read as they are.
    postgres.sql("postgres", "ALTER ROLE app PASSWORD 'another-canary'").unwrap();
    vault.put_kv("secret", "shop/app", json!({"password": "another-canary"}));
    fs::write(inside.join("app"), "another-canary").unwrap();
    logs_in(&three, "by-kv");
    logs_in(&three, "by-file");

    // While Vault is away, what was read goes on, and what was not is refused in time.
    vault.stop();
    logs_in(&three, "by-kv");
    let run = three.connection("no-secret", "ada", &["dba"]).unwrap().run("SELECT 1").unwrap();
    assert_has(&run.stderr, &["the gateway has no credential for the target now"]);
    vault.resume().unwrap();

    // Nothing stays at the target when the gateway ends.
    logs_in(&three, "by-lease");
    assert!(!vault.accounts().is_empty());
    let metrics = three.metrics(1).unwrap();
    three.stop().unwrap();
    assert!(vault.accounts().is_empty(), "{:?}", vault.accounts());
    for text in [three.log("control"), three.log("gateway"), three.log("agent"), metrics] {
        assert_lacks(&text, &[password, "another-canary", SECRET_ID, vault.root_token(), "hvs.", "A1a-"]);
    }
    let mut found = Vec::new();
    for role in ["control", "gateway", "spool"] {
        crate::secrets::files(&three.folder().join(role), &mut found);
    }
    assert!(found.len() > 5);
    for path in found {
        let bytes = fs::read(&path).unwrap();
        for secret in [password, "another-canary", SECRET_ID, "hvs.", "A1a-"] {
            let inside = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!inside, "{secret} lies in {}", path.display());
        }
    }
}

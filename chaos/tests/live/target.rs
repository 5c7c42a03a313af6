//! The gateway's own connection: every way to authenticate, every TLS mode, and targets that are not there.

use postern_chaos::live::{
    BY_BOTH, BY_CERTIFICATE, Postern, PosternOptions, Postgres, PostgresOptions, PsqlOutput, Role, asked_version,
    wait_until,
};

use crate::{assert_has, assert_lacks, shop};

fn target(postgres: &Postgres, role: Role, address: &str, tls: &str) -> String {
    let ca = postgres.ca_pem().unwrap_or_default().replace('\n', "\n      ");
    let tls = tls.replace("@CA@", &format!("ca: |\n      {ca}"));
    format!(
        "apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: pw}}\nspec: {{value: \"{}\"}}\n---\n\
         apiVersion: postern/v1\nkind: Target\nmetadata: {{name: db}}\nspec:\n  protocol: postgres\n  address: \"{address}\"\n  \
         credential: {{username: {}, secret: pw}}\n  tls:\n    {tls}\n---\n\
         apiVersion: postern/v1\nkind: Policy\nmetadata: {{name: all}}\nspec: {{effect: permit, principals: {{groups: [dba]}}, \
         targets: {{names: [db]}}, actions: [\"*\"]}}\n",
        role.password(),
        role.name(),
    )
}

#[test]
pub(crate) fn every_authentication_and_tls_mode() {
    let postgres = Postgres::start(PostgresOptions { tls: true, ..Default::default() }).unwrap();
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let (by_ip, by_name) = (postgres.address(), format!("localhost:{}", postgres.port()));
    let connection = postern.connection("db", &postern.token("dora", &["dba"]).unwrap()).unwrap();
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for role in [Role::Scram, Role::Md5, Role::Cleartext] {
        for (address, tls, works) in [
            (&by_ip, "mode: disable", role != Role::Cleartext),
            (&by_ip, "mode: prefer", true),
            (&by_ip, "mode: require", true),
            (&by_ip, "mode: verify-ca\n    @CA@", true),
            (&by_name, "mode: verify-full\n    @CA@", true),
            (&by_ip, "mode: verify-full\n    serverName: elsewhere.example\n    @CA@", false),
        ] {
            postern.apply(&target(&postgres, role, address, tls)).unwrap();
            let mut last = None;
            let reached = postern_chaos::live::wait_until(std::time::Duration::from_secs(5), "the new target", || {
                let run = connection.run(encrypted)?;
                let done = run.status.success() == works;
                last = Some(run);
                Ok(done)
            });
            let run = last.unwrap();
            assert!(reached.is_ok(), "{role:?} {tls}: {run:?}");
            if works {
                assert_eq!(run.stdout, if tls == "mode: disable" { "f\n" } else { "t\n" }, "{role:?} {tls}");
            } else {
                assert_has(&run.stderr, &["FATAL"]);
            }
            assert_lacks(&run.stderr, &[role.password()]);
        }
    }
}

#[test]
fn a_target_that_is_down_is_said_to_be() {
    let (mut postgres, postern) = shop();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    connection.run("SELECT count(*) FROM orders").unwrap().ok().unwrap();
    postgres.stop().unwrap();
    for target in ["shop", "shop-direct"] {
        let connection = postern.connection(target, &connection.password).unwrap();
        let stderr = connection.run("SELECT 1").unwrap().fails().unwrap();
        assert_has(&stderr, &["FATAL"]);
        assert_lacks(&stderr, &[&postgres.address(), Role::Scram.password()]);
    }
    postgres.resume().unwrap();
    connection.run("SELECT count(*) FROM orders").unwrap().ok().unwrap();
}

#[test]
fn a_target_that_dies_under_a_session_ends_it_with_words() {
    let (mut postgres, postern) = shop();
    let mut wire = postern_chaos::live::wire::Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &postern.token("alice", &["analysts"]).unwrap()).unwrap();
    wire.query("SELECT 1").unwrap();
    postgres.stop().unwrap();
    let said = wire.read().unwrap();
    assert_eq!(said.kind, 'E');
    assert!(["57P01", "08006", "08003"].contains(&said.field('C').unwrap().as_str()), "{:?}", said.fields());
    assert!(wire.closes().unwrap());
}

#[test]
fn a_pool_without_agents_is_said_to_be() {
    let (postgres, postern) = shop();
    let objects = postern_chaos::live::shop_objects(&postgres).replace("agentPool: dev", "agentPool: far-away");
    postern.apply(&objects).unwrap();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    let mut stderr = String::new();
    postern_chaos::live::wait_until(std::time::Duration::from_secs(5), "the change", || {
        let run = connection.run("SELECT 1")?;
        stderr = run.stderr;
        Ok(!run.status.success())
    })
    .unwrap();
    assert_has(&stderr, &["FATAL", "agent"]);
}

#[test]
fn a_wrong_credential_is_not_the_clients_business() {
    let (postgres, postern) = shop();
    let objects = postern_chaos::live::shop_objects(&postgres).replace(Role::Scram.password(), "a-wrong-password-77");
    postern.apply(&objects).unwrap();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    let mut stderr = String::new();
    postern_chaos::live::wait_until(std::time::Duration::from_secs(5), "the change", || {
        let run = connection.run("SELECT 1")?;
        stderr = run.stderr;
        Ok(!run.status.success())
    })
    .unwrap();
    assert_lacks(&stderr, &["a-wrong-password-77"]);
    assert_lacks(&postern.log(), &["a-wrong-password-77"]);
}

fn by_certificate(postgres: &Postgres, pem: &str) -> String {
    format!(
        "apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: pw}}\nspec:\n  value: |\n    {}\n---\n\
         apiVersion: postern/v1\nkind: Target\nmetadata: {{name: db}}\nspec:\n  protocol: postgres\n  address: \"{}\"\n  \
         credential: {{username: {BY_CERTIFICATE}, type: certificate, secret: pw}}\n  tls:\n    mode: verify-ca\n    ca: |\n      {}\n---\n\
         apiVersion: postern/v1\nkind: Policy\nmetadata: {{name: all}}\nspec: {{effect: permit, principals: {{groups: [dba]}}, \
         targets: {{names: [db]}}, actions: [\"*\"]}}\n",
        pem.trim_end().replace('\n', "\n    "),
        postgres.address(),
        postgres.ca_pem().unwrap().replace('\n', "\n      "),
    )
}

/// The target knows the gateway by a certificate, and no password is there that could be asked for.
#[test]
pub(crate) fn a_certificate_in_the_place_of_a_password() {
    let postgres = Postgres::start(PostgresOptions { tls: true, ..Default::default() }).unwrap();
    postgres.sql("shop", &format!("CREATE ROLE {BY_CERTIFICATE} LOGIN; GRANT app TO {BY_CERTIFICATE}")).unwrap();
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let connection = postern.connection("db", &postern.token("dora", &["dba"]).unwrap()).unwrap();
    let until = |what: &str, done: &dyn Fn(&PsqlOutput) -> bool| {
        let mut last = None;
        let reached = wait_until(std::time::Duration::from_secs(10), what, || {
            let run = connection.run("SELECT client_dn, current_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?;
            let done = done(&run);
            last = Some(run);
            Ok(done)
        });
        assert!(reached.is_ok(), "{what}: {last:?}\n{}", postern.log());
    };
    let pem = postgres.client_pem(BY_CERTIFICATE).unwrap();
    postern.apply(&by_certificate(&postgres, &pem)).unwrap();
    until("the certificate", &|run| run.stdout == format!("/CN={BY_CERTIFICATE}|{BY_CERTIFICATE}\n"));
    let secret = pem.lines().nth(1).unwrap().to_owned();

    // Another name, another authority, no certificate at all: refused, and the client learns no more than that.
    let others = Postgres::start(PostgresOptions { tls: true, ..Default::default() }).unwrap();
    for (pem, logged) in [
        (postgres.client_pem("somebody").unwrap(), "28000"),
        (others.client_pem(BY_CERTIFICATE).unwrap(), "TLS"),
        (pem.split("-----BEGIN CERTIFICATE").next().unwrap().to_owned(), "no certificate beside the key"),
        (pem.split("-----END PRIVATE KEY-----\n").nth(1).unwrap().to_owned(), "no readable private key"),
    ] {
        postern.apply(&by_certificate(&postgres, &pem)).unwrap();
        until(logged, &|run| !run.status.success() && postern.log().contains(logged));
        let stderr = connection.run("SELECT 1").unwrap().fails().unwrap();
        assert_has(&stderr, &["FATAL"]);
        assert_lacks(&stderr, &[BY_CERTIFICATE, "28000", "PRIVATE KEY", &postgres.address()]);
    }
    assert_lacks(&postern.log(), &[&secret, "PRIVATE KEY-----"]);

    // A target that wants a password does not get the key.
    let objects =
        by_certificate(&postgres, &pem).replace(&format!("username: {BY_CERTIFICATE}"), "username: app_clear");
    postern.apply(&objects).unwrap();
    until("a password asked for", &|run| {
        !run.status.success() && postern.log().contains("the credential is a certificate")
    });
    assert_lacks(&postern.log(), &[&secret]);
}

/// `clientcert=verify-full` beside a password: the target has both of one credential.
#[test]
pub(crate) fn a_certificate_beside_a_password() {
    let postgres = Postgres::start(PostgresOptions { tls: true, ..Default::default() }).unwrap();
    let password = "with-certificate-4d1f";
    let role = format!("CREATE ROLE {BY_BOTH} LOGIN PASSWORD '{password}'; GRANT app TO {BY_BOTH}");
    postgres.sql("shop", &role).unwrap();
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let connection = postern.connection("db", &postern.token("dora", &["dba"]).unwrap()).unwrap();
    let pem = postgres.client_pem(BY_BOTH).unwrap();
    let stranger = postgres.client_pem("somebody").unwrap();
    let good = format!("password: {password}\n{pem}");
    for (source, works) in [
        (good.clone(), true),
        (pem.clone(), false),
        (good.clone(), true),
        (format!("password: another\n{pem}"), false),
        (good, true),
        (format!("password: {password}\n{stranger}"), false),
    ] {
        let objects = by_certificate(&postgres, &source)
            .replace(&format!("username: {BY_CERTIFICATE}"), &format!("username: {BY_BOTH}"));
        postern.apply(&objects).unwrap();
        let mut last = None;
        let reached = wait_until(std::time::Duration::from_secs(10), "the credential", || {
            let run = connection.run("SELECT client_dn, current_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?;
            let done = run.status.success() == works;
            last = Some(run);
            Ok(done)
        });
        let run = last.unwrap();
        assert!(reached.is_ok(), "{works}: {run:?}\n{}", postern.log());
        assert_eq!(run.stdout, if works { format!("/CN={BY_BOTH}|{BY_BOTH}\n") } else { String::new() });
        assert_lacks(&(run.stderr + &postern.log()), &[password, "PRIVATE KEY-----"]);
    }
}

/// TLS from the first byte on, which servers speak from 17 on: an older one is never asked in clear instead.
#[test]
pub(crate) fn tls_first() {
    let postgres = Postgres::start(PostgresOptions { tls: true, ..Default::default() }).unwrap();
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let connection = postern.connection("db", &postern.token("dora", &["dba"]).unwrap()).unwrap();
    let by_name = format!("localhost:{}", postgres.port());
    let objects = target(&postgres, Role::Scram, &by_name, "mode: verify-full\n    direct: true\n    @CA@");
    postern.apply(&objects).unwrap();
    let works = asked_version() >= Some(17);
    wait_until(std::time::Duration::from_secs(10), "the target", || {
        let run = connection.run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?;
        Ok(if works { run.stdout == "t\n" } else { postern.log().contains("target db: TLS") })
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", postern.log()));
    assert_eq!(connection.run("SELECT 1").unwrap().status.success(), works);
    // Without a mode that demands TLS it would say less than it seems to.
    let prefer = target(&postgres, Role::Scram, &by_name, "mode: prefer\n    direct: true");
    assert_has(&postern.try_apply(&prefer).unwrap().fails().unwrap(), &["spec.tls.mode", "where TLS is direct"]);
}

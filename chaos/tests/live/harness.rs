//! The harness itself: what the other tests stand on.

use postern_chaos::live::{Connection, Postgres, PostgresOptions, Role};

#[test]
fn the_sample_server_takes_each_role_as_it_should() {
    let mut postgres = Postgres::start(PostgresOptions { tls: true, tls_only: false }).unwrap();
    for role in [Role::Scram, Role::Md5, Role::Cleartext] {
        let connection = Connection {
            host: "127.0.0.1".into(),
            port: postgres.port(),
            user: role.name().into(),
            database: "shop".into(),
            password: role.password().into(),
            sslmode: "require",
        };
        assert_eq!(connection.run("SELECT count(*) FROM customers").unwrap().ok().unwrap(), "3\n", "{role:?}");
        let plain = connection.clone().sslmode("disable").run("SELECT 1").unwrap();
        assert_eq!(plain.status.success(), role != Role::Cleartext);
    }
    postgres.stop().unwrap();
    assert!(postgres.sql("shop", "SELECT 1").is_err());
    postgres.resume().unwrap();
    assert_eq!(postgres.sql("shop", "SELECT 1").unwrap(), "1");
    assert!(postgres.log().contains("ready to accept connections"));
}

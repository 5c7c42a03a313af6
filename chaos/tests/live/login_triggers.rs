//! Code of the database's own that runs at each login (event triggers, PostgreSQL 17 on): what it makes of a session's names is what its statements are
//! judged by, not what it made of the gateway's own.

use postern_chaos::live::{Postern, Postgres, asked_version};

use crate::{assert_has, assert_lacks, shop};

/// A second table of the masked one's name, where nothing is masked, and a trigger that does nothing yet.
const BESIDE: &str = "
    CREATE SCHEMA beside;
    CREATE TABLE beside.customers (id integer PRIMARY KEY, email text);
    INSERT INTO beside.customers VALUES (1, 'of nobody');
    GRANT USAGE ON SCHEMA beside TO PUBLIC;
    GRANT ALL ON beside.customers TO PUBLIC;
    CREATE FUNCTION public.at_login() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION public.at_login();";

const COMPUTED: &str = "SELECT email || '!' FROM customers WHERE id = 1";

fn at_login(postgres: &Postgres, body: &str) {
    let body = format!(
        "CREATE OR REPLACE FUNCTION public.at_login() RETURNS event_trigger LANGUAGE plpgsql AS $x$ BEGIN {body} END $x$"
    );
    postgres.sql("shop", &body).unwrap();
}

fn masked(postern: &Postern) -> postern_chaos::live::Connection {
    postern.as_member("dora", &["dba"]).unwrap()
}

/// A name means what it means in this very session, whatever the gateway's own sessions were given.
pub(crate) fn names_are_the_sessions_own() {
    let (postgres, postern) = shop();
    postgres.sql("shop", BESIDE).unwrap();
    // Those that read the catalog see the other table.
    at_login(
        &postgres,
        "IF current_setting('application_name') LIKE 'postern%' THEN SET search_path = beside, public; END IF;",
    );
    let told = masked(&postern).run(COMPUTED).unwrap();
    assert_lacks(&(told.stdout + &told.stderr), &["secret.example"]);
    assert_has(&masked(&postern).run("SHOW search_path").unwrap().ok().unwrap(), &["\"$user\", public"]);

    // The other way round: it is not masked, until the session goes back to the other.
    at_login(
        &postgres,
        "IF current_setting('application_name') NOT LIKE 'postern%' THEN SET search_path = beside; END IF;",
    );
    assert_eq!(masked(&postern).run(COMPUTED).unwrap().ok().unwrap(), "of nobody!\n");
    for back in
        ["RESET search_path", "SET search_path = DEFAULT", "DISCARD ALL", "RESET ALL", "SET search_path = public"]
    {
        let told = masked(&postern).run(&format!("{back};;{COMPUTED}")).unwrap();
        assert_lacks(&(told.stdout + &told.stderr), &["secret.example", "of nobody"]);
    }
    // And to whom everything is granted there is no difference.
    let open = postern.as_member("dora", &["dba", "privacy"]).unwrap();
    assert_eq!(open.run(COMPUTED).unwrap().ok().unwrap(), "of nobody!\n");
}

/// A role or a temporary table that the trigger gave the session is not followed, and nothing is guessed.
pub(crate) fn what_is_not_followed_is_denied() {
    let (postgres, postern) = shop();
    postgres.sql("shop", BESIDE).unwrap();
    at_login(
        &postgres,
        "IF current_setting('application_name') NOT LIKE 'postern%' THEN
             CREATE TEMP TABLE customers AS SELECT id, email FROM public.customers; END IF;",
    );
    let told = masked(&postern).run(COMPUTED).unwrap();
    assert_lacks(&told.stdout, &["secret.example"]);
    assert_has(&told.stderr, &["login trigger"]);
    at_login(&postgres, "");
    let told = masked(&postern).run("SELECT count(*) FROM customers").unwrap().ok().unwrap();
    assert_eq!(told, "3\n", "one that does nothing changes nothing");
    assert!(asked_version() >= Some(17));
}

//! Cancel requests that come to another gateway than the session is at: clients send them without a name, so any may get them.

use std::time::{Duration, Instant};

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::{CANCEL_REQUEST, Wire, framed};
use postern_chaos::live::{Postgres, PostgresOptions};

#[test]
fn a_cancel_request_finds_its_session_over_any_gateway() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let cluster = ClusterOptions { members: 1, ..Default::default() };
    let fleet =
        Fleet::start(&postgres, FleetOptions { cluster, gateways: 2, agents: 1, ..Default::default() }).unwrap();
    let at = |gateway: usize| {
        let connection = fleet.connection(gateway, "shop", "dora", &["dba"]).unwrap();
        (format!("{}:{}", connection.host, connection.port), connection.password)
    };
    let ((one, token), (other, _)) = (at(0), at(1));
    for minor in [0, 2] {
        let mut wire = Wire::connect(&one).unwrap();
        wire.startup_as((3 << 16) | minor, "shop", "shop").unwrap();
        let hello = wire.present(&token).unwrap();
        let key = hello.into_iter().find(|message| message.kind == 'K').unwrap().body;
        let cancel = |key: &[u8]| {
            let mut cancel = Wire::connect(&other).unwrap();
            cancel.send(&framed(&[&CANCEL_REQUEST.to_be_bytes()[..], key].concat()).unwrap()).unwrap();
            assert!(cancel.closes().unwrap());
        };
        wire.message('Q', b"SELECT pg_sleep(60)\0").unwrap();
        wire.stream().set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        // Another's key, of the same gateway.
        let mut wrong = key.clone();
        *wrong.last_mut().unwrap() ^= 1;
        cancel(&wrong);
        assert!(wire.read().is_err(), "it sleeps on");
        let began = Instant::now();
        let answer = loop {
            // Before the target has the query, there is nothing to cancel.
            cancel(&key);
            match wire.read() {
                Ok(answer) if answer.kind == 'E' => break answer,
                _ => assert!(began.elapsed() < Duration::from_secs(30), "{}", fleet.logs()),
            }
        };
        assert_eq!(answer.field('C').as_deref(), Some("57014"), "{answer:?}");
    }
}

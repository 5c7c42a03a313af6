//! A client must not be able to tell a refusal of Postern's from one of the server's, whatever it sends and however it is cut.

use proptest::prelude::*;

use super::model::Model;
use super::rig::{Client, Rig, tags};
use crate::postgres::session::Limits;

const TEXTS: [&str; 11] = [
    "select 3",
    "select 1",
    "select 1/0",
    "begin",
    "commit",
    "rollback",
    "copy t to stdout",
    "",
    "select 'deny'",
    "select 'hold'",
    "insert into t values (1)",
];
const NAMES: [&str; 3] = ["", "a", "b"];

#[derive(Clone, Debug)]
enum Act {
    Query(&'static str),
    Two(&'static str, &'static str),
    Parse(&'static str, &'static str),
    Bind(&'static str, &'static str),
    Describe(bool, &'static str),
    Execute(&'static str, i32),
    Close(bool, &'static str),
    Run(&'static str),
    CopyQuery(bool),
    CopyRun(bool, bool),
    StrayCopy,
    Sync,
    Flush,
}

fn act() -> impl Strategy<Value = Act> {
    let text = || prop::sample::select(&TEXTS[..]);
    let name = || prop::sample::select(&NAMES[..]);
    prop_oneof![
        3 => text().prop_map(Act::Query),
        // Two COPY in one text are refused for what they are.
        1 => (prop::sample::select(&TEXTS[..6]), text()).prop_map(|(a, b)| Act::Two(a, b)),
        3 => (name(), text()).prop_map(|(name, text)| Act::Parse(name, text)),
        4 => (name(), name()).prop_map(|(portal, statement)| Act::Bind(portal, statement)),
        1 => (any::<bool>(), name()).prop_map(|(s, name)| Act::Describe(s, name)),
        4 => (name(), 0..3).prop_map(|(name, rows)| Act::Execute(name, rows)),
        1 => (any::<bool>(), name()).prop_map(|(s, name)| Act::Close(s, name)),
        4 => text().prop_map(Act::Run),
        1 => any::<bool>().prop_map(Act::CopyQuery),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(fails, early)| Act::CopyRun(fails, early)),
        1 => Just(Act::StrayCopy),
        4 => Just(Act::Sync),
        1 => Just(Act::Flush),
    ]
}

fn wire(acts: &[Act]) -> Client {
    let mut client = Client::default();
    for act in acts {
        let kind = |statement: bool| if statement { b'S' } else { b'P' };
        client = match act {
            Act::Query(text) => client.query(text),
            Act::Two(a, b) => client.query(&format!("{a};{b}")),
            Act::Parse(name, text) => client.parse(name, text),
            Act::Bind(portal, statement) => client.bind(portal, statement),
            Act::Describe(statement, name) => client.describe(kind(*statement), name),
            Act::Execute(name, rows) => client.execute(name, *rows),
            Act::Close(statement, name) => client.close(kind(*statement), name),
            Act::Run(text) => client.run(text),
            Act::CopyQuery(fails) => {
                let client = client.query("copy t from stdin").data(b"1\n").data(b"2\n");
                if *fails { client.copy_fail() } else { client.done() }
            }
            Act::CopyRun(fails, early) => {
                let client = client.run("copy t from stdin");
                let client = if *early { client.sync() } else { client };
                let client = client.data(b"1\n").data(b"2\n");
                if *fails { client.copy_fail() } else { client.done() }.sync()
            }
            Act::StrayCopy => client.data(b"9\n").done(),
            Act::Sync => client.sync(),
            Act::Flush => client.flush(),
        };
    }
    client.sync()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn a_refusal_looks_like_the_servers(acts in prop::collection::vec(act(), 1..24), cuts in prop::collection::vec((1_usize..60, 0_usize..80, 0_usize..4), 1..60)) {
        let client = wire(&acts);
        let mut direct = Model::refusing();
        direct.feed(&client.0);
        prop_assume!(!direct.broken);

        let mut rig = Rig::new(Limits { recorded_rows: 2, ..Limits::default() });
        let (mut rest, mut cuts) = (client.0.clone(), cuts.into_iter().cycle());
        let mut idle = 0;
        while idle < 80 {
            let (sent, answered, steps) = cuts.next().unwrap();
            let mut moved = !rest.is_empty();
            rig.from_client.extend_from_slice(&rest.split_to(sent.min(rest.len())));
            for _ in 0..steps {
                moved |= rig.client_step();
            }
            moved |= rig.server_step(answered);
            idle = if moved { 0 } else { idle + 1 };
        }
        rig.run();
        prop_assert_eq!(tags(&rig.to_client), tags(&direct.output), "decided {:?}", rig.decided);
        prop_assert_eq!(&rig.to_client, &direct.output);
        prop_assert!(rig.from_client.is_empty() && rest.is_empty());
        prop_assert!(rig.server.ran.iter().all(|text| !text.contains("deny") && !text.contains("hold")));
        // Every permitted operation is over, or still has a portal; and none twice.
        rig.session.abandon(&mut rig.events);
        let mut over: Vec<_> = rig.completed().iter().map(|completed| completed.operation).collect();
        over.sort();
        prop_assert_eq!(over, rig.permitted.iter().copied().collect::<Vec<_>>());
    }
}

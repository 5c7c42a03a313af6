//! What gateways and agents say to each other, as either end reads it, and what of it is signed.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use bytes::BytesMut;
use postern_core::Timestamp;
use postern_core::recording::Authority;
use postern_core::signed::{self, Purpose};
use postern_protocols::tunnel::{
    self, Drain, GatewayAddress, Gateways, Hello, Load, Open, OpenStatus, Opened, RevokedGateways, SignedRevocations,
    ToAgent, ToControlPlane, ToGateway, Welcome, to_agent, to_gateway,
};
use prost::Message;

use super::Bytes;

pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let (which, said) = (bytes.byte(), bytes.rest());
    match which % 8 {
        0 => all::<Hello>(said, |hello| {
            // Whatever it says: a version that both speak, or none.
            let (least, most) = tunnel::versions();
            if let Some(version) = tunnel::agree(hello.version_min, hello.version) {
                assert!((least..=most).contains(&version) && version <= hello.version);
            }
        }),
        1 => all::<Welcome>(said, |_| ()),
        2 => all::<ToGateway>(said, |_| ()),
        3 => all::<Open>(said, |_| ()),
        4 => all::<Opened>(said, |opened| _ = opened.status()),
        5 => all::<ToControlPlane>(said, |_| ()),
        _ => all::<ToAgent>(said, |told| match told.message {
            Some(to_agent::Message::Gateways(mut list)) => {
                let length = list.gateways.len();
                tunnel::prefer("agent", &mut list.gateways);
                assert_eq!(list.gateways.len(), length);
                assert!(!tunnel::newer(&list, &list), "it is as new as itself");
            }
            Some(to_agent::Message::Revoked(list)) => {
                let now = Timestamp::from_millis(1_800_000_000_000);
                let (purpose, payload, anchor) =
                    (Purpose::RevokedGateways, &list.payload, Authority(&list.certificate));
                let verified = signed::verify(purpose, payload, &list.signature, &list.certificate, anchor, now);
                assert!(verified.is_err(), "nobody has signed this");
            }
            _ => {}
        }),
    }
}

/// One of each, as it is said.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let framed = |which: u8, frame: Result<bytes::Bytes, tunnel::FrameError>| {
        [&[which][..], &frame.expect("short enough")].concat()
    };
    let gateway = GatewayAddress {
        name: "g1".into(),
        quic: vec!["gateway-1.example.com:7433".into()],
        tcp: vec!["192.0.2.1:443".into()],
        draining: true,
    };
    let list = Gateways { term: 3, started: 2, revision: 1, gateways: vec![gateway.clone(), gateway] };
    let serials = RevokedGateways { serials: vec![vec![0x0a, 0xff], vec![1; 16]] };
    let revoked =
        SignedRevocations { payload: serials.encode_to_vec(), signature: vec![7; 64], certificate: vec![0x30; 9] };
    let to_agent = |message| framed(6, tunnel::frame(&ToAgent { message: Some(message) }));
    let to_gateway = |message| framed(2, tunnel::frame(&ToGateway { message: Some(message) }));
    let (agent, pool, release) = ("agent-1".to_owned(), "lab".to_owned(), "0.4.0".to_owned());
    vec![
        framed(0, tunnel::frame(&Hello { version: 2, agent, pool, version_min: 1, release })),
        framed(
            1,
            tunnel::frame(&Welcome { version: 2, gateway: "g1".into(), refused: "full".into(), retry_after_ms: 9 }),
        ),
        to_gateway(to_gateway::Message::Load(Load { open_streams: 3, max_streams: 1024 })),
        to_gateway(to_gateway::Message::Drain(Drain {})),
        framed(
            3,
            tunnel::frame(&Open {
                address: "db:5432".into(),
                target: "shop".into(),
                relayed_for: "g2".into(),
                ..Open::default()
            }),
        ),
        framed(4, tunnel::frame(&Opened { status: OpenStatus::Opening.into(), detail: "x".into() })),
        framed(5, tunnel::frame(&ToControlPlane {})),
        to_agent(to_agent::Message::Gateways(list)),
        to_agent(to_agent::Message::Drain(Drain {})),
        to_agent(to_agent::Message::Revoked(revoked)),
    ]
}

/// Each message that is whole; it can be written again, and means the same then.
fn all<M: Message + Default + Clone + PartialEq + std::fmt::Debug>(said: &[u8], mut heard: impl FnMut(M)) {
    let mut buffer = BytesMut::from(said);
    while let Ok(Some(message)) = tunnel::decode::<M>(&mut buffer) {
        // Close to the limit another way to write it may be too long.
        if let Ok(framed) = tunnel::frame(&message) {
            assert_eq!(tunnel::decode::<M>(&mut BytesMut::from(&*framed)), Ok(Some(message.clone())));
        }
        heard(message);
    }
}

//! What passes through a gateway for another one: ends, breaks and their causes as they were said, and no stream holds up the next.

use std::time::Duration;

use postern_core::node::NodeRole;
use postern_proto::tunnel::v1::{Hello, Open, OpenStatus, Opened, RelayOpen, RelayStatus, Welcome};
use postern_protocols::tunnel::{self, MAX_MESSAGE};
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf, StreamFault, cause, wire};
use quinn::Endpoint;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::house::{House, spawn};
use crate::relay::{ask, dial, directory, gateway, greet, hello, house, node, until};

const LIMIT: Duration = Duration::from_secs(30);

/// Both ends are played, the gateway in the middle is real: the other gateway's link, and the streams as the agent has them.
struct Passage {
    house: House,
    link: Link,
    streams: mpsc::Receiver<(SendHalf, RecvHalf)>,
    _kept: (Endpoint, (SendHalf, RecvHalf)),
}

impl Passage {
    async fn new() -> Self {
        let house = house().await;
        let (endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Agent, "a1")).await;
        let (mut send, mut recv) = link.open().await.unwrap();
        let greeting = Hello { version: 2, agent: "a1".into(), pool: "lab".into(), version_min: 1, ..Hello::default() };
        wire::write(&mut send, tunnel::frame(&greeting)).await.unwrap();
        let _: Welcome = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
        let (to, streams) = mpsc::channel(64);
        spawn(async move {
            let _kept = (endpoint, send, recv);
            while let Ok((mut send, mut recv)) = link.accept().await {
                let open: Open = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
                // The gateway's own way to the catalogue is none of this test's.
                let status = if open.relayed_for.is_empty() { OpenStatus::Failed } else { OpenStatus::Connected };
                for status in [OpenStatus::Opening, status] {
                    let opened = Opened { status: status.into(), detail: String::new() };
                    let _ = wire::write(&mut send, tunnel::frame(&opened)).await;
                }
                if status == OpenStatus::Connected {
                    let _ = to.send((send, recv)).await;
                }
            }
        });
        until("the tunnel", async || (house.gateway.tunnel_count() == 1).then_some(())).await;
        house.control.fleet.send_replace(Some(directory(1, vec![gateway("good", "127.0.0.1:9", None)])));
        let (endpoint, link) = dial(&house, &node(&house.authority, NodeRole::Gateway, "good")).await;
        let (welcome, control) = greet(&link, hello("good", 1, 1)).await;
        assert_eq!(welcome.refused, "");
        let mut this = Self { house, link, streams, _kept: (endpoint, control) };
        until("the directory", async || {
            (ask(&this.link, &this.request()).await.0.status() == RelayStatus::Connected).then_some(())
        })
        .await;
        this.streams.recv().await.unwrap();
        this
    }

    fn request(&self) -> RelayOpen {
        let address = format!("127.0.0.1:{}", self.house.target.port);
        let open = Open { address, target: "db".into(), connect_timeout_ms: 5_000, ..Open::default() };
        RelayOpen { pool: "lab".into(), open: Some(open), cancel: None }
    }

    /// A stream, as the other gateway has it and as the agent has it.
    async fn open(&mut self) -> ((SendHalf, RecvHalf), (SendHalf, RecvHalf)) {
        let (answer, send, recv) = ask(&self.link, &self.request()).await;
        assert_eq!(answer.status(), RelayStatus::Connected, "{answer:?}");
        ((send, recv), self.streams.recv().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_and_breaks_pass_through_with_their_causes() {
    let mut passage = Passage::new().await;
    let within = async |what: &str, act: &mut (dyn Future<Output = ()> + Unpin)| {
        tokio::time::timeout(LIMIT, act).await.unwrap_or_else(|_| panic!("{what} hangs"));
    };
    // A direction ends, the other one goes on to its own end.
    let ((mut send, mut recv), (mut to_gateway, mut from_gateway)) = passage.open().await;
    let half = async {
        send.write_all(b"question").await.unwrap();
        send.finish().unwrap();
        let mut all = Vec::new();
        from_gateway.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"question");
        to_gateway.write_all(b"answer").await.unwrap();
        to_gateway.finish().unwrap();
        let mut all = Vec::new();
        recv.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"answer");
    };
    within("a half-close", &mut Box::pin(half)).await;

    // Broken off by either, and by either kind of break, with the cause that was said.
    for why in [cause::BROKEN, cause::STOPPING, cause::LIMIT] {
        let ((mut send, mut recv), (mut to_gateway, mut from_gateway)) = passage.open().await;
        let breaks = async {
            to_gateway.reset(why);
            let fault = recv.read_u8().await.unwrap_err();
            assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(why)), "the target's reset");
            send.reset(why);
            let fault = from_gateway.read_u8().await.unwrap_err();
            assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(why)), "the client's reset");
        };
        within("a reset", &mut Box::pin(breaks)).await;
        let ((send, mut recv), (to_gateway, mut from_gateway)) = passage.open().await;
        let stops = async {
            recv.stop(why);
            assert_eq!(to_gateway.stopped().await.unwrap(), Some(why), "the client reads no more");
            from_gateway.stop(why);
            assert_eq!(send.stopped().await.unwrap(), Some(why), "the target reads no more");
        };
        within("a stop", &mut Box::pin(stops)).await;
    }
}

/// A client that does not read holds up its own target, with bounded memory in between; another one on the same two links runs at full
/// length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    const MUCH: usize = 24 << 20;
    let mut passage = Passage::new().await;
    let ((_slow_send, slow_recv), (mut slow, _)) = passage.open().await;
    let mut stalled_at = 0_usize;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), slow.write(&[0; 64 << 10])).await {
        stalled_at += written.unwrap();
        assert!(stalled_at < 16 << 20, "it is never held up");
    }
    let ((_send, mut recv), (mut fast, _)) = passage.open().await;
    let sending = async {
        for _ in 0..MUCH / (64 << 10) {
            fast.write_all(&[1; 64 << 10]).await.unwrap();
        }
        fast.finish().unwrap();
    };
    let reading = async {
        let mut all = Vec::new();
        recv.read_to_end(&mut all).await.unwrap();
        all.len()
    };
    let ((), all) = tokio::time::timeout(LIMIT, async { tokio::join!(sending, reading) }).await.unwrap();
    assert_eq!(all, MUCH);
    drop(slow_recv);
}

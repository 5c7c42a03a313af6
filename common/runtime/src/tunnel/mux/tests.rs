//! The multiplexer against itself, over a pipe.

use tokio::io::ReadBuf;

use super::state::SEND_BUFFER;
use super::*;
use crate::tunnel::{STREAM_WINDOW, StreamFault};

const LIMIT: Duration = Duration::from_secs(20);

fn pair(limits: MuxLimits) -> (Mux, Mux) {
    let (one, other) = tokio::io::duplex(32 << 10);
    let remote = "127.0.0.1:1".parse().unwrap();
    let (dialer, driver) = Mux::new(one, Side::Dialer, remote, limits);
    let (listener, other_driver) = Mux::new(other, Side::Listener, remote, limits);
    let supervisor = crate::supervisor::Supervisor::new();
    supervisor.spawn("dialer", crate::supervisor::OnEnd::EndPart, driver);
    supervisor.spawn("listener", crate::supervisor::OnEnd::EndPart, other_driver);
    (dialer, listener)
}

const SOME: MuxLimits = MuxLimits { incoming: 8, outgoing: 8 };

struct Io(MuxSend, MuxRecv);

impl Io {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let size = std::future::poll_fn(|cx| self.0.poll_write(cx, left)).await?;
            left = &left[size..];
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 16 << 10];
        let mut buffer = ReadBuf::new(&mut bytes);
        std::future::poll_fn(|cx| self.1.poll_read(cx, &mut buffer)).await?;
        Ok(buffer.filled().to_vec())
    }

    async fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let some = self.read().await?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some);
        }
    }
}

async fn connect(dialer: &Mux, listener: &Mux) -> (Io, Io) {
    let (send, recv) = dialer.open().unwrap();
    let mut ours = Io(send, recv);
    ours.write(b"!").await.unwrap();
    let (send, recv) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut theirs = Io(send, recv);
    assert_eq!(theirs.read().await.unwrap(), b"!");
    (ours, theirs)
}

fn nothing_left(mux: &Mux) -> bool {
    mux.0.lock().streams.is_empty()
}

#[tokio::test]
async fn bytes_pass_and_half_closes_are_told() {
    let (dialer, listener) = pair(SOME);
    let (mut ours, mut theirs) = connect(&dialer, &listener).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let asked = async {
        ours.write(&sent).await.unwrap();
        ours.0.finish().unwrap();
        ours.read_to_end().await.unwrap()
    };
    let served = async {
        let all = theirs.read_to_end().await.unwrap();
        theirs.write(&all).await.unwrap();
        theirs.0.finish().unwrap();
        assert_eq!(theirs.0.stopped().await.unwrap(), None);
    };
    let (back, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(asked, served) }).await.unwrap();
    assert!(back == sent);
    drop((ours, theirs));
    tokio::time::timeout(LIMIT, async {
        while !nothing_left(&dialer) || !nothing_left(&listener) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn resets_and_stops_carry_their_cause() {
    let (dialer, listener) = pair(SOME);
    let (mut ours, mut theirs) = connect(&dialer, &listener).await;
    ours.0.reset(7);
    let fault = tokio::time::timeout(LIMIT, theirs.read()).await.unwrap().unwrap_err();
    assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(7)));
    // The other direction lives.
    theirs.write(b"still here").await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, ours.read()).await.unwrap().unwrap(), b"still here");
    ours.1.stop(9);
    let stopped = tokio::time::timeout(LIMIT, theirs.0.stopped()).await.unwrap().unwrap();
    assert_eq!(stopped, Some(9));
    let fault = theirs.write(b"x").await.unwrap_err();
    assert_eq!(StreamFault::of(&fault), Some(StreamFault::Stopped(9)));
}

/// One stream is not read: it fills its own windows, and another goes on at full length.
#[tokio::test]
async fn a_stalled_stream_holds_up_nobody_and_no_more_than_its_windows() {
    let (dialer, listener) = pair(SOME);
    let (mut stalled, _unread) = connect(&dialer, &listener).await;
    let (mut ours, mut theirs) = connect(&dialer, &listener).await;
    let filling = async {
        let mut filled = 0_usize;
        loop {
            stalled.write(&[0; 1024]).await.unwrap();
            filled += 1024;
            assert!(filled <= usize::try_from(STREAM_WINDOW).unwrap() + SEND_BUFFER + (64 << 10), "unbounded");
        }
    };
    let going = async {
        let sending = async {
            for _ in 0..200 {
                ours.write(&[1; 64 << 10]).await.unwrap();
            }
            ours.0.finish().unwrap();
        };
        let (all, ()) = tokio::join!(theirs.read_to_end(), sending);
        assert_eq!(all.unwrap().len(), 200 * (64 << 10));
    };
    tokio::time::timeout(LIMIT, async {
        tokio::select! {
            () = going => {}
            () = filling => {}
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn more_streams_than_allowed_are_reset_and_the_link_lives() {
    let (dialer, listener) = pair(MuxLimits { incoming: 2, outgoing: 8 });
    let (_a, _b) = connect(&dialer, &listener).await;
    let (_c, _d) = connect(&dialer, &listener).await;
    let (send, recv) = dialer.open().unwrap();
    let mut third = Io(send, recv);
    third.write(b"!").await.unwrap();
    let fault = tokio::time::timeout(LIMIT, third.read()).await.unwrap().unwrap_err();
    assert_eq!(StreamFault::of(&fault), Some(StreamFault::Reset(cause::LIMIT)));
    drop((_a, _b));
    tokio::time::timeout(LIMIT, async {
        while listener.0.lock().streams.len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    connect(&dialer, &listener).await;
}

/// A peer that cheats: the link ends with a clear word, and nothing grows.
#[tokio::test]
async fn a_peer_that_cheats_loses_the_link() {
    let window = usize::try_from(STREAM_WINDOW).unwrap();
    let mut past_window = Vec::new();
    for _ in 0..=window / (16 << 10) {
        past_window.push((0, Frame::Data(BytesMut::zeroed(16 << 10))));
    }
    let mut flood = Vec::new();
    for n in 0..2000 {
        flood.push((n * 2, Frame::Open));
    }
    let cases: Vec<(Vec<(u32, Frame)>, &str)> = vec![
        (vec![(5, Frame::Data(BytesMut::from(&b"x"[..])))], "not open"),
        (vec![(0, Frame::Open), (0, Frame::Open)], "not open"),
        (vec![(1, Frame::Open)], "not open"),
        ([vec![(0, Frame::Open)], past_window].concat(), "than were granted"),
        (vec![(0, Frame::Open), (0, Frame::Credit(u32::MAX))], "than were granted"),
        (vec![(0, Frame::Open), (0, Frame::Fin), (0, Frame::Data(BytesMut::zeroed(1)))], "after its end"),
        (flood, "flood"),
    ];
    for (frames, expected) in cases {
        let (mut cheat, other) = tokio::io::duplex(4 << 20);
        let (mux, driver) = Mux::new(other, Side::Listener, "127.0.0.1:1".parse().unwrap(), SOME);
        let mut wire = BytesMut::new();
        frames.iter().for_each(|(stream, frame)| frame.encode(*stream, &mut wire));
        cheat.write_all(&wire).await.unwrap();
        let ((), why) = tokio::time::timeout(LIMIT, async { tokio::join!(driver, mux.closed()) }).await.unwrap();
        assert!(why.0.contains(expected), "{why}: expected {expected}");
    }
}

#[tokio::test]
async fn a_frame_of_a_later_version_is_skipped() {
    let (mut peer, other) = tokio::io::duplex(1 << 20);
    let (mux, driver) = Mux::new(other, Side::Listener, "127.0.0.1:1".parse().unwrap(), SOME);
    let mut wire = BytesMut::new();
    Frame::Unknown(99).encode(0, &mut wire);
    Frame::Open.encode(0, &mut wire);
    Frame::Close(4, "done".into()).encode(0, &mut wire);
    peer.write_all(&wire).await.unwrap();
    tokio::time::timeout(LIMIT, driver).await.unwrap();
    assert_eq!(mux.0.lock().unknown, 1);
    assert!(mux.closed().await.0.contains("done"));
}

/// Who finds a stream broken may ask at once why the link is: the last words to a peer that does not read are still under way then.
#[tokio::test]
async fn why_it_ended_is_known_when_streams_break() {
    use futures::FutureExt as _;

    // Has room for little, and is not read.
    let (mut peer, other) = tokio::io::duplex(16);
    let (mux, driver) = Mux::new(other, Side::Listener, "127.0.0.1:1".parse().unwrap(), SOME);
    let mut driver = Box::pin(driver);
    let (_send, mut recv) = mux.open().unwrap();
    let cheat = async {
        let mut wire = BytesMut::new();
        Frame::Credit(1).encode(77, &mut wire);
        peer.write_all(&wire).await.unwrap();
        let read = std::future::poll_fn(|cx| recv.poll_read(cx, &mut tokio::io::ReadBuf::new(&mut [0; 8]))).await;
        assert!(read.is_err());
    };
    tokio::select! {
        () = cheat => {}
        () = &mut driver => panic!("its last words were read by nobody"),
    }
    assert!(mux.closed().now_or_never().unwrap().0.contains("not open"));
}

#[tokio::test]
async fn a_silent_peer_is_found() {
    let (_peer, other) = tokio::io::duplex(1 << 20);
    let (mux, unused) = Mux::new(tokio::io::empty(), Side::Dialer, "127.0.0.1:1".parse().unwrap(), SOME);
    let pulse = Pulse { every: Duration::from_millis(10), silence: Duration::from_millis(100) };
    tokio::time::timeout(LIMIT, drive(other, Ended(Arc::clone(&mux.0)), pulse)).await.unwrap();
    drop(unused);
    assert!(mux.closed().await.0.contains("nothing was heard"));
    assert!(mux.open().is_err());
}

#[tokio::test]
async fn the_round_trip_is_measured() {
    let (dialer, listener) = pair(SOME);
    connect(&dialer, &listener).await;
    tokio::time::timeout(LIMIT, async {
        while dialer.stats().rtt.is_zero() || listener.stats().rtt.is_zero() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(dialer.stats().sent > 0 && dialer.stats().received > 0);
}

/// Whatever frames come, in whatever order: no panic, and nothing grows past the limits.
#[test]
fn any_frames_are_survived() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut state = State::new(Side::Listener, 4, 4);
        let _ = state.open();
        for _ in 0..500 {
            let frame = match rng.u8(0..11) {
                0 | 1 => Frame::Open,
                2 | 3 => Frame::Data(BytesMut::zeroed(rng.usize(0..16 << 10))),
                4 => Frame::Fin,
                5 => Frame::Reset(rng.u32(..)),
                6 => Frame::Stop(rng.u32(..)),
                7 => Frame::Credit(rng.u32(0..1000)),
                8 => Frame::Ping(rng.u64(..)),
                9 => Frame::Pong(rng.u64(..)),
                _ => Frame::Unknown(rng.u8(10..)),
            };
            if state.receive(rng.u32(0..12), frame).is_err() {
                // A real link would have ended.
                state = State::new(Side::Listener, 4, 4);
            }
            let mut out = BytesMut::new();
            state.produce(&mut out, rng.usize(0..4096));
            assert!(state.streams.len() <= 8);
            let held: usize = state.streams.values().map(|stream| stream.recv.buffer.len()).sum();
            assert!(held <= 8 * usize::try_from(STREAM_WINDOW).unwrap());
        }
    }
}

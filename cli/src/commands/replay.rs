//! `postern sessions replay`.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postern_core::recording::{Entry, Event};
use postern_core::{SessionId, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::sessions::{Source, Stop, authority, show};
use crate::args::{ConnectionArgs, Format};
use crate::failure::Failure;
use crate::output;
use crate::recording::{Effect, EntryReader, Frame, Key, Player, Replay, Speed, asciicast};
use crate::session_args::ReplayArgs;

/// Between looks at keys and signals while nothing is due.
const TICK: Duration = Duration::from_millis(100);
/// What a player holds of a recording, in bytes of text.
const MAX_HELD: usize = 512 << 20;
/// Frames that are shown again after a step back.
const SHOWN_AGAIN: usize = 200;

pub(crate) async fn run(args: &ReplayArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    if args.follow {
        return super::follow::run(&args.recording, args.output.format, connection).await;
    }
    if args.asciicast {
        return cast(args, connection).await;
    }
    if let Some(speed) = args.speed {
        return play(args, speed, connection).await;
    }
    let mut replay = Replay::new(output::color());
    read(&args.recording, connection, |entry| show(&mut replay, &entry, args.output.format)).await
}

/// Hands over the entries of a recording, a session's or a file's; what is wrong with it ends that, and what is not certain is noted.
async fn read(
    recording: &str,
    connection: &ConnectionArgs,
    mut take: impl FnMut(Entry) -> Result<(), Stop>,
) -> Result<(), Failure> {
    let mut source = Source::open(recording, connection).await?;
    // Somebody else's file may be looked at without the cluster that it is of.
    let authority = match (&source, authority(connection)) {
        (Source::File(_), authority) => authority.ok(),
        (Source::Remote(_), authority) => Some(authority?),
    };
    let mut reader = EntryReader::new(recording.parse().ok(), authority.as_deref());
    while let Some(piece) = source.next().await? {
        reader.push(&piece, &mut take)?;
    }
    if !reader.ends_well() {
        return Err(Failure::failed("the recording ends in the middle of an event"));
    }
    match authority {
        _ if reader.sealed() => {}
        Some(_) => output::note("no seal: the session is still open, or the recording's end is missing"),
        None => output::note("the seal was not checked: give --ca, the cluster's certificate authority"),
    }
    Ok(())
}

/// Turns entries into what they show and when.
struct Frames {
    replay: Replay,
    began: Option<(SessionId, Timestamp)>,
}

impl Frames {
    fn new(color: bool) -> Self {
        Self { replay: Replay::new(color), began: None }
    }

    fn entry(&mut self, entry: &Entry) -> Option<Frame> {
        if let Event::Started(started) = &entry.event {
            self.began = Some((started.session, entry.at));
        }
        let begin = self.began.map_or(entry.at, |(_, at)| at);
        let text = self.replay.entry(entry);
        (!text.is_empty()).then(|| Frame { at: entry.at.since(begin), text })
    }
}

/// Prints it as an asciicast.
async fn cast(args: &ReplayArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let mut frames = Frames::new(true);
    read(&args.recording, connection, |entry| {
        let frame = frames.entry(&entry);
        if let (Event::Started(started), Some((session, at))) = (&entry.event, frames.began) {
            let title = format!("{session}: {} on {}", started.principal, started.target);
            output::line(asciicast::header(at, &output::printable(&title), args.idle))?;
        }
        Ok(frame.map_or(Ok(()), |frame| output::line(asciicast::frame(frame.at, &frame.text)))?)
    })
    .await
}

/// Plays it at a pace. All of it is read, and checked, before any of it is shown.
async fn play(args: &ReplayArgs, speed: Speed, connection: &ConnectionArgs) -> Result<(), Failure> {
    if args.output.format.is_some_and(|format| format != Format::Table) {
        return Err(Failure::usage("--speed plays text: it does not go with -o"));
    }
    let (mut frames, mut all, mut held) = (Frames::new(output::color()), Vec::new(), 0_usize);
    read(&args.recording, connection, |entry| {
        if let Some(frame) = frames.entry(&entry) {
            held = held.saturating_add(frame.text.len());
            all.push(frame);
        }
        if held > MAX_HELD {
            return Err(Failure::failed("the recording is too long to be played: save it with --asciicast").into());
        }
        Ok(())
    })
    .await?;
    let search = args.search.clone().unwrap_or_default();
    let mut player = Player::new(all, speed, args.idle, &search);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let (told, from) = (Arc::clone(&stop), args.from);
    let playing = tokio::task::spawn_blocking(move || {
        if let Some(from) = from {
            let before = player.forward_to(from);
            print(&player, before)?;
        }
        if !search.is_empty() {
            match player.next_match() {
                Some(before) => print(&player, before)?,
                None => return Err(Failure::failed("nothing in the recording has that text")),
            }
        }
        // Dropped at whatever end: the terminal is as it was.
        let keys = Keys::new();
        run_player(&mut player, keys.as_ref(), &told)
    });
    tokio::pin!(playing);
    let ended = tokio::select! {
        ended = &mut playing => ended,
        _ = terminated.recv() => { stop.store(true, Ordering::Relaxed); playing.await }
        _ = hung_up.recv() => { stop.store(true, Ordering::Relaxed); playing.await }
    };
    ended.map_err(|error| Failure::failed(error.to_string()))?
}

fn print(player: &Player, frames: std::ops::Range<usize>) -> Result<(), Failure> {
    let text: String = player.text(frames).collect();
    output::raw(text.as_bytes())
}

fn run_player(player: &mut Player, keys: Option<&Keys>, stop: &AtomicBool) -> Result<(), Failure> {
    let mut last = Instant::now();
    loop {
        let now = Instant::now();
        let due = player.pass(now.saturating_duration_since(last));
        last = now;
        print(player, due)?;
        if player.is_over() || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let wait = player.wait().unwrap_or(TICK).min(TICK);
        let Some(keys) = keys else {
            std::thread::park_timeout(wait);
            continue;
        };
        for key in keys.read(wait)? {
            match player.press(key) {
                Effect::Nothing => {}
                Effect::Show(frames) => print(player, frames)?,
                Effect::Redraw(next) => {
                    output::raw(b"\x1b[2J\x1b[H")?;
                    print(player, next.saturating_sub(SHOWN_AGAIN)..next)?;
                }
                Effect::Quit => return Ok(()),
            }
        }
    }
}

/// The keyboard, key by key. Dropping it gives the terminal back as it was.
struct Keys {
    before: Termios,
}

impl Keys {
    /// None where there is no terminal on both sides.
    fn new() -> Option<Self> {
        let (input, out) = (std::io::stdin(), std::io::stdout());
        if !isatty(&input) || !isatty(&out) {
            return None;
        }
        let before = tcgetattr(&input).ok()?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(&input, OptionalActions::Now, &raw).ok()?;
        output::note("space: pause; + and -: speed; right and left: 10 s; n: next match; q: quit");
        Some(Self { before })
    }

    /// What was pressed, after `wait` at most.
    fn read(&self, wait: Duration) -> Result<Vec<Key>, Failure> {
        let input = std::io::stdin();
        let input = input.as_fd();
        let limit = Timespec::try_from(wait).map_err(|error| Failure::failed(error.to_string()))?;
        let mut ready = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut ready, Some(&limit)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(Failure::failed(error.to_string())),
        }
        let mut bytes = [0; 64];
        match rustix::io::read(input, &mut bytes) {
            Ok(0) => Ok(vec![Key::Quit]),
            Ok(read) => Ok(pressed(bytes.get(..read).unwrap_or_default())),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(Failure::failed(error.to_string())),
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // It may be gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The keys that a terminal says were pressed; arrows as of ECMA-48, cursor forward and backward.
fn pressed(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    loop {
        let key = match bytes {
            [] => return keys,
            [0x1b, b'[' | b'O', arrow, rest @ ..] => {
                bytes = rest;
                match arrow {
                    b'C' => Some(Key::Forward),
                    b'D' => Some(Key::Back),
                    _ => None,
                }
            }
            [key, rest @ ..] => {
                bytes = rest;
                match key {
                    b' ' => Some(Key::Pause),
                    b'+' | b'=' => Some(Key::Faster),
                    b'-' => Some(Key::Slower),
                    b'n' => Some(Key::NextMatch),
                    // Control-C too: no signal is made of it meanwhile.
                    b'q' | 0x03 => Some(Key::Quit),
                    _ => None,
                }
            }
        };
        keys.extend(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_arrows_are_known_and_others_passed_over() {
        let all = pressed(b" +=-nq\x03\x1b[C\x1b[D\x1bOC\x1b[Azx\x1b");
        let expected = [
            Key::Pause,
            Key::Faster,
            Key::Faster,
            Key::Slower,
            Key::NextMatch,
            Key::Quit,
            Key::Quit,
            Key::Forward,
            Key::Back,
            Key::Forward,
        ];
        assert_eq!(all, expected);
    }
}

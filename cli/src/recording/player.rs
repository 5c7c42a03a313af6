//! Plays what a recording shows at the pace at which it happened: a state machine, without clock or terminal.

use std::ops::Range;
use std::time::Duration;

/// Text that appears at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Since the recording's beginning.
    pub(crate) at: Duration,
    pub(crate) text: String,
}

/// How fast, in hundredths of the pace at which it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Speed(u32);

impl Speed {
    const SLOWEST: u32 = 1;
    const FASTEST: u32 = 100_000;

    /// From what people write: `0.5`, `2`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is no speed: 0.01 to 1000");
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && part.is_empty()) || !digits(whole) || !digits(part) || part.len() > 2 {
            return Err(wrong());
        }
        let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
        let part: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
        let speed = whole.checked_mul(100).and_then(|whole| whole.checked_add(part)).ok_or_else(wrong)?;
        if (Self::SLOWEST..=Self::FASTEST).contains(&speed) { Ok(Self(speed)) } else { Err(wrong()) }
    }

    fn faster(self) -> Self {
        Self(self.0.saturating_mul(2).min(Self::FASTEST))
    }

    fn slower(self) -> Self {
        Self((self.0 / 2).max(Self::SLOWEST))
    }

    /// How far the recording goes in a time.
    fn of(self, time: Duration) -> Duration {
        time.saturating_mul(self.0) / 100
    }

    /// How long a part of the recording takes.
    fn takes(self, part: Duration) -> Duration {
        part.saturating_mul(100).checked_div(self.0).unwrap_or(part)
    }
}

/// What who watches asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Pause,
    Faster,
    Slower,
    Forward,
    Back,
    NextMatch,
    Quit,
}

/// What there is to do after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    /// These frames come at once.
    Show(Range<usize>),
    /// All that was shown goes, and what comes before this frame is shown.
    Redraw(usize),
    Quit,
}

/// How far a key skips.
const SKIP: Duration = Duration::from_secs(10);

/// Where a recording is while it is played.
#[derive(Debug)]
pub(crate) struct Player {
    frames: Vec<Frame>,
    /// The first that is not shown yet.
    next: usize,
    /// In the recording.
    at: Duration,
    speed: Speed,
    paused: bool,
    /// In small letters; empty: nothing is looked for.
    search: String,
}

impl Player {
    /// Of frames in their order. Where nothing happens for longer than `idle`, that is how long it takes.
    pub(crate) fn new(mut frames: Vec<Frame>, speed: Speed, idle: Option<Duration>, search: &str) -> Self {
        let (mut before, mut shown) = (Duration::ZERO, Duration::ZERO);
        for frame in &mut frames {
            let gap = frame.at.saturating_sub(before);
            before = before.max(frame.at);
            shown = shown.saturating_add(idle.map_or(gap, |idle| gap.min(idle)));
            frame.at = shown;
        }
        Self { frames, next: 0, at: Duration::ZERO, speed, paused: false, search: search.to_lowercase() }
    }

    pub(crate) fn text(&self, frames: Range<usize>) -> impl Iterator<Item = &str> {
        self.frames.get(frames).unwrap_or_default().iter().map(|frame| frame.text.as_str())
    }

    /// So much time has passed; the frames that are due.
    pub(crate) fn pass(&mut self, time: Duration) -> Range<usize> {
        if self.paused {
            return self.next..self.next;
        }
        self.go(self.at.saturating_add(self.speed.of(time)))
    }

    /// How long until the next frame; none while it is paused, and at the end.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let next = self.frames.get(self.next).filter(|_| !self.paused)?;
        Some(self.speed.takes(next.at.saturating_sub(self.at)))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.next >= self.frames.len()
    }

    /// To another moment: what lies before it comes at once.
    pub(crate) fn forward_to(&mut self, at: Duration) -> Range<usize> {
        self.go(self.at.max(at))
    }

    /// To the next frame with what is looked for; none: there is no more.
    pub(crate) fn next_match(&mut self) -> Option<Range<usize>> {
        if self.search.is_empty() {
            return None;
        }
        let rest = self.frames.get(self.next..)?;
        let found = rest.iter().position(|frame| frame.text.to_lowercase().contains(&self.search))?;
        let at = rest.get(found)?.at;
        let begin = self.next;
        self.at = self.at.max(at);
        // Of several of one moment not those behind it.
        self.next = begin.saturating_add(found).saturating_add(1);
        Some(begin..self.next)
    }

    pub(crate) fn press(&mut self, key: Key) -> Effect {
        match key {
            Key::Pause => self.paused = !self.paused,
            Key::Faster => self.speed = self.speed.faster(),
            Key::Slower => self.speed = self.speed.slower(),
            Key::Forward => return Effect::Show(self.go(self.at.saturating_add(SKIP))),
            Key::NextMatch => return self.next_match().map_or(Effect::Nothing, Effect::Show),
            Key::Quit => return Effect::Quit,
            Key::Back => {
                self.at = self.at.saturating_sub(SKIP);
                self.next = self.frames.partition_point(|frame| frame.at <= self.at);
                return Effect::Redraw(self.next);
            }
        }
        Effect::Nothing
    }

    fn go(&mut self, to: Duration) -> Range<usize> {
        let begin = self.next;
        self.at = to;
        self.next = self.frames.partition_point(|frame| frame.at <= to).max(begin);
        begin..self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn player(at: &[u64], speed: &str, idle: Option<u64>) -> Player {
        let frame = |at: &u64| Frame { at: secs(*at), text: format!("Select {at}") };
        let speed = Speed::parse(speed).unwrap();
        Player::new(at.iter().map(frame).collect(), speed, idle.map(secs), "SELECT 3")
    }

    #[test]
    fn frames_come_when_they_are_due() {
        let mut player = player(&[0, 1, 4, 4, 9], "2", None);
        assert_eq!(player.wait(), Some(Duration::ZERO));
        assert_eq!(player.pass(Duration::ZERO), 0..1);
        assert_eq!(player.wait(), Some(Duration::from_millis(500)));
        assert_eq!(player.pass(Duration::from_millis(499)), 1..1);
        assert_eq!(player.pass(Duration::from_millis(1)), 1..2);
        assert_eq!(player.pass(secs(2)), 2..4);
        assert!(!player.is_over());
        assert_eq!(player.pass(secs(2)), 4..5);
        assert_eq!((player.is_over(), player.wait()), (true, None));
        assert_eq!(player.text(0..2).collect::<Vec<_>>(), ["Select 0", "Select 1"]);
    }

    #[test]
    fn long_silence_is_made_short_and_clocks_that_go_back_do_no_harm() {
        let mut player = player(&[2, 100, 90, 101], "1", Some(5));
        assert_eq!(player.pass(secs(2)), 0..1);
        assert_eq!(player.wait(), Some(secs(5)));
        assert_eq!(player.pass(secs(5)), 1..3);
        assert_eq!(player.wait(), Some(secs(1)));
    }

    #[test]
    fn keys_do_what_they_say() {
        let mut player = player(&[0, 1, 11, 30, 31, 300], "1", None);
        player.pass(Duration::ZERO);
        assert_eq!(player.press(Key::Pause), Effect::Nothing);
        assert_eq!((player.wait(), player.pass(secs(60))), (None, 1..1));
        player.press(Key::Pause);
        player.press(Key::Faster);
        assert_eq!(player.wait(), Some(Duration::from_millis(500)));
        player.press(Key::Slower);
        player.press(Key::Slower);
        assert_eq!(player.wait(), Some(secs(2)));
        assert_eq!(player.press(Key::Forward), Effect::Show(1..2));
        assert_eq!(player.press(Key::NextMatch), Effect::Show(2..4));
        // Another after it, and then no more.
        assert_eq!(player.press(Key::NextMatch), Effect::Show(4..5));
        assert_eq!(player.press(Key::NextMatch), Effect::Show(5..6));
        assert_eq!(player.press(Key::NextMatch), Effect::Nothing);
        assert_eq!(player.press(Key::Back), Effect::Redraw(5));
        for _ in 0..40 {
            player.press(Key::Back);
        }
        assert_eq!(player.press(Key::Back), Effect::Redraw(1));
        assert_eq!(player.press(Key::Quit), Effect::Quit);
    }

    #[test]
    fn a_seek_shows_what_lies_before() {
        let mut player = player(&[0, 1, 11, 30], "1", None);
        assert_eq!(player.forward_to(secs(11)), 0..3);
        assert_eq!(player.forward_to(secs(5)), 3..3);
        assert_eq!(player.wait(), Some(secs(19)));
        let mut endless = Player::new(Vec::new(), Speed(1), None, "");
        assert_eq!(
            (endless.pass(Duration::MAX), endless.is_over(), endless.press(Key::Back)),
            (0..0, true, Effect::Redraw(0))
        );
    }

    #[test]
    fn speeds_are_read_as_people_write_them() {
        for (text, speed) in [("1", 100), ("0.5", 50), (".25", 25), ("2.", 200), ("1000", 100_000), ("0.01", 1)] {
            assert_eq!(Speed::parse(text), Ok(Speed(speed)), "{text}");
        }
        for wrong in ["", ".", "0", "0.001", "-1", "1001", "fast", "1e3", "99999999999"] {
            assert!(Speed::parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! How far the file goes, and how old it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_core::Timestamp;
use postern_proto::gateway::v1::KeptMark;
use postern_runtime::clock;
use postern_runtime::pki::write_private;
use prost::Message as _;

use super::seal::{FileId, Root};
use super::{KeepError, Refused, file_id};

const MAGIC: &[u8; 8] = b"PSTNMRK1";
const PURPOSE: &[u8] = b"mark";
/// A mark is small.
const MAX: u64 = 4 << 10;
/// Clocks are set by so much in good order.
const TOLERANCE: Duration = Duration::from_secs(5);

/// The machine's boot, and for how long it has been up, suspended time included: a clock that nobody sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) id: String,
    pub(super) uptime: Duration,
}

/// What [`KeptMark`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) file: FileId,
    pub(super) records: u64,
    pub(super) confirmed: Timestamp,
    pub(super) seen: Timestamp,
    /// At `confirmed`.
    pub(super) boot: Boot,
}

impl Boot {
    /// Now; empty where the system does not tell.
    pub(super) fn now() -> Self {
        let read = |path| fs::read_to_string(path).ok();
        let id = read("/proc/sys/kernel/random/boot_id");
        let uptime = read("/proc/uptime").and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        match (id, uptime.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())) {
            (Some(id), Some(uptime)) => Self { id: id.trim().to_owned(), uptime },
            _ => Self::default(),
        }
    }
}

impl Mark {
    /// How long ago the control plane confirmed the policy: by the clock, and by what nobody sets. What a clock that was set back says is not
    /// taken (I9): how long the gateway was off cannot be known then.
    pub(super) fn age(&self, now: Timestamp, boot: &Boot) -> Result<Duration, Refused> {
        if self.confirmed > self.seen {
            return Err(Refused::Damaged);
        }
        if now.plus(TOLERANCE) < self.seen {
            return Err(Refused::ClockSetBack);
        }
        let by_clock = now.max(self.seen).since(self.confirmed);
        let same_boot = !boot.id.is_empty() && boot.id == self.boot.id;
        let by_uptime = if same_boot { boot.uptime.saturating_sub(self.boot.uptime) } else { Duration::ZERO };
        Ok(by_clock.max(by_uptime))
    }

    /// Reads it; `None` when there is none.
    pub(super) fn read(dir: &Path, root: &Root) -> Result<Option<Self>, Refused> {
        let path = path(dir);
        match fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Refused::Io(error.kind())),
            Ok(metadata) if metadata.len() > MAX => return Err(Refused::TooLarge),
            Ok(_) => {}
        }
        let mut bytes = fs::read(&path).map_err(|error| Refused::Io(error.kind()))?;
        let body = bytes.strip_prefix(MAGIC).ok_or(Refused::Damaged)?.len();
        let at = bytes.len().saturating_sub(body);
        let (id, sealed) = bytes.get_mut(at..).and_then(|body| body.split_first_chunk_mut()).ok_or(Refused::Damaged)?;
        let clear = root.sealer(id, PURPOSE).and_then(|mut sealer| sealer.open(sealed)).map_err(|_| Refused::Sealed)?;
        let mark = KeptMark::decode(clear).map_err(|_| Refused::Damaged)?;
        Ok(Some(Self {
            file: mark.file.as_slice().try_into().map_err(|_| Refused::Damaged)?,
            records: mark.records,
            confirmed: Timestamp::from_millis(mark.confirmed_ms),
            seen: Timestamp::from_millis(mark.seen_ms),
            boot: Boot { id: mark.boot, uptime: Duration::from_millis(mark.confirmed_uptime_ms) },
        }))
    }

    /// Writes it in place of the former.
    pub(super) fn write(&self, dir: &Path, root: &Root) -> Result<(), KeepError> {
        let mark = KeptMark {
            file: self.file.to_vec(),
            records: self.records,
            confirmed_ms: self.confirmed.millis(),
            seen_ms: self.seen.millis(),
            boot: self.boot.id.clone(),
            confirmed_uptime_ms: u64::try_from(self.boot.uptime.as_millis()).unwrap_or(u64::MAX),
        };
        let id = file_id();
        let mut sealed = mark.encode_to_vec();
        root.sealer(&id, PURPOSE)?.seal(&mut sealed)?;
        Ok(write_private(&path(dir), &[MAGIC.as_slice(), &id, &sealed].concat())?)
    }
}

/// When `at` was, on this machine's clocks.
pub(super) fn clocks_at(at: std::time::Instant) -> (Timestamp, Boot) {
    let ago = at.elapsed();
    let mut boot = Boot::now();
    boot.uptime = boot.uptime.saturating_sub(ago);
    let now = clock::now().millis();
    (Timestamp::from_millis(now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))), boot)
}

fn path(dir: &Path) -> PathBuf {
    dir.join("policy.mark")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn up(id: &str, secs: u64) -> Boot {
        Boot { id: id.into(), uptime: Duration::from_secs(secs) }
    }

    #[test]
    fn it_is_as_old_as_the_slowest_clock_does_not_hide() {
        let mark = Mark { file: [1; 16], records: 2, confirmed: at(1_000), seen: at(1_004), boot: up("a", 50) };
        let age = |now, boot| mark.age(now, &boot).map(|age| age.as_secs());
        assert_eq!(age(at(1_030), up("a", 80)), Ok(30));
        // The clock was set back, or stood still, while the machine ran on.
        assert_eq!(age(at(1_005), up("a", 650)), Ok(600));
        // After another boot the clock alone tells, and it is never younger than when it was seen last.
        assert_eq!(age(at(1_600), up("b", 5)), Ok(600));
        assert_eq!(age(at(1_001), up("b", 5)), Ok(4));
        assert_eq!(age(at(1_600), Boot::default()), Ok(600));
        // A clock that shows what was past already tells nothing.
        assert_eq!(age(at(998), up("a", 51)), Err(Refused::ClockSetBack));
        assert_eq!(age(at(0), up("b", 0)), Err(Refused::ClockSetBack));
        let bent = Mark { confirmed: at(2_000), ..mark.clone() };
        assert_eq!(bent.age(at(2_000), &up("a", 50)), Err(Refused::Damaged));
    }

    #[test]
    fn this_machine_tells_its_boot() {
        let (one, two) = (Boot::now(), Boot::now());
        assert_eq!(one.id, two.id);
        assert!(!one.id.is_empty() && two.uptime >= one.uptime);
    }
}

//! A disk of the tests' own, mounted by FUSE, that forgets what was not flushed when its power is lost, and fails when it is told to.
//!
//! ```text
//! program under test -- kernel -- /dev/fuse --> mount (a thread of this process) --> volume: what is there | what is durable
//! ```

mod mount;
mod volume;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fuser::{BackgroundSession, Config, Errno, MountOption};
use tempfile::TempDir;

pub use volume::Loss;

use super::postgres::is_root;
use super::process::wait_until;
use mount::Mounted;
use volume::Volume;

/// What a program does to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Reads a file's bytes.
    Read,
    /// Writes them.
    Write,
    /// Changes a file's length.
    Resize,
    /// Has a file's bytes made durable.
    Flush,
    /// Makes, removes or renames.
    Name,
    /// Reads a folder's names.
    ReadFolder,
    /// Has them made durable.
    FlushFolder,
    /// Looks at a file's length, mode or existence. Never fails by order.
    Other,
}

/// What the disk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// EIO.
    Broken,
    /// ENOSPC.
    Full,
}

/// An order to fail.
#[derive(Clone, Copy, Debug)]
struct Fault {
    act: Act,
    answer: Answer,
    once: bool,
}

#[derive(Debug)]
struct State {
    volume: Volume,
    faults: Vec<Fault>,
    /// How often the disk failed by order.
    failed: u64,
    /// What a failed flush was to write is on the disk all the same.
    landed: bool,
    off: bool,
}

impl State {
    fn check(&mut self, act: Act) -> Result<(), Errno> {
        if self.off {
            return Err(Errno::EIO);
        }
        let Some(place) = self.faults.iter().position(|fault| fault.act == act) else { return Ok(()) };
        let Some(fault) = self.faults.get(place).copied() else { return Ok(()) };
        if fault.once {
            self.faults.remove(place);
        }
        self.failed = self.failed.saturating_add(1);
        Err(match fault.answer {
            Answer::Broken => Errno::EIO,
            Answer::Full => Errno::ENOSPC,
        })
    }
}

#[derive(Debug)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mounted disk. Dropping it unmounts it and forgets what it held.
#[derive(Debug)]
pub struct Disk {
    session: Option<BackgroundSession>,
    shared: Arc<Shared>,
    folder: TempDir,
}

impl Disk {
    /// An empty one.
    ///
    /// # Errors
    /// When this machine mounts none.
    pub fn mount() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("postern-disk-").tempdir()?;
        let state = State { volume: Volume::empty(), faults: Vec::new(), failed: 0, landed: false, off: false };
        let mut this = Self { session: None, shared: Arc::new(Shared(Mutex::new(state))), folder };
        this.attach()?;
        Ok(this)
    }

    fn attach(&mut self) -> Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("postern-disk".to_owned()), MountOption::NoDev];
        let mounted = fuser::spawn_mount(Mounted(Arc::clone(&self.shared)), self.folder.path(), &config);
        self.session = Some(mounted.context(
            "cannot mount a FUSE file system: the tests of a disk that loses power need /dev/fuse, and root or fusermount3 \
             (Debian: fuse3); in a container: --device /dev/fuse --cap-add SYS_ADMIN",
        )?);
        Ok(())
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The power goes, now: from here on every act fails, and what was not flushed is lost as `loss` says. The programs that use it are to be killed,
    /// and then it can be had back by [`Self::power_on`].
    pub fn power_off(&self, loss: Loss) {
        let mut state = self.shared.lock();
        state.off = true;
        state.volume.survive(loss);
    }

    /// Mounts it anew, with what survived and nothing in any cache. No program may still use it.
    ///
    /// # Errors
    /// When one does.
    pub fn power_on(&mut self) -> Result<()> {
        self.detach()?;
        let mut state = self.shared.lock();
        (state.off, state.landed) = (false, false);
        state.faults.clear();
        drop(state);
        self.attach()
    }

    fn detach(&mut self) -> Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let path = self.folder.path().to_owned();
        // The kernel closes a killed program's files a moment after it was reaped.
        let mut last = None;
        wait_until(Duration::from_secs(10), "the disk to be free", || {
            let output = unmount(&path, false)?;
            let done = output.status.success();
            last = Some(output);
            Ok(done)
        })
        .with_context(|| format!("{last:?}"))?;
        session.join().context("the disk's thread")
    }

    /// From now on such acts fail: the next one, or all.
    pub fn fail(&self, act: Act, answer: Answer, once: bool) {
        self.shared.lock().faults.push(Fault { act, answer, once });
    }

    /// The same of the next flush, whose bytes reach the disk nevertheless.
    pub fn fail_a_flush_that_lands(&self) {
        let mut state = self.shared.lock();
        state.landed = true;
        state.faults.push(Fault { act: Act::Flush, answer: Answer::Broken, once: true });
    }

    /// It works again.
    pub fn mend(&self) {
        self.shared.lock().faults.clear();
    }

    /// How often it failed by order.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.shared.lock().failed
    }

    /// Bytes in all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.lock().volume.bytes()
    }
}

/// As root by the system's own command, else by FUSE's; `lazily`, also while it is used.
fn unmount(path: &Path, lazily: bool) -> Result<Output> {
    let (program, mut arguments) = if is_root() { ("umount", vec![]) } else { ("fusermount3", vec!["-u"]) };
    if lazily {
        arguments.push(if is_root() { "-l" } else { "-z" });
    }
    Command::new(program).args(arguments).arg(path).output().with_context(|| format!("cannot run {program}"))
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.session.is_some() {
            // Whoever still uses it is of no more interest.
            self.shared.lock().off = true;
            let _ = unmount(self.folder.path(), true);
        }
    }
}

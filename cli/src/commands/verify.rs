//! `postern verify`: offline, by public keys.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_core::SessionId;
use postern_core::operation::Digest;
use postern_core::recording::{self, Authority, Report};
use postern_core::transparency::{Evidence, EvidenceFault, Exported, NoteKey, Range, SignedCheckpoint};

use super::log::{EDGE, HEAD, LEAVES, SINCE, kept, named};
use super::sessions::authority;
use crate::args::ConnectionArgs;
use crate::failure::Failure;
use crate::log_args::VerifyArgs;
use crate::output;

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// What is verified by, and what was found.
struct Verifier {
    authority: Vec<u8>,
    log_key: Option<NoteKey>,
    witnesses: Vec<NoteKey>,
    faults: usize,
}

pub(crate) fn run(args: &VerifyArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let log_key = args.log_key.as_deref().map(log_key).transpose()?;
    let witnesses = args.witnesses.iter().map(|given| witness(given)).collect::<Result<_, _>>()?;
    let mut verifier = Verifier { authority: authority(connection)?, log_key, witnesses, faults: 0 };
    for path in &args.paths {
        if path.is_dir() {
            verifier.export(path, args)?;
        } else {
            verifier.alone(path)?;
        }
    }
    match verifier.faults {
        0 => output::line("no fault was found"),
        1 => output::line("1 fault").and(Err(Failure::Told)),
        faults => output::line(format!("{faults} faults")).and(Err(Failure::Told)),
    }
}

/// A key as text, or a file with it.
fn log_key(given: &str) -> Result<NoteKey, Failure> {
    let text = match std::fs::read_to_string(given) {
        Ok(text) => text,
        Err(_) => given.to_owned(),
    };
    text.trim().parse().map_err(|fault: postern_core::transparency::CheckpointFault| Failure::usage(fault.to_string()))
}

/// The same, of a witness.
fn witness(given: &str) -> Result<NoteKey, Failure> {
    let key = log_key(given)?;
    if key.is_witness() { Ok(key) } else { Err(Failure::usage(format!("{given} is a log's key, not a witness'"))) }
}

impl Verifier {
    /// Whether all witnesses have signed a head.
    fn witnessed(&mut self, what: &Path, head: &SignedCheckpoint) -> Result<(), Failure> {
        for witness in self.witnesses.clone() {
            if let Err(why) = head.verify_witness(&witness) {
                self.fault(what, format_args!("the head: witness {}: {why}", witness.name()))?;
            }
        }
        Ok(())
    }

    fn fault(&mut self, what: &Path, fault: impl std::fmt::Display) -> Result<(), Failure> {
        self.faults = self.faults.saturating_add(1);
        output::line(output::printable(&format!("{}: {fault}", what.display())))
    }

    /// One recording; what is wrong with it is told. The log says where it speaks of a session's, and what it says.
    fn recording(
        &mut self,
        path: &Path,
        places: &dyn Fn(SessionId) -> Vec<u64>,
        log: impl FnOnce(&mut Report),
    ) -> Result<Option<Report>, Failure> {
        let mut report = match read(path, recording::Verifier::new(Some(Authority(&self.authority))).at(places)) {
            Ok(report) => report,
            Err(why) => {
                self.fault(path, why)?;
                return Ok(None);
            }
        };
        log(&mut report);
        for fault in &report.faults {
            self.fault(path, fault)?;
        }
        if let (Some(named), Some(found)) = (named(path), report.session)
            && named != found
        {
            self.fault(path, format_args!("it is the recording of {found}"))?;
        }
        Ok(Some(report))
    }

    /// A recording by itself, with its proof where that lies beside it.
    fn alone(&mut self, path: &Path) -> Result<(), Failure> {
        let beside = PathBuf::from(format!("{}.tlog-proof", path.display()));
        let proof = match (std::fs::read_to_string(&beside), &self.log_key) {
            (Ok(text), Some(key)) => proved(&text, key),
            (Ok(_), None) => Ok(Proof::NotAsked("no --log-key".to_owned())),
            (Err(_), _) => Ok(Proof::NotAsked(format!("no {}", beside.display()))),
        };
        let proof = match proof {
            Ok(proof) => proof,
            Err(why) => {
                self.fault(&beside, why)?;
                Proof::NotAsked("what is beside it is no proof".to_owned())
            }
        };
        let mut is_of = true;
        let places = |_| match &proof {
            Proof::Of(evidence) => vec![evidence.place()],
            Proof::NotAsked(_) => Vec::new(),
        };
        let report = self.recording(path, &places, |report| {
            if let Proof::Of(evidence) = &proof {
                is_of = evidence.is_of(report);
            }
        })?;
        if let Proof::Of(evidence) = &proof {
            self.witnessed(&beside, &evidence.checkpoint)?;
        }
        if !is_of {
            self.fault(&beside, "it is the proof of another recording")?;
        }
        let Some(report) = report.filter(|report| report.is_good() && is_of) else { return Ok(()) };
        let Some(session) = report.session else { return Ok(()) };
        let interrupted = match (report.orphaned, report.interrupted) {
            (true, _) => ", broken off and without a seal: the gateway is gone",
            (false, true) => ", broken off: the gateway had died",
            (false, false) => "",
        };
        let gap = report.gap.map_or_else(String::new, |gap| format!("; gap: {gap}"));
        let text = format!("{}: {session}, {} events, good{interrupted}{gap}; {proof}", path.display(), report.events);
        output::line(output::printable(&text))
    }

    /// A folder of `postern log export`.
    fn export(&mut self, dir: &Path, args: &VerifyArgs) -> Result<(), Failure> {
        let Some(key) = self.log_key.clone() else {
            return Err(Failure::usage(format!("{} is an export of the log: give --log-key", dir.display())));
        };
        let own = dir.join(SINCE);
        let older = match &args.since {
            Some(path) => Some(kept(path)?),
            None => own.exists().then(|| kept(&own)).transpose()?,
        };
        let newer = kept(&dir.join(HEAD))?;
        self.witnessed(&dir.join(HEAD), &newer)?;
        if let Some(until) = args.until.as_deref().map(kept).transpose()? {
            self.until(dir, &newer, &until)?;
        }
        let edge = std::fs::read_to_string(dir.join(EDGE)).map_err(|error| missing(dir, EDGE, &error))?;
        let edge: Option<Vec<Digest>> =
            edge.lines().map(|line| STANDARD.decode(line).ok().and_then(|hash| Digest::from_slice(&hash))).collect();
        let leaves = std::fs::read(dir.join(LEAVES)).map_err(|error| missing(dir, LEAVES, &error))?;
        if edge.is_none() {
            self.fault(&dir.join(EDGE), "it does not hold hashes")?;
        }
        let edge = edge.unwrap_or_default();
        let given = Exported { older: older.as_ref(), newer: &newer, edge: &edge, leaves: &leaves };
        let range = RefCell::new(Range::open(&key, given));
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "rec"))
            .collect();
        files.sort_unstable();
        let mut count = 0_usize;
        for file in files {
            let places = |session| range.borrow().places(session);
            if self.recording(&file, &places, |report| range.borrow_mut().take(report))?.is_some() {
                count = count.saturating_add(1);
            }
        }
        let (first, size) = (older.as_ref().map_or(0, |older| older.head().size), newer.head().size);
        for fault in range.into_inner().faults() {
            self.fault(dir, fault)?;
        }
        output::line(format!("{}: leaves {first} to {size} of the log, {count} recordings", dir.display()))
    }

    /// Whether the export reaches the head that it must.
    fn until(&mut self, dir: &Path, newer: &SignedCheckpoint, until: &SignedCheckpoint) -> Result<(), Failure> {
        let (has, must) = (newer.head(), until.head());
        if has == must {
            return Ok(());
        }
        self.fault(
            dir,
            format_args!(
                "it ends at a head of {} leaves, not at the one of {}, or at another tree",
                has.size, must.size
            ),
        )
    }
}

fn missing(dir: &Path, file: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: it is no whole export of the log: {error}", dir.join(file).display()))
}

fn read(path: &Path, mut verifier: recording::Verifier<'_>) -> std::io::Result<Report> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(verifier.finish()),
            read => verifier.push(piece.get(..read).unwrap_or_default()),
        }
    }
}

/// What the log says.
enum Proof {
    /// It has this leaf.
    Of(Box<Evidence>),
    /// Nothing, and why.
    NotAsked(String),
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(evidence) => {
                let size = evidence.checkpoint.head().size;
                write!(f, "leaf {} of {size} in the log, since {}", evidence.index, evidence.leaf.at)
            }
            Self::NotAsked(why) => write!(f, "the log was not asked: {why}"),
        }
    }
}

fn proved(text: &str, key: &NoteKey) -> Result<Proof, EvidenceFault> {
    let evidence: Evidence = text.parse()?;
    evidence.verify(key)?;
    Ok(Proof::Of(Box::new(evidence)))
}

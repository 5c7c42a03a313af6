//! The fuzz targets on a leash: what they begin with, what they once found, and some thousand changes of both, the same each time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use fastrand::Rng;
use postern_chaos::fuzz::{Target, seeds};

/// Changes of one target's seeds; `POSTERN_FUZZ_CHANGES=n` for more, `POSTERN_FUZZ_SEED=n` for others.
const CHANGES: u64 = 1_500;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// What was found once and must not come back: files in `fuzz/regressions/`.
fn regressions(target: Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions").join(target.name());
    let Ok(files) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn change(rng: &mut Rng, data: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(0..=data.len());
        match rng.u8(0..7) {
            0 => data.truncate(at),
            1 => data.insert(at, rng.u8(..)),
            2 => data.extend((0..rng.usize(0..24)).map(|_| rng.u8(..))),
            3 => {
                let other = &others[rng.usize(0..others.len())];
                let from = rng.usize(0..=other.len());
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ if at == data.len() => {}
            4 => data[at] = *rng.choice([0, 1, 0x7f, 0x80, 0xff].iter()).unwrap(),
            5 => drop(data.remove(at)),
            _ => data[at] ^= 1 << rng.u8(0..8),
        }
    }
}

fn leash(target: Target) {
    let mut known = seeds(target);
    known.extend(regressions(target));
    known.iter().for_each(|data| target.run(data));
    let mut rng = Rng::with_seed(setting("POSTERN_FUZZ_SEED").unwrap_or(7));
    for _ in 0..setting("POSTERN_FUZZ_CHANGES").unwrap_or(CHANGES) {
        let mut data = known[rng.usize(0..known.len())].clone();
        change(&mut rng, &mut data, &known);
        target.run(&data);
    }
}

#[test]
fn entries_are_applied_refused_or_halt() {
    leash(Target::Entries);
}

#[test]
fn snapshots_are_restored_or_refused() {
    leash(Target::Restore);
}

#[test]
fn no_message_of_a_peer_makes_a_member_panic() {
    leash(Target::Messages);
}

#[test]
fn files_are_read_or_refused() {
    leash(Target::Files);
}

#[test]
fn policy_is_taken_or_refused() {
    leash(Target::Policy);
}

#[test]
fn what_is_said_in_tunnels_is_read_or_refused() {
    leash(Target::Tunnel);
}

#[test]
fn tokens_are_taken_or_refused() {
    leash(Target::Tokens);
}

#[test]
fn no_child_is_more_than_its_parent_and_no_proof_anothers() {
    leash(Target::Bearers);
}

#[test]
fn answers_and_forms_are_read_or_refused() {
    leash(Target::Answers);
}

#[test]
fn no_change_of_a_response_makes_somebody_else_of_it() {
    leash(Target::Saml);
}

/// `POSTERN_FUZZ_SEEDS=dir`: writes what the targets begin with, for `make fuzz`.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    let dir = std::env::var("POSTERN_FUZZ_SEEDS").unwrap();
    for target in Target::ALL {
        let dir = Path::new(&dir).join(target.name());
        std::fs::create_dir_all(&dir).unwrap();
        let all = seeds(target).into_iter().chain(regressions(target));
        for (data, n) in all.zip(0..) {
            std::fs::write(dir.join(format!("seed-{n}")), data).unwrap();
        }
    }
}

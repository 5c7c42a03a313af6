//! What revocations weigh, and what it costs to look one up: a million single tokens (`COUNT`), each revoked by its own command, as those are that
//! clients revoke when they have done with them.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use postern_benches::{memory_kb, number, progress, where_and_when, write_part};
use postern_core::principal::{Principal, PrincipalId};
use postern_core::revocation::{Bearer, Revocation, Revocations, Revoked, TokenName};
use postern_core::snapshot::Snapshot;
use postern_core::wire::snapshot::to_proto;
use postern_core::{KeptClaims, Timestamp};
use postern_state::commands::RevokeTokens;
use postern_state::{Command, Entry, State};
use prost::Message as _;

const NOW: u64 = 1_800_000_000;
const LOOKED_UP: u32 = 200_000;

fn token(number: usize) -> Result<Revoked> {
    // As long as those that the control plane gives.
    Ok(Revoked::Token(TokenName::session(&format!("tok_{number:026}")).context("a name")?))
}

fn revocation(number: usize) -> Result<Revocation> {
    Ok(Revocation {
        of: token(number)?,
        issued_before: Timestamp::default(),
        until: Timestamp::from_secs(NOW + 900),
        // By bearers alone there may be fewer.
        by: "ops/alice".into(),
        because: String::new(),
        at: Timestamp::default(),
        revision: 0,
    })
}

fn bearer(number: usize) -> Result<Bearer> {
    let principal = Principal {
        id: PrincipalId { issuer: "ci".parse()?, subject: "repo:acme/app".into() },
        groups: Default::default(),
        token_id: Some(format!("tok_{number:026}").into()),
        expires_at: None,
        chain: Vec::new(),
        claims: KeptClaims::default(),
    };
    Ok(Bearer::new(&principal, true, None, Timestamp::from_secs(NOW)))
}

fn resident() -> Result<f64> {
    memory_kb(std::process::id())
}

fn entry(command: impl Into<Command>) -> Vec<u8> {
    let proposed_at = Timestamp::from_secs(NOW);
    Entry { proposed_at, request_id: None, command: command.into(), audit: None }.encode()
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn main() -> Result<()> {
    let count = number("COUNT", 1_000_000_usize)?;
    let each = |kb: f64| kb * 1024.0 / count as f64;

    // A gateway's.
    let before = resident()?;
    let (mut set, began) = (Revocations::default(), Instant::now());
    for place in 0..count {
        let copy = set.clone();
        set.insert(revocation(place)?.mark());
        drop(copy);
    }
    let inserted = began.elapsed();
    let at_gateway = each(resident()? - before);
    ensure!(set.len() == count, "{} of {count}", set.len());
    let (known, unknown) = (bearer(count / 2)?, bearer(count)?);
    let look = |bearer: &Bearer| {
        let began = Instant::now();
        let found = (0..LOOKED_UP).filter(|_| black_box(&set).mean(black_box(bearer))).count();
        (found, began.elapsed() / LOOKED_UP)
    };
    let ((found, hit), (none, miss)) = (look(&known), look(&unknown));
    ensure!(found > 0 && none == 0, "lookups are wrong");
    let mut next = set.clone();
    next.insert(revocation(count)?.mark());
    let began = Instant::now();
    let added = (0..LOOKED_UP).map(|_| black_box(&next).added_since(black_box(&set)).len()).sum::<usize>();
    let (added, difference) = (added / LOOKED_UP as usize, began.elapsed() / LOOKED_UP);
    ensure!(added == 1, "{added} are new");
    progress("a gateway's set");

    // On the wire, whole: it is sent so to a gateway that knows nothing, in parts.
    let began = Instant::now();
    let snapshot = Snapshot { revocations: set.clone(), ..Snapshot::empty("c", "i") };
    let wire = to_proto(&snapshot).encode_to_vec();
    let encoded = began.elapsed();
    let began = Instant::now();
    let read = Revocations::from_bytes(&set.to_bytes())?;
    let decoded = began.elapsed();
    ensure!(read == set, "it is read back otherwise");
    drop((read, snapshot, next, set));
    progress("on the wire");

    // A member's state, and its snapshot.
    let mut state = State::restore(&founded()?)?;
    let (before, began) = (resident()?, Instant::now());
    for place in 0..count {
        let command = RevokeTokens { revocations: vec![revocation(place)?] };
        let applied = state.apply(state.index() + 1, &entry(command)).context("it is taken")?;
        ensure!(applied.outcome.is_ok(), "{:?}", applied.outcome);
    }
    let applied = began.elapsed();
    let in_state = each(resident()? - before);
    let in_snapshot = state.snapshot().len() as f64 / count as f64;
    let began = Instant::now();
    let restored = State::restore(&state.snapshot())?;
    let restore = began.elapsed();
    ensure!(restored.revocations().len() == count, "a snapshot has all");
    // All end in the same second: they are forgotten some with each entry.
    let (mut expired, mut longest) = (Duration::ZERO, Duration::ZERO);
    while !state.revocations().is_empty() {
        let began = Instant::now();
        let late = Entry {
            proposed_at: Timestamp::from_secs(NOW + 3_600),
            request_id: None,
            command: postern_state::commands::ExpireApprovals.into(),
            audit: None,
        };
        state.apply(state.index() + 1, &late.encode()).context("it is taken")?;
        longest = longest.max(began.elapsed());
        expired += began.elapsed();
    }
    progress("a member's state");

    let per = |all: Duration| all.as_secs_f64() * 1e6 / count as f64;
    let mut out = format!("## Revocations\n\n{}", where_and_when());
    writeln!(out, "- {count} single tokens are revoked, each by a command of its own; none has expired\n")?;
    out.push_str("| what | figure |\n| --- | ---: |\n");
    writeln!(out, "| a gateway's memory, each | {at_gateway:.0} B |")?;
    writeln!(
        out,
        "| a whole policy on the wire and on a gateway's disk, each | {:.0} B |",
        wire.len() as f64 / count as f64
    )?;
    writeln!(out, "| a member's memory, each | {in_state:.0} B |")?;
    writeln!(out, "| a member's snapshot, each | {in_snapshot:.0} B |")?;
    writeln!(out, "| is this token revoked? no | {:.2} µs |", miss.as_secs_f64() * 1e6)?;
    writeln!(out, "| is this token revoked? yes | {:.2} µs |", hit.as_secs_f64() * 1e6)?;
    writeln!(out, "| one more, while the former set is in use | {:.2} µs |", per(inserted))?;
    writeln!(out, "| which are new, of one more | {:.2} µs |", difference.as_secs_f64() * 1e6)?;
    writeln!(out, "| a member applies one | {:.2} µs |", per(applied))?;
    writeln!(
        out,
        "| the whole encoded, decoded | {:.0} ms, {:.0} ms |",
        encoded.as_secs_f64() * 1e3,
        decoded.as_secs_f64() * 1e3
    )?;
    writeln!(out, "| a snapshot made and read | {:.1} s |", restore.as_secs_f64())?;
    writeln!(
        out,
        "| all forgotten when they end at once; the longest entry meanwhile | {:.1} s, {:.0} ms |",
        expired.as_secs_f64(),
        longest.as_secs_f64() * 1e3
    )?;
    write_part("revocations", &out)
}

/// The snapshot of a cluster that takes the newest commands.
fn founded() -> Result<Vec<u8>> {
    let sealed = |byte: u8| postern_core::secret::Sealed {
        kek_id: "k".into(),
        wrapped_key: vec![byte],
        nonce: vec![byte],
        ciphertext: vec![byte],
    };
    let cluster = postern_state::Cluster {
        id: "c".into(),
        ca_pem: "pem".into(),
        ca_key: sealed(1),
        session_token_jwks: "{}".into(),
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
        session_token_key: sealed(2),
        mask_key: sealed(3),
        incarnation: "i".into(),
    };
    let mut state = State::default();
    let commands: [Command; 2] = [
        postern_state::commands::InitCluster(cluster).into(),
        postern_state::commands::RaiseFeatureLevel { level: postern_state::FEATURE_LEVEL }.into(),
    ];
    for command in commands {
        let applied = state.apply(state.index() + 1, &entry(command)).context("it is taken")?;
        ensure!(applied.outcome.is_ok(), "{:?}", applied.outcome);
    }
    Ok(state.snapshot())
}

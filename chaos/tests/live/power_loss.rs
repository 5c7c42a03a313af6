//! A disk that loses what was not flushed, and one that fails: what each class of durability says is what is left (I2, I10).

#![allow(clippy::print_stdout)] // seeds, to have a run again

use std::sync::mpsc;
use std::time::{Duration, Instant};

use postern_chaos::live::disk::{Act, Answer, Disk, Loss};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};

use crate::assert_has;
use crate::interrupted::{assert_tells_all, wait_for_statements, writer};

/// What class `buffered` may lose at most, before the power went.
const BUFFERED_BOUND: Duration = Duration::from_millis(60);

/// Each round's way to lose power: everything, then what chance says. Printed, so that it can be had again.
fn losses(count: u64) -> Vec<Loss> {
    let seed = fastrand::u64(..1 << 32);
    println!("torn by seeds {seed}..{}", seed + count - 1);
    std::iter::once(Loss::All).chain((1..count).map(|n| Loss::Torn(seed + n))).collect()
}

/// All three roles, with the gateway's spool on `disk`.
fn spooling_on(disk: &Disk, gateway: &str) -> (Postgres, ThreeProcesses) {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let spool_dir = Some(disk.path().join("gateway").join("spool"));
    let options = RoleOptions { gateway: gateway.to_owned(), spool_dir, ..RoleOptions::default() };
    let three = ThreeProcesses::start(&postgres, options).unwrap();
    (postgres, three)
}

fn replay(three: &ThreeProcesses, session: &str) -> String {
    assert_has(&three.cli(["sessions", "verify", session]).unwrap().ok().unwrap(), &["verified", "interrupted"]);
    three.cli(["sessions", "replay", session]).unwrap().ok().unwrap()
}

/// With the control plane away, so that nothing but the disk has it.
#[test]
fn what_is_spooled_is_there_after_the_power_was_lost() {
    let mut disk = Disk::mount().unwrap();
    let (postgres, mut three) = spooling_on(&disk, "");
    for (round, loss) in (0..).zip(losses(4)) {
        let token = three.issuer().token("dora", &["dba"]).unwrap();
        let writer = writer((three.postgres_address(), "shop-direct"), token, round);
        wait_for_statements(&postgres, round, 5);
        three.control().unwrap().kill9().unwrap();
        wait_for_statements(&postgres, round, 60);
        disk.power_off(loss);
        three.gateway().unwrap().kill9().unwrap();
        writer.join().unwrap().unwrap();
        disk.power_on().unwrap();
        three.start_control().unwrap();
        three.start_gateway().unwrap();
        let session = three.last_ended_session().unwrap();
        let replay = replay(&three, &session);
        assert_tells_all(&replay, &postgres, round, 60);
        assert!(!replay.contains("gap: "), "{replay}");
    }
}

/// What was answered longer before than the class may lose is there; the recording is whole up to where the disk ends.
#[test]
fn what_is_buffered_is_there_but_for_the_last_moments_before_the_power_was_lost() {
    let mut disk = Disk::mount().unwrap();
    let (_postgres, mut three) = spooling_on(&disk, "durability = \"buffered\"\n");
    for (round, loss) in (0..).zip(losses(4)) {
        let (address, token) = (three.postgres_address(), three.issuer().token("dora", &["dba"]).unwrap());
        let (tell, answered) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut wire = Wire::connect(&address).unwrap();
            wire.login("shop-direct", "shop", &token).unwrap();
            for n in 0_u32.. {
                let answer = wire.query(&format!("INSERT INTO notes (body) VALUES ('r{round} n{n}')"));
                if !answer.is_ok_and(|messages| messages.iter().all(|message| message.kind != 'E')) {
                    return;
                }
                tell.send(Instant::now()).unwrap();
            }
        });
        let mut times: Vec<Instant> = answered.iter().take(500).collect();
        let off = Instant::now();
        disk.power_off(loss);
        three.gateway().unwrap().kill9().unwrap();
        writer.join().unwrap();
        disk.power_on().unwrap();
        three.start_gateway().unwrap();
        let session = three.last_ended_session().unwrap();
        let replay = replay(&three, &session);
        // Under the seal, and seen by whoever reads or verifies it.
        let said = "gap: operations of class buffered that ran after event ";
        assert_has(&replay, &[said]);
        assert_has(&three.cli(["sessions", "verify", &session]).unwrap().ok().unwrap(), &[said]);
        times.extend(answered.try_iter());
        let safe = times.iter().filter(|time| **time + BUFFERED_BOUND < off).count();
        let kept = (0..=times.len()).take_while(|n| replay.contains(&format!("'r{round} n{n}'"))).count();
        println!("{loss:?}: {} answered, {safe} of them in time, {kept} kept", times.len());
        assert!(safe > 50, "too few to say anything: {safe}");
        assert!(kept >= safe, "{loss:?}: {kept} of {safe} are there");
        // No hole: after the first that is missing there is none.
        assert!((kept..=times.len()).all(|n| !replay.contains(&format!("'r{round} n{n}'"))));
    }
}

/// Both disks lose power, the gateway's for ever. What ran had been flushed by the control plane; its replicated state starts again, too.
#[test]
fn what_the_control_plane_acknowledged_is_there_after_its_power_was_lost() {
    let mut disk = Disk::mount().unwrap();
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let control_dir = Some(disk.path().join("control"));
    let options =
        RoleOptions { gateway: "durability = \"quorum\"\n".to_owned(), control_dir, ..RoleOptions::default() };
    let mut three = ThreeProcesses::start(&postgres, options).unwrap();
    for (round, loss) in (0..).zip(losses(3)) {
        let token = three.issuer().token("dora", &["dba"]).unwrap();
        let writer = writer((three.postgres_address(), "shop-direct"), token, round);
        wait_for_statements(&postgres, round, 30);
        disk.power_off(loss);
        three.control().unwrap().kill9().unwrap();
        three.gateway().unwrap().kill9().unwrap();
        writer.join().unwrap().unwrap();
        std::fs::remove_dir_all(three.folder().join("spool")).unwrap();
        disk.power_on().unwrap();
        three.start_control().unwrap();
        let sessions = three.sessions().unwrap();
        let session = sessions.first().and_then(|session| session["id"].as_str()).unwrap();
        let told = three.cli(["sessions", "replay", session]).unwrap().ok().unwrap();
        assert_tells_all(&told, &postgres, round, 30);
        three.start_gateway().unwrap();
    }
}

/// The bytes of a flush that failed may be on the disk nevertheless. They were refused, so a restart must not find them, nor stumble over them.
#[test]
fn a_flush_that_fails_ends_the_session_and_what_it_wrote_is_not_there_after_a_loss_of_power() {
    let mut disk = Disk::mount().unwrap();
    let (postgres, mut three) = spooling_on(&disk, "");
    let token = three.issuer().token("dora", &["dba"]).unwrap();
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop-direct", "shop", &token).unwrap();
    wire.query("INSERT INTO notes (body) VALUES ('before')").unwrap();
    disk.fail_a_flush_that_lands();
    wire.message('Q', b"INSERT INTO notes (body) VALUES ('refused')\0").unwrap();
    let error = wire.read().unwrap();
    assert_eq!((error.kind, error.field('C').as_deref()), ('E', Some("58030")), "{:?}", error.fields());
    assert_eq!(disk.failed(), 1);
    // It works again, for others.
    let mut other = Wire::connect(&three.postgres_address()).unwrap();
    wait_until(Duration::from_secs(20), "another session", || {
        other = Wire::connect(&three.postgres_address())?;
        Ok(other.login("shop-direct", "shop", &token).is_ok())
    })
    .unwrap();
    other.query("INSERT INTO notes (body) VALUES ('after')").unwrap();
    three.control().unwrap().kill9().unwrap();
    disk.power_off(Loss::All);
    three.gateway().unwrap().kill9().unwrap();
    disk.power_on().unwrap();
    three.start_control().unwrap();
    three.start_gateway().unwrap();
    let mut told = String::new();
    wait_until(Duration::from_secs(40), "both recordings", || {
        let sessions = three.sessions()?;
        told.clear();
        for session in sessions.iter().filter_map(|session| session["id"].as_str()) {
            told.push_str(&three.cli(["sessions", "replay", session])?.ok()?);
        }
        Ok(sessions.iter().all(|session| session["state"] != "open"))
    })
    .unwrap();
    assert_has(&told, &["'before'", "'after'"]);
    assert!(!told.contains("'refused'"), "{told}");
    for session in three.sessions().unwrap().iter().filter_map(|session| session["id"].as_str()) {
        three.cli(["sessions", "verify", session]).unwrap().ok().unwrap();
    }
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes WHERE body = 'refused'").unwrap().trim(), "0");
}

/// Writes fail until the disk is mended: nobody's operation runs, the gateway says that it is not ready, and all is well after.
#[test]
fn a_disk_that_fails_or_is_full_lets_nothing_run_that_is_not_recorded() {
    let disk = Disk::mount().unwrap();
    let (postgres, three) = spooling_on(&disk, "");
    let token = three.issuer().token("dora", &["dba"]).unwrap();
    let cases = [
        (Act::Write, Answer::Broken),
        (Act::Write, Answer::Full),
        (Act::Flush, Answer::Broken),
        (Act::Flush, Answer::Full),
    ];
    for (n, (act, answer)) in cases.into_iter().enumerate() {
        let mut wire = Wire::connect(&three.postgres_address()).unwrap();
        wait_until(Duration::from_secs(20), "a session", || {
            wire = Wire::connect(&three.postgres_address())?;
            Ok(wire.login("shop-direct", "shop", &token).is_ok())
        })
        .unwrap();
        wire.query(&format!("INSERT INTO notes (body) VALUES ('kept {n}')")).unwrap();
        disk.fail(act, answer, false);
        wire.message('Q', format!("INSERT INTO notes (body) VALUES ('never {n}')\0").as_bytes()).unwrap();
        let error = wire.read().unwrap();
        assert_eq!((error.kind, error.field('C').as_deref()), ('E', Some("58030")), "{act:?} {:?}", error.fields());
        assert!(Wire::connect(&three.postgres_address()).unwrap().login("shop-direct", "shop", &token).is_err());
        wait_until(Duration::from_secs(10), "the gateway to say so", || Ok(!three.is_ready(1))).unwrap();
        disk.mend();
        wait_until(Duration::from_secs(20), "the gateway to be ready", || Ok(three.is_ready(1))).unwrap();
    }
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes WHERE body LIKE 'never %'").unwrap().trim(), "0");
    let mut told = String::new();
    wait_until(Duration::from_secs(40), "the recordings", || {
        let sessions = three.sessions()?;
        told.clear();
        for session in sessions.iter().filter(|session| session["state"] != "open") {
            let id = session["id"].as_str().unwrap_or_default();
            three.cli(["sessions", "verify", id])?.ok()?;
            told.push_str(&three.cli(["sessions", "replay", id])?.ok()?);
        }
        Ok((0..cases.len()).all(|n| told.contains(&format!("'kept {n}'"))))
    })
    .unwrap();
}

/// A spool that cannot be read holds what was acknowledged: the gateway does not begin without it, and says what is the matter. Nothing is lost once the disk is mended.
#[test]
fn a_spool_that_cannot_be_read_keeps_the_gateway_from_starting_and_loses_nothing() {
    let mut disk = Disk::mount().unwrap();
    let (postgres, mut three) = spooling_on(&disk, "");
    let writer = writer((three.postgres_address(), "shop-direct"), three.issuer().token("dora", &["dba"]).unwrap(), 0);
    wait_for_statements(&postgres, 0, 5);
    three.control().unwrap().kill9().unwrap();
    wait_for_statements(&postgres, 0, 30);
    disk.power_off(Loss::All);
    three.gateway().unwrap().kill9().unwrap();
    writer.join().unwrap().unwrap();
    three.start_control().unwrap();
    for act in [Act::ReadFolder, Act::Read] {
        disk.power_on().unwrap();
        disk.fail(act, Answer::Broken, false);
        assert!(three.start_gateway().is_err());
        assert!(disk.failed() > 0);
        assert_has(&three.log("gateway"), &["spool", "Input/output error"]);
    }
    disk.power_on().unwrap();
    three.start_gateway().unwrap();
    let session = three.last_ended_session().unwrap();
    assert_tells_all(&replay(&three, &session), &postgres, 0, 30);
}

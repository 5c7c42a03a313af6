//! The binary as a shell sees it, where no control plane is needed: exit codes, and one clear line for each thing that is wrong.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn postern(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("POSTERN")) {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().copied()).output().unwrap()
}

/// The exit code and what was said on standard error.
fn refusal(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
    let output = postern(arguments, environment);
    assert!(output.stdout.is_empty(), "{arguments:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A real certificate authority's form, of nobody.
fn authority(dir: &Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap();
    let file = dir.join("ca.crt");
    std::fs::write(&file, certificate.pem()).unwrap();
    file.display().to_string()
}

#[test]
fn asked_wrongly_is_2() {
    assert_eq!(refusal(&["frobnicate"], &[]).0, 2);
    assert_eq!(refusal(&["get", "gadget"], &[]).0, 2);
    let (code, said) = refusal(&["get", "targets"], &[]);
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    assert!(said.starts_with("error: which control plane?"), "{said}");
    let (code, said) = refusal(&["dev"], &[]);
    assert!(code == 2 && said.contains("--data-dir"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display().to_string();
    let (code, said) = refusal(&["dev", "--data-dir", &data, "--issuer-listen", "0.0.0.0:0"], &[]);
    assert!(code == 2 && said.contains("loopback"), "{said}");
    let server = ["--server", "http://127.0.0.1:1", "--ca", &authority(dir.path())];
    let (code, said) = refusal(&[&server[..], &["whoami"]].concat(), &[]);
    assert!(code == 2 && said.contains("https://"), "{said}");
}

#[test]
fn failed_is_1_and_shows_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path());
    let token = "very-secret-token";
    let server = ["--server", "https://127.0.0.1:1", "--ca", &ca];
    for command in [&["whoami"][..], &["token"], &["approvals", "list"], &["sessions", "show", "x"]] {
        let (code, said) = refusal(&[&server[..], command].concat(), &[("POSTERN_TOKEN", token)]);
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.starts_with("error: cannot reach https://127.0.0.1:1: "), "{said}");
        assert!(!said.contains(token), "{said}");
    }
    let help = postern(&["token", "--help"], &[("POSTERN_TOKEN", token)]);
    assert!(!String::from_utf8(help.stdout).unwrap().contains(token));
    let missing = dir.path().join("none").display().to_string();
    let (code, said) = refusal(&["--data-dir", &missing, "get", "targets"], &[]);
    assert!(code == 1 && said.contains("has `postern dev` run"), "{said}");
    let (code, said) = refusal(&["--data-dir", &missing, "dev", "token", "--subject", "a"], &[]);
    assert!(code == 1 && said.contains("no development issuer"), "{said}");
}

#[test]
fn every_fault_of_a_file_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    std::fs::write(
        &file,
        "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: p}\nspec: {effect: maybe, colour: red}\n",
    )
    .unwrap();
    let file = file.display().to_string();
    let (code, said) = refusal(&["apply", "-f", &file], &[]);
    assert_eq!(code, 1);
    assert!(said.lines().all(|line| line.starts_with(&format!("error: {file}:"))), "{said}");
    for part in [":4: spec.effect: ", ":4: spec.colour: ", ": spec.actions: "] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn a_file_that_is_no_recording_does_not_verify() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, file) = (authority(dir.path()), dir.path().join("x.rec"));
    std::fs::write(&file, b"not a recording").unwrap();
    let output = postern(&["sessions", "verify", &file.display().to_string(), "--ca", &ca], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("NOT verified"));
    let (code, said) = refusal(&["sessions", "verify", "/no/such/file", "--ca", &ca], &[]);
    assert!(code == 1 && said.contains("neither a session's id nor a readable file"), "{said}");
    let (code, _) = refusal(&["sessions", "replay", &file.display().to_string()], &[]);
    assert_eq!(code, 1);
}

#[test]
fn completions_are_printed() {
    let output = postern(&["completions", "bash"], &[]);
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("approvals"));
}

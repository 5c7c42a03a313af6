use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    data_dir: String,
    #[serde(default)]
    drain: Option<HumanDuration>,
    #[serde(default)]
    gateway: Gateway,
    #[serde(default)]
    peer: Vec<Peer>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Gateway {
    port: u16,
    tls: bool,
    names: Vec<String>,
    spool: ByteSize,
    password: String,
    limits: Limits,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    sessions: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    name: String,
    port: u16,
}

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigFaults> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(text, "p.toml", "POSTERN", variables)
}

fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    read(text, variables).unwrap_err().to_string().lines().map(str::to_owned).collect()
}

const GOOD: &str = r#"
data_dir = "/var/lib/postern"
drain = "1m30s"
[gateway]
port = 15432
tls = true
spool = "64MiB"
[gateway.limits]
sessions = 7
[[peer]]
name = "a"
port = 1
"#;

#[test]
fn reads_all_of_it() {
    let config = read(GOOD, &[]).unwrap();
    assert_eq!(config.data_dir, "/var/lib/postern");
    assert_eq!(config.drain.unwrap().0, std::time::Duration::from_secs(90));
    assert_eq!((config.gateway.port, config.gateway.spool.0, config.gateway.limits.sessions), (15432, 64 << 20, 7));
    assert_eq!((config.peer[0].name.as_str(), config.peer[0].port), ("a", 1));
}

#[test]
fn variables_go_over_the_file() {
    let config = read(
        GOOD,
        &[
            ("POSTERN__DATA_DIR", "/elsewhere"),
            ("POSTERN_GATEWAY__PORT", "1"),
            ("POSTERN_GATEWAY__TLS", "false"),
            ("POSTERN_GATEWAY__NAMES", r#"["a", "b"]"#),
            ("POSTERN_GATEWAY__LIMITS__SESSIONS", "9"),
            // Text that TOML would read as something else.
            ("POSTERN_GATEWAY__PASSWORD", "12345"),
            ("POSTERN_GATEWAY__SPOOL", "1KiB"),
            // Not for the configuration.
            ("POSTERN_TOKEN", "x"),
            ("POSTERNX__Y", "x"),
            ("PATH", "x"),
        ],
    )
    .unwrap();
    assert_eq!(config.data_dir, "/elsewhere");
    let expected = Gateway {
        port: 1,
        tls: false,
        names: vec!["a".to_owned(), "b".to_owned()],
        spool: ByteSize(1024),
        password: "12345".to_owned(),
        limits: Limits { sessions: 9 },
    };
    assert_eq!(config.gateway, expected);
    assert_eq!(read("", &[("POSTERN__DATA_DIR", "2026-11-21")]).unwrap().data_dir, "2026-11-21");
}

#[test]
fn every_fault_is_told_with_its_line() {
    let text = r#"
data_dir = "x"
drain = "soon"
colour = "red"
[gateway]
port = 70000
tls = "yes"
names = ["a", 7]
prot = 1
[gateway.limits]
sessions = -1
[[peer]]
name = "a"
port = "x"
[[peer]]
port = 2
[nowhere]
a = 1
"#;
    let found = faults(text, &[("POSTERN_GATEWAY__PASWORD", "hunter2")]);
    let lines: Vec<&str> = found.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "p.toml:3:",
            "p.toml:4:",
            "p.toml:6:",
            "p.toml:7:",
            "p.toml:8:",
            "p.toml:9:",
            "p.toml:11:",
            "p.toml:14:",
            "p.toml:15:",
            "p.toml:17:",
            "environment"
        ],
        "{found:#?}"
    );
    assert!(found[0].contains("a duration has a unit"), "{}", found[0]);
    assert!(found[1].contains("unknown field `colour`"), "{}", found[1]);
    assert!(found[8].contains("missing field `name`"), "{}", found[8]);
    assert!(found[10].contains("POSTERN_GATEWAY__PASWORD: unknown field `pasword`"), "{}", found[10]);
}

#[test]
fn a_fault_does_not_echo_as_a_missing_key() {
    let found = faults("data_dir = 7\ncolour = 1", &[]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("p.toml:1: invalid type") && found[1].starts_with("p.toml:2: unknown"), "{found:#?}");
    assert_eq!(faults("", &[]), ["p.toml:1: missing field `data_dir`"]);
}

#[test]
fn faults_of_syntax_are_all_told() {
    let found = faults("data_dir = \ndrain = maybe\n[gateway\nport = 1\n", &[]);
    for (line, fault) in (1..=3).zip(&found) {
        assert!(fault.starts_with(&format!("p.toml:{line}: ")), "{found:#?}");
    }
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(faults("a = 1\na = 2\n", &[])[0].starts_with("p.toml:2: "));
}

#[test]
fn values_of_variables_are_never_shown() {
    let secret = "hunter2-hunter2";
    for variable in
        ["POSTERN_GATEWAY__PORT", "POSTERN_GATEWAY__TLS", "POSTERN__DRAIN", "POSTERN_GATEWAY__LIMITS", "POSTERN__PEER"]
    {
        let found = faults("data_dir = \"x\"", &[(variable, secret)]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(variable) && !found[0].contains("hunter2"), "{found:#?}");
    }
    let found = faults("data_dir = \"x\"", &[("POSTERN_DATA_DIR__X", "1"), ("POSTERN_", "1"), ("POSTERN___", "1")]);
    assert!(found.iter().any(|fault| fault.contains("POSTERN_DATA_DIR__X")), "{found:#?}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone.toml");
    let error = load::<Config>(&path, "POSTERN").unwrap_err().to_string();
    assert!(error.contains("gone.toml: cannot be read"), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load::<Config>(&path, "POSTERN").unwrap_err().to_string().contains("UTF-8"));
    std::fs::write(&path, GOOD).unwrap();
    assert!(load::<Config>(&path, "POSTERN_TEST_OF_CONFIG").is_ok());
    assert!(read(&"#".repeat(MAX_FILE + 1), &[]).unwrap_err().to_string().contains("larger"));
}

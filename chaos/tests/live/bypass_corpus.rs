//! The bypass corpus: attempts to get round policy and masks, as `fixtures/bypass/attempts.txt` has them.
//!
//! `# ` begins a section; `== NAME | WHO | EXPECTED` an attempt, of which each further line is a step: `> ` a simple query, `+ ` the same by the
//! extended protocol, `& ` in a pipeline that the next step or the end sends at once, `P name: sql`, `B name` and `C name` a named statement
//! prepared, bound and run, and closed, `F name` a Bind of it in binary, `M k bytes` any message, `$ name=value` a setting of the startup, `! ` what
//! somebody else does at the target meanwhile. `{x5c}` is a byte, `{63*a}` one that is repeated. Lines that begin with two blanks go on.

use std::fmt::Write as _;

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) section: String,
    pub(crate) name: String,
    pub(crate) who: String,
    pub(crate) expected: Expected,
    pub(crate) steps: Vec<Step>,
    /// The steps as they are written.
    pub(crate) written: Vec<String>,
}

/// What must come of it. No planted value ever reaches the client, and nothing changes at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Postern refuses its last step, with this SQLSTATE.
    Denied(String),
    /// Its last step runs, and shows masks.
    Masked,
    /// It may run, or fail at the server: there is nothing to be had by it.
    Harmless,
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Startup(String, String),
    Simple(Vec<u8>),
    Extended(Vec<u8>),
    Pipelined(Vec<u8>),
    Parse(Vec<u8>, Vec<u8>),
    Bind(Vec<u8>, u16),
    Close(Vec<u8>),
    Message(char, Vec<u8>),
    Elsewhere(String),
}

/// A file of the corpus.
pub(crate) fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{}/fixtures/bypass/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// All attempts.
pub(crate) fn attempts() -> Vec<Attempt> {
    let text = fixture("attempts.txt");
    let mut section = String::new();
    let mut found: Vec<Attempt> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix("# ") {
            name.clone_into(&mut section);
        } else if let Some(head) = line.strip_prefix("== ") {
            let parts: Vec<&str> = head.split(" | ").collect();
            let [name, who, expected] = parts[..] else { panic!("{line}") };
            let expected = match expected.split_once(' ') {
                Some(("denied", code)) => Expected::Denied(code.to_owned()),
                None if expected == "masked" => Expected::Masked,
                None if expected == "harmless" => Expected::Harmless,
                _ => panic!("{line}"),
            };
            let (section, name, who) = (section.clone(), name.to_owned(), who.to_owned());
            found.push(Attempt { section, name, who, expected, steps: Vec::new(), written: Vec::new() });
        } else {
            let attempt = found.last_mut().expect("an attempt comes first");
            match line.strip_prefix("  ") {
                Some(more) => {
                    let last = attempt.written.last_mut().expect("a step comes first");
                    last.push('\n');
                    last.push_str(more);
                }
                None => attempt.written.push(line.to_owned()),
            }
        }
    }
    for attempt in &mut found {
        attempt.steps = attempt.written.iter().map(|line| step(line)).collect();
    }
    found
}

fn step(line: &str) -> Step {
    let (kind, rest) = line.split_at_checked(2).unwrap_or((line, ""));
    let named = |rest: &str| {
        let (name, text) = rest.split_once(": ").unwrap_or((rest, ""));
        (bytes(name), bytes(text))
    };
    match kind {
        "> " => Step::Simple(bytes(rest)),
        "+ " => Step::Extended(bytes(rest)),
        "& " => Step::Pipelined(bytes(rest)),
        "P " => {
            let (name, text) = named(rest);
            Step::Parse(name, text)
        }
        "B " => Step::Bind(bytes(rest), 0),
        "F " => Step::Bind(bytes(rest), 1),
        "C " => Step::Close(bytes(rest)),
        "M " => {
            let (tag, body) = rest.split_once(' ').unwrap_or((rest, ""));
            Step::Message(tag.chars().next().expect("a type"), bytes(body))
        }
        "$ " => {
            let (name, value) = rest.split_once('=').expect("name=value");
            Step::Startup(name.to_owned(), value.to_owned())
        }
        "! " => Step::Elsewhere(rest.to_owned()),
        _ => panic!("no step: {line:?}"),
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.extend(before.as_bytes());
        let (inside, after) = after.split_once('}').unwrap_or((after, ""));
        let counted = inside.split_once('*').and_then(|(count, text)| Some((count.parse::<usize>().ok()?, text)));
        let byte = inside.strip_prefix('x').filter(|hex| hex.len() == 2);
        match (byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()), counted) {
            (Some(byte), _) => out.push(byte),
            (None, Some((count, text))) => out.extend(text.repeat(count).as_bytes()),
            (None, None) => {
                out.push(b'{');
                rest = rest.get(before.len() + 1..).expect("what follows the brace");
                continue;
            }
        }
        rest = after;
    }
    out.extend(rest.as_bytes());
    out
}

/// docs/bypass-corpus.md
pub(crate) fn document(attempts: &[Attempt]) -> String {
    let mut out = fixture("head.md");
    let mut section = "";
    for attempt in attempts {
        if attempt.section != section {
            section = &attempt.section;
            write!(out, "\n## {section}\n\n| attempt | by | what is sent | comes to |\n| --- | --- | --- | --- |\n")
                .unwrap();
        }
        let expected = match &attempt.expected {
            Expected::Denied(code) => format!("denied `{code}`"),
            Expected::Masked => "masked".to_owned(),
            Expected::Harmless => "harmless".to_owned(),
        };
        let code = |line: &String| {
            let plain = line.replace('\n', "⏎").replace('|', "\\|");
            let ticks = if plain.contains('`') { "``" } else { "`" };
            format!("{ticks}{plain}{ticks}")
        };
        let steps: Vec<String> = attempt.written.iter().map(code).collect();
        writeln!(out, "| {} | {} | {} | {expected} |", attempt.name, attempt.who, steps.join("<br>")).unwrap();
    }
    out
}

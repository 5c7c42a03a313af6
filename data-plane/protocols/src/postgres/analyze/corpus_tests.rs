//! A corpus of statements beside what is read out of each. `fixtures/corpus.txt` holds them: a statement on a line of its own, then, indented,
//! its actions or why it is refused. `UPDATE_FIXTURES=1` writes it anew from the statements; read the difference.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::tests::{context, read};
use super::*;

const CORPUS: &str = include_str!("fixtures/corpus.txt");

fn outcome(sql: &str) -> String {
    let mut out = String::new();
    match read(sql) {
        Ok(statement) if statement.actions.is_empty() => out.push_str("    nothing\n"),
        Ok(statement) => statement.actions.iter().for_each(|action| writeln!(out, "    {action}").unwrap()),
        Err(fault) => writeln!(out, "    refused: {fault}").unwrap(),
    }
    out
}

#[test]
fn corpus() {
    let mut found = String::new();
    let mut statements = 0;
    for line in CORPUS.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(found, "{line}").unwrap();
        if !line.is_empty() && !line.starts_with('#') {
            found.push_str(&outcome(line));
            statements += 1;
        }
    }
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/postgres/analyze/fixtures/corpus.txt");
        std::fs::write(path, &found).unwrap();
    }
    assert!(statements >= 150, "{statements}");
    for (known, found) in CORPUS.lines().zip(found.lines()) {
        assert_eq!(known, found);
    }
    assert_eq!(CORPUS, found);
}

/// The parser keeps its state in C: what it reads must not hang on what other threads read.
#[test]
fn many_threads_read_the_same() {
    let statements = || CORPUS.lines().filter(|line| !line.starts_with([' ', '#']) && !line.is_empty());
    let expected: Vec<String> = statements().map(outcome).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (sql, expected) in statements().zip(&expected) {
                    assert_eq!(&outcome(sql), expected, "{sql}");
                }
            });
        }
    });
}

/// Words that statements are made of, so that random ones get past the first token.
const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "orders",
    "customers",
    "c",
    "*",
    ".",
    ",",
    "(",
    ")",
    "1",
    "'x'",
    "=",
    "AND",
    "UPDATE",
    "SET",
    "id",
    "DELETE",
    "INSERT",
    "INTO",
    "VALUES",
    "WITH",
    "AS",
    "RETURNING",
    "ON",
    "CONFLICT",
    "DO",
    "NOTHING",
    "JOIN",
    "USING",
    "UNION",
    "ALL",
    "DROP",
    "TABLE",
    "CREATE",
    "ALTER",
    "GRANT",
    "TO",
    "COPY",
    "STDOUT",
    "EXPLAIN",
    "PREPARE",
    "EXECUTE",
    "DECLARE",
    "CURSOR",
    "FOR",
    "FETCH",
    "$1",
    "::",
    "text",
    "[",
    "]",
    ";",
    "count",
    "NULL",
    "ORDER",
    "BY",
    "LIMIT",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "ARRAY",
    "EXISTS",
    "MERGE",
    "MATCHED",
    "search_path",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = analyze(&bytes, &context(), &SessionNames::default());
    }

    #[test]
    fn any_words_do_not_panic(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..24)) {
        let _ = read(&words.join(" "));
    }

    #[test]
    fn any_mangled_statement_does_not_panic(line in any::<proptest::sample::Index>(), cut in 0_usize..80, word in proptest::sample::select(WORDS)) {
        let statements: Vec<&str> = CORPUS.lines().filter(|line| !line.starts_with([' ', '#'])).collect();
        let mut sql: String = statements[line.index(statements.len())].to_owned();
        let cut = cut.min(sql.len());
        if sql.is_char_boundary(cut) {
            sql.insert_str(cut, &format!(" {word} "));
        }
        let _ = read(&sql);
    }
}

//! What the values in a statement may be set against: which columns they are compared with or written to.
//!
//! For those who review a held statement and may not see some of its columns (I4). It goes by tokens and not by the tree: a value that is not
//! met by a rule below may be of any column, so nothing that is overlooked is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pg_query::protobuf::{KeywordKind, ScanToken, Token};
use postern_core::background::{MAX_VALUES, ValuePlace, ValueUse};

use crate::postgres::catalog::Catalog;
use crate::sql::{Facts, Relation, Statement, StatementKind};

/// Relations beyond which none are told.
const MAX_RELATIONS: usize = 200;
/// Relations looked through for what stands behind others.
const MAX_REACHED: usize = 1_000;
/// Any column.
const ANY: &str = "*";

/// The relations that a statement concerns, and its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Database, schema, name. None, where values have columns: it may be any.
    pub relations: Vec<[Arc<str>; 3]>,
    /// Each value once.
    pub values: Vec<ValueUse>,
}

/// Words that are no columns unless a relation has one of the name.
const WORDS: &[&str] = &[
    "between",
    "like",
    "ilike",
    "similar",
    "to",
    "escape",
    "is",
    "isnull",
    "notnull",
    "exists",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "cast",
    "extract",
    "substring",
    "trim",
    "position",
    "overlay",
    "interval",
    "time",
    "timestamp",
    "zone",
    "at",
    "char",
    "character",
    "varchar",
    "varying",
    "numeric",
    "decimal",
    "dec",
    "int",
    "integer",
    "bigint",
    "smallint",
    "real",
    "float",
    "double",
    "precision",
    "boolean",
    "bit",
    "json",
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "next",
    "rows",
    "row",
    "only",
    "first",
    "ties",
    "nulls",
    "last",
    "by",
    "over",
    "within",
    "filter",
    "without",
    "distinct",
];

/// The values of `text`, whose classification is `statement`, with as many `parameters`.
#[must_use]
pub fn values(text: &str, statement: &Statement, catalog: &Catalog, database: &str, parameters: usize) -> Values {
    let (relations, exact) = concerned(&statement.facts, catalog);
    let columns: BTreeSet<&str> = relations
        .iter()
        .filter_map(|relation| catalog.relation(&relation.schema, &relation.name))
        .flat_map(|(_, relation)| relation.columns.values().map(|column| &*column.name))
        .collect();
    let simple = matches!(
        statement.kinds.as_slice(),
        [StatementKind::Select | StatementKind::Insert | StatementKind::Update | StatementKind::Delete]
    );
    let found = tokens(text).map(|tokens| Walk::new(text, &columns, exact && simple).over(&tokens));
    let mut uses = found.unwrap_or_else(|| BTreeMap::from([(whole(text), Columns::Any)]));
    // What no token tells of may be anything.
    for number in 1..=u32::try_from(parameters).unwrap_or(u32::MAX).min(MAX_PARAMETERS) {
        uses.entry(ValuePlace::Parameter(number)).or_insert(Columns::Any);
    }
    if uses.len() > MAX_VALUES {
        uses.retain(|place, columns| {
            *columns = Columns::Any;
            matches!(place, ValuePlace::Parameter(number) if *number <= MAX_PARAMETERS)
        });
        uses.insert(whole(text), Columns::Any);
    }
    let relations: Vec<[Arc<str>; 3]> = if relations.len() > MAX_RELATIONS {
        for columns in uses.values_mut() {
            *columns = Columns::Any;
        }
        Vec::new()
    } else {
        relations.iter().map(|one| [database.into(), (*one.schema).into(), (*one.name).into()]).collect()
    };
    let values = uses.into_iter().map(|(place, columns)| ValueUse { place, columns: columns.names() });
    Values { relations, values: values.filter(|value| !value.columns.is_empty()).collect() }
}

/// As many as reviewers are shown.
const MAX_PARAMETERS: u32 = 128;

fn whole(text: &str) -> ValuePlace {
    ValuePlace::Text(0, u32::try_from(text.len()).unwrap_or(u32::MAX))
}

/// `text` without its values, `...` in the place of each. None, when it cannot be told what is one.
#[must_use]
pub fn blanked(text: &str) -> Option<String> {
    let mut out = text.to_owned();
    for token in tokens(text)?.iter().rev().filter(|token| is_value(token)) {
        let (from, to) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        out.get(from..to)?;
        out.replace_range(from..to, "...");
    }
    Some(out)
}

fn tokens(text: &str) -> Option<Vec<ScanToken>> {
    // C behind a binding, as the parser.
    let scanned = std::panic::catch_unwind(|| pg_query::scan(text)).ok()?;
    scanned.ok().map(|result| result.tokens)
}

fn is_value(token: &ScanToken) -> bool {
    matches!(
        token.token(),
        Token::Sconst
            | Token::Usconst
            | Token::Bconst
            | Token::Xconst
            | Token::Iconst
            | Token::Fconst
            | Token::SqlComment
            | Token::CComment
    )
}

/// What the statement touches, and what stands behind it. Whether columns are the only way to their values: no view, partition or parent gives them
/// other names.
fn concerned(facts: &Facts, catalog: &Catalog) -> (BTreeSet<Relation>, bool) {
    let mut relations: BTreeSet<Relation> = facts.relations().cloned().collect();
    let mut exact = !facts.opaque_call && !facts.unseen && relations.iter().all(|one| one.name != ANY);
    let mut waiting: Vec<u32> = Vec::new();
    for relation in &relations {
        match catalog.relation(&relation.schema, &relation.name) {
            Some((oid, _)) => waiting.push(oid),
            None => exact = false,
        }
    }
    let mut seen: BTreeSet<u32> = waiting.iter().copied().collect();
    while let Some(oid) = waiting.pop() {
        for behind in catalog.behind(oid) {
            exact = false;
            if seen.len() < MAX_REACHED && seen.insert(behind) {
                waiting.push(behind);
                if let Some(relation) = catalog.by_oid(behind) {
                    relations.insert(Relation::new(&*relation.schema, &*relation.name));
                }
            }
        }
    }
    (relations, exact)
}

/// Which columns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Columns {
    Named(BTreeSet<String>),
    Any,
}

impl Columns {
    fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Named(own), Self::Named(other)) => own.extend(other.iter().cloned()),
            _ => *self = Self::Any,
        }
    }

    fn names(self) -> Vec<Arc<str>> {
        match self {
            Self::Any => vec![ANY.into()],
            Self::Named(names) => names.into_iter().map(Into::into).collect(),
        }
    }
}

/// The part of the statement that is being walked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Clause {
    /// Conditions: each is of the columns that it names.
    Where,
    /// UPDATE's assignments.
    Set,
    /// A count of rows.
    Limit,
    /// INSERT's rows, for these columns; and the place in the row.
    Rows(Vec<String>, usize),
    /// Where a value may go anywhere.
    Other,
}

struct Walk<'a> {
    text: &'a str,
    columns: &'a BTreeSet<&'a str>,
    exact: bool,
    out: BTreeMap<ValuePlace, Columns>,
    clause: Clause,
    depth: usize,
    /// BETWEENs whose AND is still to come.
    between: usize,
    places: Vec<ValuePlace>,
    named: BTreeSet<String>,
    any: bool,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str, columns: &'a BTreeSet<&'a str>, exact: bool) -> Self {
        Self {
            text,
            columns,
            exact,
            out: BTreeMap::new(),
            clause: Clause::Other,
            depth: 0,
            between: 0,
            places: Vec::new(),
            named: BTreeSet::new(),
            any: false,
        }
    }

    fn over(mut self, tokens: &[ScanToken]) -> BTreeMap<ValuePlace, Columns> {
        let rows = self.insert_columns(tokens);
        for (index, token) in tokens.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|index| tokens.get(index));
            self.step(token, before, tokens.get(index.saturating_add(1)), rows.as_deref());
        }
        self.flush();
        self.out
    }

    fn step(
        &mut self,
        token: &ScanToken,
        before: Option<&ScanToken>,
        next: Option<&ScanToken>,
        rows: Option<&[String]>,
    ) {
        match token.token() {
            Token::Ascii40 | Token::Ascii91 | Token::Case => {
                self.depth = self.depth.saturating_add(1);
                return;
            }
            Token::Ascii41 | Token::Ascii93 | Token::EndP => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 && matches!(self.clause, Clause::Rows(..)) {
                    self.flush();
                    if let Clause::Rows(_, place) = &mut self.clause {
                        *place = 0;
                    }
                }
                return;
            }
            Token::Ascii44 if self.depth == 1 && matches!(self.clause, Clause::Rows(..)) => {
                self.flush();
                if let Clause::Rows(_, place) = &mut self.clause {
                    *place = place.saturating_add(1);
                }
                return;
            }
            _ => {}
        }
        if is_value(token) {
            let place = u32::try_from(token.start).ok().zip(u32::try_from(token.end).ok());
            let comment = matches!(token.token(), Token::SqlComment | Token::CComment);
            if let Some((from, to)) = place {
                let place = ValuePlace::Text(from, to);
                if comment {
                    self.put(place, &Columns::Any);
                } else {
                    self.places.push(place);
                }
            }
            return;
        }
        if token.token() == Token::Param {
            let number = self.word(token).trim_start_matches('$').parse();
            self.places.push(ValuePlace::Parameter(number.unwrap_or(u32::MAX)));
            return;
        }
        if self.depth == 0 && self.turns(token, rows) {
            return;
        }
        self.name(token, before, next);
    }

    /// Whether the token begins another part.
    fn turns(&mut self, token: &ScanToken, rows: Option<&[String]>) -> bool {
        let clause = match token.token() {
            Token::And if self.between > 0 => {
                self.between = self.between.saturating_sub(1);
                return true;
            }
            Token::Between => {
                self.between = self.between.saturating_add(1);
                return true;
            }
            Token::And | Token::Or if self.clause == Clause::Where => Clause::Where,
            Token::Ascii44 if self.clause == Clause::Set => Clause::Set,
            Token::Where | Token::Having => Clause::Where,
            Token::Set => Clause::Set,
            Token::Limit | Token::Offset | Token::Fetch => Clause::Limit,
            Token::Values => rows.map_or(Clause::Other, |rows| Clause::Rows(rows.to_vec(), 0)),
            // A reserved word that says nothing of columns stays where it is; all others begin something that is not followed here.
            Token::Not | Token::NullP | Token::TrueP | Token::FalseP | Token::InP | Token::Any | Token::All => {
                return true;
            }
            _ if token.keyword_kind() == KeywordKind::ReservedKeyword => Clause::Other,
            _ => return false,
        };
        self.flush();
        self.clause = clause;
        true
    }

    /// A name, or a word that may be one.
    fn name(&mut self, token: &ScanToken, before: Option<&ScanToken>, next: Option<&ScanToken>) {
        let next = next.map(ScanToken::token);
        if before.is_some_and(|before| before.token() == Token::Typecast) {
            return;
        }
        match token.token() {
            Token::Uident => self.any = true,
            Token::Ident => {
                // A call, the type of a literal, or what qualifies a name.
                if matches!(next, Some(Token::Ascii40 | Token::Sconst | Token::Ascii46)) {
                    return;
                }
                let word = self.identifier(token);
                self.mention(word);
            }
            // `t.*`: the row as a whole.
            Token::Ascii42 if before.is_some_and(|before| before.token() == Token::Ascii46) => self.any = true,
            _ if token.keyword_kind() != KeywordKind::NoKeyword => {
                if next == Some(Token::Ascii46) || token.keyword_kind() == KeywordKind::ReservedKeyword {
                    return;
                }
                let word = self.word(token).to_ascii_lowercase();
                if self.columns.contains(word.as_str()) || !WORDS.contains(&word.as_str()) {
                    self.mention(word);
                }
            }
            _ => {}
        }
    }

    fn mention(&mut self, word: String) {
        if self.columns.contains(word.as_str()) {
            self.named.insert(word);
        } else {
            // An alias, a row as one value, or what nobody knows.
            self.any = true;
        }
    }

    /// The values since the last turn are of the columns since then.
    fn flush(&mut self) {
        let (named, any) = (std::mem::take(&mut self.named), std::mem::take(&mut self.any));
        let any = any || !self.exact;
        let columns = match &self.clause {
            _ if any => Columns::Any,
            Clause::Limit if named.is_empty() => Columns::Named(named),
            Clause::Where | Clause::Set if !named.is_empty() => Columns::Named(named),
            Clause::Rows(rows, place) => match rows.get(*place) {
                Some(column) => Columns::Named(named.into_iter().chain([column.clone()]).collect()),
                None => Columns::Any,
            },
            _ => Columns::Any,
        };
        for place in std::mem::take(&mut self.places) {
            self.put(place, &columns);
        }
        self.between = 0;
    }

    fn put(&mut self, place: ValuePlace, columns: &Columns) {
        self.out.entry(place).and_modify(|known| known.add(columns)).or_insert_with(|| columns.clone());
    }

    /// `INSERT INTO [schema.]name (columns) VALUES`, when it begins so.
    fn insert_columns(&self, tokens: &[ScanToken]) -> Option<Vec<String>> {
        let mut rest = tokens.iter();
        let mut expect = |token: Token| rest.next().filter(|next| next.token() == token).map(drop);
        expect(Token::Insert)?;
        expect(Token::Into)?;
        let mut columns = Vec::new();
        let mut rest = rest.skip_while(|token| matches!(token.token(), Token::Ident | Token::Ascii46));
        if rest.next()?.token() != Token::Ascii40 {
            return None;
        }
        loop {
            let column = rest.next()?;
            let name = match column.token() {
                Token::Ident => self.identifier(column),
                _ if column.keyword_kind() != KeywordKind::NoKeyword => self.word(column).to_ascii_lowercase(),
                _ => return None,
            };
            if !self.columns.contains(name.as_str()) {
                return None;
            }
            columns.push(name);
            match rest.next()?.token() {
                Token::Ascii44 => {}
                Token::Ascii41 => break,
                _ => return None,
            }
        }
        (rest.next()?.token() == Token::Values).then_some(columns)
    }

    fn word(&self, token: &ScanToken) -> &'a str {
        let from = usize::try_from(token.start).unwrap_or(usize::MAX);
        let to = usize::try_from(token.end).unwrap_or(usize::MAX);
        self.text.get(from..to).unwrap_or_default()
    }

    /// As the server reads it: folded, unless it is quoted.
    fn identifier(&self, token: &ScanToken) -> String {
        let word = self.word(token);
        match word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => word.to_ascii_lowercase(),
        }
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;

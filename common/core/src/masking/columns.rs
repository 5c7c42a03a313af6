//! Which columns a rule speaks of, by regular expression or by type.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// Longest expression, in bytes.
const MAX_LENGTH: usize = 1_024;
/// Largest compiled form, in bytes: it is held for as long as the rule is (I11).
const MAX_COMPILED: usize = 256 << 10;

/// A regular expression over `schema.table.column`, or over labels. It takes time linear in the name (I11).
#[derive(Clone)]
pub struct ColumnRegex(Regex);

impl ColumnRegex {
    /// Reads it.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty: it would name every column".into());
        }
        if text.len() > MAX_LENGTH {
            return Err(format!("is longer than {MAX_LENGTH} bytes"));
        }
        let built = RegexBuilder::new(text).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "is too large when compiled".into(),
            // The rest of it draws the expression over several lines.
            other => other.to_string().lines().last().unwrap_or_default().trim().to_owned(),
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is found in the name.
    #[must_use]
    pub fn is_match(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl fmt::Debug for ColumnRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.as_str())
    }
}

impl PartialEq for ColumnRegex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ColumnRegex {}

/// A type's name as the target knows it: `inet`, `numeric`, `citext`. Aliases of the SQL standard become the target's own words.
///
/// # Errors
/// Says what is wrong with it.
pub fn type_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ' ' || !c.is_ascii();
    if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
        return Err("must be the name of a type without its schema, length or brackets".into());
    }
    let own = match name.as_str() {
        "integer" | "int" => "int4",
        "smallint" => "int2",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" => "float8",
        "decimal" => "numeric",
        "boolean" => "bool",
        "character varying" => "varchar",
        "character" | "char" => "bpchar",
        "timestamp with time zone" => "timestamptz",
        "timestamp without time zone" => "timestamp",
        "time with time zone" => "timetz",
        "time without time zone" => "time",
        "bit varying" => "varbit",
        other => other,
    };
    Ok(own.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_within_names() {
        let regex = ColumnRegex::parse("(?i)(email|phone)$").unwrap();
        assert!(regex.is_match("public.people.Work_Email") && !regex.is_match("public.emails.id"));
        assert!(ColumnRegex::parse(&format!("a{{{}}}", 1_000_000)).is_err());
        assert!(ColumnRegex::parse("(").unwrap_err().contains("unclosed group"));
        assert!(ColumnRegex::parse("").is_err());
    }

    #[test]
    fn types_go_by_the_targets_names() {
        assert_eq!(type_name("Double Precision").unwrap(), "float8");
        assert_eq!(type_name("inet").unwrap(), "inet");
        assert!(type_name("varchar(20)").is_err() && type_name("pg_catalog.inet").is_err() && type_name("").is_err());
    }
}

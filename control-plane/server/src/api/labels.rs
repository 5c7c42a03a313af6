//! Label selectors, as `kubectl` users write them.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The longest selector, in bytes.
const MAX_TEXT: usize = 4_096;

/// What labels must be like. All requirements must hold; none: everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Has,
    Lacks,
    /// One of these.
    In(Vec<String>),
    /// None of these; an object without the label matches.
    NotIn(Vec<String>),
}

impl LabelSelector {
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|Requirement { key, test }| {
            let value = labels.get(key);
            match test {
                Test::Has => value.is_some(),
                Test::Lacks => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

impl FromStr for LabelSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("is longer than {MAX_TEXT} bytes"));
        }
        let parts = split(text)?;
        parts.into_iter().map(requirement).collect::<Result<_, _>>().map(Self)
    }
}

/// At commas outside of parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            b'(' if inside => return Err("has a parenthesis inside of another".to_owned()),
            b'(' => inside = true,
            b')' if !inside => return Err("has a parenthesis that closes nothing".to_owned()),
            b')' => inside = false,
            b',' if !inside => {
                parts.push(text.get(start..place).unwrap_or_default());
                start = place.saturating_add(1);
            }
            _ => {}
        }
    }
    if inside {
        return Err("has a parenthesis that is not closed".to_owned());
    }
    parts.push(text.get(start..).unwrap_or_default());
    Ok(parts)
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let text = text.trim();
    let made = |key: &str, test: Test| Ok(Requirement { key: word(key)?, test });
    if let Some(key) = text.strip_prefix('!') {
        return made(key, Test::Lacks);
    }
    if let Some((key, value)) = text.split_once("!=") {
        return made(key, Test::NotIn(vec![value_of(value)?]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(key, Test::In(vec![value_of(value)?]));
    }
    if let Some(list) = text.strip_suffix(')')
        && let Some((head, values)) = list.split_once('(')
    {
        let values = values.split(',').map(value_of).collect::<Result<Vec<_>, _>>()?;
        return match head.trim_end().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => made(key, Test::In(values)),
            Some((key, "notin")) => made(key, Test::NotIn(values)),
            _ => Err(format!("{text:?}: a list follows \"KEY in\" or \"KEY notin\"")),
        };
    }
    made(text, Test::Has)
}

fn word(text: &str) -> Result<String, String> {
    let text = text.trim();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
    if text.is_empty() || text.len() > 63 || !text.chars().all(fits) {
        return Err(format!("{text:?} is no label's key"));
    }
    Ok(text.to_owned())
}

fn value_of(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.contains(['(', ')', '!', '=', ',']) || text.len() > 253 {
        return Err(format!("{text:?} is no label's value"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str) -> bool {
        let labels = [("env", "prod"), ("tier", "web"), ("owner", "")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        selector.parse::<LabelSelector>().unwrap().matches(&labels)
    }

    #[test]
    fn every_form() {
        for yes in [
            "",
            " ",
            "env=prod",
            "env==prod",
            "env = prod , tier != db",
            "owner",
            "!legacy",
            "env in (prod, test)",
            "env in(prod),owner",
            "tier notin (db,cache)",
            "none notin (x)",
            "none!=x",
            "owner=",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in ["env=test", "env!=prod", "legacy", "!owner", "env in (test)", "tier notin (web)", "env=prod,legacy"]
        {
            assert!(!matches(no), "{no}");
        }
    }

    #[test]
    fn what_is_no_selector() {
        for bad in
            [",", "env=prod,", "=x", "env in prod", "env in (a", "env)", "env of (a)", "a=b=c", "a b", "((a))", "!"]
        {
            assert!(bad.parse::<LabelSelector>().is_err(), "{bad}");
        }
        assert!("x".repeat(5_000).parse::<LabelSelector>().is_err());
    }
}

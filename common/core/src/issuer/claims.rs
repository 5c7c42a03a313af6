//! Which claims count, and for what.

use std::fmt;

/// Bytes of a path.
const MAX_PATH: usize = 512;
/// Names in a path.
const MAX_DEPTH: usize = 16;

/// A claim, by its name or by a path into nested ones.
///
/// A text that begins with `/` is a JSON Pointer (RFC 6901): `/kubernetes.io/namespace`; in names `~1` is a slash and `~0` a tilde. Any
/// other is names with dots between, where a claim of just this name goes first: `realm_access.roles`, `https://acme.example/groups`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimPath {
    text: String,
    names: Vec<String>,
}

/// The text names no claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaimPath {
    /// Nothing, or a name without a letter.
    #[error("a name in it is empty")]
    Empty,
    /// Too long, or too deep.
    #[error("has more than {MAX_PATH} bytes or {MAX_DEPTH} names")]
    TooLong,
    /// RFC 6901, section 3.
    #[error("in a JSON Pointer a tilde must be written ~0, and a slash in a name ~1")]
    Escape,
}

impl ClaimPath {
    /// Reads a path.
    ///
    /// # Errors
    /// It is empty, too long, or a malformed JSON Pointer.
    pub fn parse(text: &str) -> Result<Self, InvalidClaimPath> {
        if text.len() > MAX_PATH {
            return Err(InvalidClaimPath::TooLong);
        }
        let names: Vec<String> = match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(unescaped).collect::<Result<_, _>>()?,
            None => text.split('.').map(str::to_owned).collect(),
        };
        if names.len() > MAX_DEPTH {
            return Err(InvalidClaimPath::TooLong);
        }
        // `a..b` can still be the name of one claim; a pointer has no such second meaning.
        if text.is_empty() || (text.starts_with('/') && names.iter().any(String::is_empty)) {
            return Err(InvalidClaimPath::Empty);
        }
        Ok(Self { text: text.to_owned(), names })
    }

    /// A claim of the first level by its name, which is not read as a path.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        Self { text: name.to_owned(), names: vec![name.to_owned()] }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name that goes before the path: all of the text, unless it is a pointer.
    #[must_use]
    pub fn whole(&self) -> Option<&str> {
        (!self.text.starts_with('/')).then_some(&*self.text)
    }

    /// The names, from the outermost on; never none.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

fn unescaped(name: &str) -> Result<String, InvalidClaimPath> {
    let mut out = String::with_capacity(name.len());
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        out.push(match (letter, if letter == '~' { letters.next() } else { None }) {
            ('~', Some('0')) => '~',
            ('~', Some('1')) => '/',
            ('~', _) => return Err(InvalidClaimPath::Escape),
            (other, _) => other,
        });
    }
    Ok(out)
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A claim that names groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupsClaim {
    /// Which.
    pub claim: ClaimPath,
    /// Put before each name that comes of it, after the issuer's own prefix.
    pub prefix: String,
    /// How the names are in it.
    pub form: GroupsForm,
}

/// How names of groups are in a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GroupsForm {
    /// A list of texts, or one text that is one name.
    #[default]
    List,
    /// One text with spaces between names, as OAuth's `scope`.
    Spaces,
    /// One text with commas between names; spaces around them do not count.
    Commas,
    /// The names of an object's members; their values do not count.
    Keys,
}

impl GroupsClaim {
    /// A list, or a single name, without a prefix of its own.
    #[must_use]
    pub const fn list(claim: ClaimPath) -> Self {
        Self { claim, prefix: String::new(), form: GroupsForm::List }
    }

    /// Nothing but the claim is said.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.prefix.is_empty() && self.form == GroupsForm::List
    }
}

/// A claim that must be there, and what it may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredClaim {
    /// Which.
    pub claim: ClaimPath,
    /// One of these fits its text; never none. Of a list one entry must fit; `true`, `false` and whole numbers are their texts.
    pub values: Vec<ClaimPattern>,
}

/// A text with wildcards: `*` is any text without a slash, `**` any text. Either may be nothing at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Letter(char),
    /// `*`
    Within,
    /// `**`
    Across,
}

impl ClaimPattern {
    /// Bytes of a pattern, and of the text that is compared with one.
    pub const MAX: usize = 1024;

    /// Reads a pattern; every text of at most [`Self::MAX`] bytes is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > Self::MAX {
            return None;
        }
        let mut parts = Vec::new();
        for letter in text.chars() {
            match (letter, parts.last()) {
                ('*', Some(Part::Across)) => {}
                ('*', Some(Part::Within)) => {
                    parts.pop();
                    parts.push(Part::Across);
                }
                ('*', _) => parts.push(Part::Within),
                (letter, _) => parts.push(Part::Letter(letter)),
            }
        }
        Some(Self { text: text.to_owned(), parts })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the first wildcard, and whether there is one.
    #[must_use]
    pub fn literal(&self) -> (&str, bool) {
        match self.text.split_once('*') {
            Some((before, _)) => (before, true),
            None => (&self.text, false),
        }
    }

    /// What stands after the last wildcard.
    #[must_use]
    pub fn literal_end(&self) -> &str {
        self.text.rsplit_once('*').map_or(&*self.text, |(_, after)| after)
    }

    /// Whether `text` fits, letter by letter. Time is bounded by the product of both lengths.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        if text.len() > Self::MAX {
            return false;
        }
        if !self.text.contains('*') {
            return self.text == text;
        }
        // All the places in the pattern that what was read so far can have led to.
        let mut places = vec![false; self.parts.len().saturating_add(1)];
        self.reach(0, &mut places);
        for letter in text.chars() {
            let mut next = vec![false; places.len()];
            for (place, _) in places.iter().enumerate().filter(|(_, reached)| **reached) {
                match self.parts.get(place) {
                    Some(Part::Letter(wanted)) if *wanted == letter => self.reach(place.saturating_add(1), &mut next),
                    Some(Part::Within) if letter != '/' => self.reach(place, &mut next),
                    Some(Part::Across) => self.reach(place, &mut next),
                    _ => {}
                }
            }
            places = next;
        }
        places.last().copied().unwrap_or(false)
    }

    /// A wildcard may be nothing: with it the place behind it is reached.
    fn reach(&self, place: usize, places: &mut [bool]) {
        let mut place = place;
        while let Some(reached) = places.get_mut(place) {
            *reached = true;
            match self.parts.get(place) {
                Some(Part::Within | Part::Across) => place = place.saturating_add(1),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_pointers_or_dotted() {
        let names = |text: &str| ClaimPath::parse(text).unwrap().names().to_vec();
        assert_eq!(names("a.b.c"), ["a", "b", "c"]);
        assert_eq!(names("/kubernetes.io/serviceaccount/name"), ["kubernetes.io", "serviceaccount", "name"]);
        assert_eq!(names("/https:~1~1acme.example~1groups~0"), ["https://acme.example/groups~"]);
        assert_eq!(ClaimPath::parse("https://acme.example/x").unwrap().whole(), Some("https://acme.example/x"));
        assert_eq!(ClaimPath::parse("/a").unwrap().whole(), None);
        for (text, why) in [
            ("", InvalidClaimPath::Empty),
            ("/", InvalidClaimPath::Empty),
            ("/a//b", InvalidClaimPath::Empty),
            ("/a~", InvalidClaimPath::Escape),
            ("/a~2", InvalidClaimPath::Escape),
            (&"a.".repeat(17), InvalidClaimPath::TooLong),
            (&"a".repeat(513), InvalidClaimPath::TooLong),
        ] {
            assert_eq!(ClaimPath::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn patterns_stay_within_slashes_unless_told() {
        let fits = |pattern: &str, text: &str| ClaimPattern::parse(pattern).unwrap().fits(text);
        for (pattern, text) in [
            ("acme/app", "acme/app"),
            ("acme/*", "acme/app"),
            ("acme/*", "acme/"),
            ("acme/**", "acme/team/app"),
            ("refs/heads/release-*", "refs/heads/release-1.2"),
            ("*@p.iam.example", "robot@p.iam.example"),
            ("spiffe://td/**/ci", "spiffe://td/a/b/ci"),
            ("a*b*c", "axxbyybc"),
            ("**", ""),
            ("***", "a/b"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("acme/app", "acme/app2"),
            ("acme/app", "Acme/app"),
            ("acme/*", "acme/team/app"),
            ("acme/*", "acme-evil/app"),
            ("acme/*", "xacme/app"),
            ("*@p.iam.example", "robot@p.iam.example.evil"),
            ("*@p.iam.example", "a/b@p.iam.example"),
            ("a*b*c", "axxbyyb"),
            ("*", "a/b"),
            ("a", ""),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
        assert!(!fits("**", &"a".repeat(ClaimPattern::MAX + 1)));
        assert!(ClaimPattern::parse("").is_none() && ClaimPattern::parse(&"a".repeat(1025)).is_none());
    }

    proptest! {
        /// Against the obvious, exponential way.
        #[test]
        fn fits_as_the_definition_says(pattern in "[ab/*]{1,7}", text in "[ab/]{0,8}") {
            fn naive(pattern: &[Part], text: &[char]) -> bool {
                match (pattern.split_first(), text.split_first()) {
                    (None, rest) => rest.is_none(),
                    (Some((Part::Letter(wanted), after)), Some((letter, rest))) => wanted == letter && naive(after, rest),
                    (Some((Part::Letter(_), _)), None) => false,
                    (Some((wild, after)), rest) => {
                        naive(after, text)
                            || rest.is_some_and(|(letter, rest)| {
                                (*wild == Part::Across || *letter != '/') && naive(pattern, rest)
                            })
                    }
                }
            }
            let parsed = ClaimPattern::parse(&pattern).unwrap();
            let letters: Vec<char> = text.chars().collect();
            prop_assert_eq!(parsed.fits(&text), naive(&parsed.parts, &letters));
        }

        #[test]
        fn no_path_or_pattern_panics(text in "\\PC{0,40}", value in "\\PC{0,40}") {
            let _ = ClaimPath::parse(&text);
            if let Some(pattern) = ClaimPattern::parse(&text) {
                let _ = pattern.fits(&value);
                prop_assert!(pattern.fits(&text) || text.contains('*'));
            }
        }
    }
}

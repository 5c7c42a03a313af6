//! Tokens and keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest header of a token that is decoded, in bytes.
const MAX_HEADER: usize = 4_096;

/// What a secret is made of after its prefix.
#[derive(Clone, Copy)]
enum Made {
    /// Upper-case letters and digits.
    Upper,
    /// Letters and digits.
    Plain,
    /// Also `-`, `_` and `.`.
    Url,
    /// Also `+`, `/` and `=`.
    Base64,
}

/// Prefix, what follows it, and how many of it at least.
const KEYS: &[(&[u8], Made, usize)] = &[
    // Amazon Web Services
    (b"AKIA", Made::Upper, 16),
    (b"ASIA", Made::Upper, 16),
    (b"ABIA", Made::Upper, 16),
    (b"ACCA", Made::Upper, 16),
    // Google
    (b"AIza", Made::Url, 35),
    (b"ya29.", Made::Url, 20),
    (b"GOCSPX-", Made::Url, 24),
    // Azure
    (b"AccountKey=", Made::Base64, 64),
    (b"SharedAccessKey=", Made::Base64, 40),
    // GitHub, GitLab
    (b"ghp_", Made::Plain, 36),
    (b"gho_", Made::Plain, 36),
    (b"ghu_", Made::Plain, 36),
    (b"ghs_", Made::Plain, 36),
    (b"ghr_", Made::Plain, 36),
    (b"github_pat_", Made::Url, 22),
    (b"glpat-", Made::Url, 20),
    // Slack
    (b"xoxa-", Made::Url, 10),
    (b"xoxb-", Made::Url, 10),
    (b"xoxe-", Made::Url, 10),
    (b"xoxp-", Made::Url, 10),
    (b"xoxr-", Made::Url, 10),
    (b"xoxs-", Made::Url, 10),
    (b"xapp-", Made::Url, 10),
    // Stripe
    (b"sk_live_", Made::Plain, 16),
    (b"sk_test_", Made::Plain, 16),
    (b"rk_live_", Made::Plain, 16),
    (b"rk_test_", Made::Plain, 16),
    (b"whsec_", Made::Base64, 24),
    // npm, PyPI, SendGrid
    (b"npm_", Made::Plain, 36),
    (b"pypi-", Made::Url, 50),
    (b"SG.", Made::Url, 60),
];

/// Names before which a secret key of Amazon's has no form of its own.
const AWS_SECRET: &[u8] = b"aws_secret_access_key";

impl Made {
    const fn holds(self, byte: u8) -> bool {
        match self {
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Plain => byte.is_ascii_alphanumeric(),
            Self::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
            Self::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='),
        }
    }

    fn count(self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.holds(**byte)).count()
    }
}

/// Where a key that begins at `at` stops.
pub(super) fn cloud_key(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    for (prefix, made, least) in KEYS {
        let Some(body) = rest.strip_prefix(*prefix) else { continue };
        let count = made.count(body);
        // What is of a fixed length is no part of a longer word.
        let fits =
            if matches!(made, Made::Upper) { count == *least && super::is_over(body, count) } else { count >= *least };
        if fits {
            return at.checked_add(prefix.len())?.checked_add(count);
        }
    }
    azure_secret(text, at).or_else(|| aws_secret(text, at))
}

/// Secrets of applications in Entra: `Q~` stands after a digit at the fifth place.
fn azure_secret(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let made = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    if rest.get(3).is_none_or(|byte| !byte.is_ascii_digit()) || rest.get(4..6) != Some(b"Q~") {
        return None;
    }
    let count = rest.iter().take(64).take_while(|byte| made(byte)).count();
    (37..=42).contains(&count).then(|| at.saturating_add(count))
}

fn aws_secret(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let name = rest.get(..AWS_SECRET.len())?;
    if !name.eq_ignore_ascii_case(AWS_SECRET) {
        return None;
    }
    let after = rest.get(AWS_SECRET.len()..)?;
    let gap = after.iter().take(8).take_while(|byte| b" =:\"'\t\\".contains(byte)).count();
    let count = Made::Base64.count(after.get(gap..)?.get(..41).or_else(|| after.get(gap..))?);
    (gap > 0 && count == 40).then(|| at.saturating_add(AWS_SECRET.len()).saturating_add(gap).saturating_add(count))
}

/// Where a token in the compact form (RFC 7515) that begins at `at` stops: its header is a JSON object that names an algorithm.
pub(super) fn jwt(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    // At the beginning of what it is made of alone, so that no byte is looked at twice.
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    if !rest.starts_with(b"eyJ") || before.is_some_and(|byte| matches!(byte, b'-' | b'_')) {
        return None;
    }
    let part = |bytes: &[u8]| {
        bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')).count()
    };
    let header = part(rest.get(..MAX_HEADER).unwrap_or(rest));
    let after = rest.get(header..)?.strip_prefix(b".")?;
    let head = rest.get(..header)?;
    let decoded = URL_SAFE_NO_PAD.decode(head).ok()?;
    let names = |word: &[u8]| decoded.windows(word.len()).any(|window| window == word);
    if !decoded.ends_with(b"}") || !(names(b"\"alg\"") || names(b"\"enc\"")) {
        return None;
    }
    // Only now, so that no two look at the same payload.
    let payload = part(after);
    let signature = after.get(payload..)?.strip_prefix(b".").map(part);
    let mut end = at.checked_add(header)?.checked_add(1)?.checked_add(payload)?;
    if let Some(signature) = signature {
        end = end.checked_add(1)?.checked_add(signature)?;
        // Encrypted ones have five parts.
        while let Some(more) = text.get(end..).and_then(|rest| rest.strip_prefix(b".")) {
            match part(more) {
                0 => break,
                count => end = end.checked_add(1)?.checked_add(count)?,
            }
        }
    }
    (payload > 0).then_some(end)
}

/// Where a private key in PEM (RFC 7468) that begins at `at` stops; one without an end goes on to the text's.
pub(super) fn private_key(text: &[u8], at: usize) -> Option<usize> {
    const LABEL: &[u8] = b"PRIVATE KEY";
    let rest = text.get(at..)?;
    let label = rest.strip_prefix(b"-----BEGIN ")?.get(..64).or_else(|| rest.strip_prefix(b"-----BEGIN "))?;
    let line = label.get(..label.windows(5).position(|window| window == b"-----")?)?;
    if !line.windows(LABEL.len()).any(|window| window == LABEL) {
        return None;
    }
    let end = rest.windows(9).position(|window| window == b"-----END ").and_then(|end| {
        let after = end.checked_add(9)?;
        let close = rest.get(after..)?.windows(5).take(80).position(|window| window == b"-----")?;
        after.checked_add(close)?.checked_add(5)
    });
    at.checked_add(end.unwrap_or(rest.len()))
}

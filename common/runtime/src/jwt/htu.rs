//! When two URLs are the same to a proof of possession (RFC 9449, section 4.3; RFC 3986, sections 6.2.2 and 6.2.3).

/// The longest that is looked at, in bytes.
const MAX_URL: usize = 2_048;

/// `url` without its query and fragment, so that those that mean the same read the same; `None`: not one of HTTP.
pub(super) fn normal(url: &str) -> Option<String> {
    if url.len() > MAX_URL || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let port = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = authority.to_ascii_lowercase();
    let host = authority.strip_suffix(port).or_else(|| authority.strip_suffix(':')).unwrap_or(&authority);
    // Nobody logs in by a URL here, and no host of ours is written in percent.
    if host.is_empty() || host.contains(['@', '%', '\\']) {
        return None;
    }
    Some(format!("{scheme}://{host}{}", without_dots(&decoded(path)?)))
}

/// With the percent-encoding of what needs none taken away, and the rest of it in capitals.
fn decoded(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        match char::from(byte) {
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') => out.push(c),
            _ => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        out.push_str(rest);
    }
    Some(out)
}

/// RFC 3986, section 5.2.4, of a path that is absolute or empty.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_reads_the_same() {
        for (url, expected) in [
            ("https://a.example/oauth/token", "https://a.example/oauth/token"),
            ("HTTPS://A.Example:443/oauth/token?x=1#y", "https://a.example/oauth/token"),
            ("https://a.example:/%6fauth/./x/../token", "https://a.example/oauth/token"),
            ("https://a.example", "https://a.example/"),
            ("https://a.example?x", "https://a.example/"),
            ("http://a.example:80", "http://a.example/"),
            ("http://a.example:443/", "http://a.example:443/"),
            ("https://[::1]:7443/a%2fb", "https://[::1]:7443/a%2Fb"),
            ("https://a/../../b/..", "https://a/"),
            ("https://a//b/", "https://a//b/"),
        ] {
            assert_eq!(normal(url).as_deref(), Some(expected), "{url}");
            assert_eq!(normal(expected).as_deref(), Some(expected), "{url}");
        }
        for none in [
            "",
            "a",
            "ftp://a/",
            "https://",
            "https:///a",
            "https://u@a/",
            "https://a/%",
            "https://a/%+1",
            "https://a/ b",
            "https://a/\u{e9}",
            "https://%61/",
        ] {
            assert_eq!(normal(none), None, "{none}");
        }
        assert_eq!(normal(&format!("https://a/{}", "x".repeat(MAX_URL))), None);
    }
}

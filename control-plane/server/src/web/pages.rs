//! The pages. Plain HTML: whatever comes from elsewhere is escaped, and there is no script but the one that posts a form.

use axum::body::Body;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};

use crate::identity::saml::escaped;

/// Where the one script lies: posts the form of the page that it stands in.
pub(super) const POST_SCRIPT: &str = "/web/post.js";

/// `text`, and no more.
pub(super) fn message(status: StatusCode, text: &str) -> Response<Body> {
    page(status, &format!("<p>{}</p>", escaped(text)))
}

/// A page with `body`, which is HTML.
pub(super) fn page(status: StatusCode, body: &str) -> Response<Body> {
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Postern</title></head><body>{body}</body></html>\n"
    );
    with(status, "text/html; charset=utf-8", html)
}

/// An answer of that type.
pub(super) fn with(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Sends the browser to `url`.
pub(super) fn redirect(url: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::from_str(url) else {
        return message(StatusCode::INTERNAL_SERVER_ERROR, "The identity provider's address is not usable.");
    };
    let mut answer = message(StatusCode::SEE_OTHER, "Your identity provider is asked.");
    answer.headers_mut().insert(LOCATION, location);
    answer
}

/// A form that posts `fields` to `url` by itself, or by a button where there are no scripts.
pub(super) fn posts(url: &str, fields: &[(&str, &str)]) -> Response<Body> {
    let inputs: String = fields
        .iter()
        .map(|(name, value)| format!("<input type=\"hidden\" name=\"{}\" value=\"{}\">", escaped(name), escaped(value)))
        .collect();
    let mut answer = page(
        StatusCode::OK,
        &format!(
            "<form method=\"post\" action=\"{}\">{inputs}<p>Your identity provider is asked.</p><button>Go on</button></form><script src=\"{POST_SCRIPT}\"></script>",
            escaped(url)
        ),
    );
    // A provider may send its form on to other places of its own: any of HTTPS, where it is itself.
    let policy = format!(
        "default-src 'none'; script-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action https: {}",
        origin(url)
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// Scheme and host; what is in it stands in a header.
fn origin(url: &str) -> String {
    let after = url.find("://").map_or(0, |at| at.saturating_add(3));
    let end = url
        .get(after..)
        .and_then(|rest| rest.find(['/', '?', ';', ',', ' ']))
        .map_or(url.len(), |at| after.saturating_add(at));
    url.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_text() {
        let answer = posts("https://idp.example.test/sso?a=\"><script>", &[("SAMLRequest", "x\"><script>")]);
        let policy = answer.headers().get(CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
        assert!(policy.ends_with("form-action https: https://idp.example.test"), "{policy}");
        assert_eq!(origin("http://127.0.0.1:80/a;b"), "http://127.0.0.1:80");
        assert_eq!(origin("https://a; script-src *"), "https://a");
        assert_eq!(redirect("https://a/\r\nSet-Cookie: x").status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

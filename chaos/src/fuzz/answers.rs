//! What `postern login` reads of identity providers, and of whoever comes to its redirect; what OAuth's endpoints are asked for.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // a target panics where something is wrong

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern::LoginProbe;
use postern_core::scope::Scope;
use postern_server::FormProbe;
use serde_json::json;

use super::Bytes;

const URL: &str = "https://id.example";
const CLIENT: &str = "cli";
const STATE: &str = "s-1";

pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let (which, said) = (bytes.byte(), bytes.rest());
    match which % 7 {
        0 => assert!(LoginProbe::metadata(said, URL).is_none_or(|issuer| issuer == URL)),
        1 => {
            if let Some((subject, token)) = LoginProbe::tokens(said, URL, CLIENT) {
                let payload = token.split('.').nth(1).expect("a JWT");
                let claims = URL_SAFE_NO_PAD.decode(payload).expect("base64url");
                let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
                assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some(URL), Some(&*subject)));
            }
        }
        2 => _ = LoginProbe::device(said).map(|text| shown(&text)),
        3 => {
            let Ok(head) = std::str::from_utf8(said) else { return };
            if let Some(code) = LoginProbe::redirected(head, STATE) {
                assert!(!code.is_empty() && head.contains("state="), "a code out of nothing");
            }
        }
        4 => _ = std::str::from_utf8(said).map(|text| shown(&LoginProbe::printable(text))),
        5 => _ = FormProbe::asked(said).as_ref().map(in_words),
        _ => {
            let Ok(text) = std::str::from_utf8(said) else { return };
            let _ = Scope::from_words(text).as_ref().map(in_words).map_err(ToString::to_string);
        }
    }
}

/// Nothing that steers a terminal.
fn shown(text: &str) {
    let steers = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(steers), "{text:?}");
}

/// What was read narrows as much when it is written and read again: it is told to clients so.
fn in_words(scope: &Scope) {
    let words = scope.to_words();
    assert!(words.bytes().all(|byte| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e)), "{words}");
    assert_eq!(Scope::from_words(&words).as_ref(), Ok(scope), "{words}");
}

/// One of each, as it should be.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let of = |which: u8, said: &[u8]| [&[which][..], said].concat();
    let claims = json!({"iss": URL, "aud": ["other", CLIENT], "sub": "alice", "nonce": "n"}).to_string();
    let id_token = format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let at = |path: &str| format!("{URL}{path}");
    let metadata = json!({
        "issuer": URL, "authorization_endpoint": at("/auth"), "token_endpoint": at("/token"),
        "device_authorization_endpoint": at("/device"), "revocation_endpoint": at("/revoke"),
        "authorization_response_iss_parameter_supported": true, "code_challenge_methods_supported": ["plain", "S256"],
    });
    let device = json!({
        "device_code": "d", "user_code": "ABCD-EFGH", "verification_uri": at("/device"),
        "verification_uri_complete": at("/device?user_code=ABCD-EFGH"), "expires_in": 600, "interval": 5,
    });
    let scope = "target:shop action:sql:select resource:%22Odd%20name%22.t network:10.0.0.0/8 role:auditor";
    let exchange = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt\
        &actor_token=d.e.f&actor_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt&audience=shop&resource=postern%3Atarget%3Adb\
        &scope=target:a+action:sql:*&requested_ttl=60&delegation_key=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&delegation_depth=2\
        &dpop_jkt=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let client = format!(
        "client_id=ci&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={id_token}&assertion={id_token}&scope=role:x"
    );
    vec![
        of(0, metadata.to_string().as_bytes()),
        of(1, json!({"id_token": id_token, "refresh_token": "r", "error": "e"}).to_string().as_bytes()),
        of(1, br#"{"error": "slow_down", "error_description": "wait\u001b[2J"}"#),
        of(2, device.to_string().as_bytes()),
        of(3, b"GET /callback?code=a%2Bb+c&state=s-1&iss=https%3A%2F%2Fid.example HTTP/1.1\r\nHost: x\r\n\r\n"),
        of(3, b"GET /callback?state=s-1&error=access_denied&error_description=no HTTP/1.1\r\n\r\n"),
        of(4, "a\u{1b}[2J\u{202e}b\n".as_bytes()),
        of(5, exchange.as_bytes()),
        of(5, client.as_bytes()),
        of(6, scope.as_bytes()),
    ]
}

use std::sync::Arc;

use axum::Router;
use axum::response::Redirect;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::supervisor::{OnEnd, Supervisor};

const LIMIT: usize = 1000;
const LONG: Duration = Duration::from_secs(20);

async fn server() -> (String, Supervisor) {
    let app = Router::new()
        .route("/good", get(async || r#"{"keys": []}"#))
        .route("/text", get(async || "hello"))
        .route("/large", get(async || "x".repeat(LIMIT + 1)))
        .route("/moved", get(async || Redirect::temporary("/good")))
        .route(
            "/form",
            post(async |body: String| (axum::http::StatusCode::BAD_REQUEST, format!("{{\"error\": {body:?}}}"))),
        )
        .route("/broken", post(async || (axum::http::StatusCode::BAD_GATEWAY, "<html>")))
        .route("/slow", get(async || std::future::pending::<String>().await));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let supervisor = Supervisor::new();
    supervisor.spawn("server", OnEnd::EndSession, async move {
        let _ = axum::serve(listener, app).await;
    });
    (url, supervisor)
}

#[tokio::test]
async fn fetches_within_its_bounds() {
    let (url, _running) = server().await;
    let client = HttpClient::new(None).unwrap();
    let fetch = |path: &str| {
        let (client, url) = (client.clone(), format!("{url}{path}"));
        async move { client.get_json(&url, LIMIT, LONG).await }
    };
    assert_eq!(fetch("/good").await.unwrap().document["keys"], serde_json::json!([]));
    assert!(matches!(fetch("/text").await, Err(HttpError::Json(_))));
    assert!(matches!(fetch("/large").await, Err(HttpError::TooLarge(LIMIT))));
    assert!(matches!(fetch("/none").await, Err(HttpError::Status(StatusCode::NOT_FOUND))));
    assert!(matches!(fetch("/moved").await, Err(HttpError::Status(StatusCode::TEMPORARY_REDIRECT))));
    let short = client.get_json(&format!("{url}/slow"), LIMIT, Duration::from_millis(50)).await;
    assert!(matches!(short, Err(HttpError::Timeout(_))));
    let closed = client.get_json("http://127.0.0.1:1/", LIMIT, LONG).await;
    assert!(matches!(closed, Err(HttpError::Transport(_))));
}

#[tokio::test]
async fn a_form_is_posted_and_what_is_answered_is_told_with_its_status() {
    let (url, _running) = server().await;
    let client = HttpClient::new(None).unwrap();
    let pairs = [("grant_type", "a b"), ("code", "x&y=\u{e9}/+")];
    let answered = client.post_form(&format!("{url}/form"), &pairs, LIMIT, LONG).await.unwrap();
    assert_eq!(answered.status, 400);
    assert_eq!(answered.document["error"], "grant_type=a%20b&code=x%26y%3D%C3%A9%2F%2B");
    let broken = client.post_form(&format!("{url}/broken"), &[], LIMIT, LONG).await;
    assert!(matches!(broken, Err(HttpError::Status(StatusCode::BAD_GATEWAY))));
    let large = "x".repeat(MAX_FORM);
    assert!(matches!(client.post_form(&url, &[("a", &large)], LIMIT, LONG).await, Err(HttpError::Form)));
    let clear = client.post_form("http://example.com/token", &pairs, LIMIT, LONG).await;
    assert!(matches!(clear, Err(HttpError::Insecure)));
}

#[test]
fn a_server_says_how_long_its_word_is_good() {
    let keep = |values: &[&'static str]| {
        let headers = values.iter().map(|value| (CACHE_CONTROL, hyper::header::HeaderValue::from_static(value)));
        super::keep(&headers.collect()).map(|keep| keep.as_secs())
    };
    assert_eq!(keep(&[]), None);
    assert_eq!(keep(&["public, must-revalidate"]), None);
    assert_eq!(keep(&["public, max-age=19504, must-revalidate, no-transform"]), Some(19_504));
    assert_eq!(keep(&["Max-Age=\"60\""]), Some(60));
    assert_eq!(keep(&["max-age=60, no-cache"]), Some(0));
    assert_eq!(keep(&["no-store"]), Some(0));
    for nonsense in ["max-age", "max-age=-1", "max-age=99999999999999999999999", "max-age=x"] {
        assert_eq!(keep(&[nonsense]), Some(0), "{nonsense}");
    }
}

#[tokio::test]
async fn clear_text_is_for_loopback_only() {
    let client = HttpClient::new(None).unwrap();
    for url in ["http://example.com/", "http://10.0.0.1/", "http://localhost.example.com/", "http://[::2]/"] {
        assert!(matches!(client.get_json(url, LIMIT, LONG).await, Err(HttpError::Insecure)), "{url}");
    }
    for url in ["", "/x", "ftp://127.0.0.1/", "127.0.0.1:80", "https://", "http:///x"] {
        assert!(matches!(client.get_json(url, LIMIT, LONG).await, Err(HttpError::Url)), "{url}");
    }
    for host in ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"] {
        assert!(is_loopback(host), "{host}");
    }
}

#[tokio::test]
async fn trusts_the_given_authority_and_no_other() {
    let (certificate, key) = crate::pki::self_signed_listener(&["localhost".to_owned()]).unwrap();
    let (stranger, _) = crate::pki::self_signed_listener(&["localhost".to_owned()]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls::listener(&certificate, &key, &[]).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (supervisor, stop) = (Supervisor::new(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    supervisor.spawn("server", OnEnd::EndSession, async move {
        while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let url = format!("https://localhost:{port}/");
    let get = async |ca: Option<&str>| HttpClient::new(ca).unwrap().get_json(&url, LIMIT, LONG).await;
    assert!(get(Some(&certificate)).await.is_ok());
    assert!(matches!(get(Some(&stranger)).await, Err(HttpError::Transport(_))));
    assert!(matches!(get(None).await, Err(HttpError::Transport(_))));
    assert!(HttpClient::new(Some("no PEM")).is_err());
}

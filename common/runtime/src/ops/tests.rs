use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::supervisor::{OnEnd, Supervisor};
use crate::telemetry::install_metrics;

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    (text[9..12].parse().unwrap(), text)
}

#[tokio::test]
async fn tells_health_readiness_and_metrics() {
    let (metrics, readiness, supervisor) = (install_metrics(), Readiness::new(&["policy"]), Supervisor::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = supervisor.shutdown_token();
    supervisor.spawn("ops", OnEnd::StopNode, serve(listener, metrics, readiness.clone(), shutdown));

    assert_eq!(get(address, "/healthz").await.0, 200);
    let (status, text) = get(address, "/readyz").await;
    assert!(status == 503 && text.contains("policy: not ready"), "{text}");
    readiness.set("policy", true);
    readiness.set("listener", true);
    assert_eq!(get(address, "/readyz").await.0, 200);
    readiness.set("listener", false);
    assert_eq!(get(address, "/readyz").await.0, 503);
    assert!(!Readiness::default().is_ready());

    metrics::counter!("postern_test_requests_total").increment(3);
    metrics::histogram!("postern_test_wait_seconds").record(0.002);
    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("postern_test_requests_total 3"), "{text}");
    assert!(text.contains("postern_test_wait_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
    // One that never finishes its request.
    let _half = TcpStream::connect(address).await.unwrap().write_all(b"GET /healthz HT").await;
    assert!(supervisor.drain(Duration::from_secs(20)).await.all_ended);
    assert_eq!(supervisor.failure(), None);
}

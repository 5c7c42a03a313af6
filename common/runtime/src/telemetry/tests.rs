use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_blocks_nothing() {
    // A port that nobody listens on.
    let config = TelemetryConfig {
        log: "info".to_owned(),
        otlp_endpoint: Some("http://127.0.0.1:1".to_owned()),
        ..TelemetryConfig::default()
    };
    let guard = init("test", &config).unwrap();
    for _ in 0..5000 {
        tracing::info_span!("operation", session = "ses_x").in_scope(|| ());
    }
    // A second call is harmless.
    drop(init("test", &config).unwrap());
    let start = Instant::now();
    tokio::task::spawn_blocking(move || drop(guard)).await.unwrap();
    assert!(start.elapsed() < FLUSH + EXPORT, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_leave_for_the_collector() {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let provider = exporting("test", &endpoint, &TelemetryConfig::default()).unwrap();
    let filter = without_exporter(EnvFilter::new("trace")).unwrap();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("postern")).with_filter(filter);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        tracing::info_span!("operation", session = "ses_x").in_scope(|| ());
    });
    let flush = tokio::task::spawn_blocking(move || provider.force_flush());
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut preface = [0; 14];
    stream.read_exact(&mut preface).await.unwrap();
    // HTTP/2's connection preface (RFC 9113, section 3.4).
    assert_eq!(&preface, b"PRI * HTTP/2.0");
    drop(stream);
    let _ = flush.await.unwrap();
}

#[test]
fn faults_of_configuration_are_told() {
    let with = |change: fn(&mut TelemetryConfig)| {
        let mut config = TelemetryConfig::default();
        change(&mut config);
        init("test", &config).map(drop)
    };
    assert!(matches!(with(|c| c.log = "a=b=c=loud".to_owned()), Err(TelemetryError::Filter(_))));
    let https = |c: &mut TelemetryConfig| c.otlp_endpoint = Some("https://collector:4317".to_owned());
    assert!(matches!(with(https), Err(TelemetryError::NoRuntime)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    assert!(matches!(with(https), Err(TelemetryError::Authority(_))));
    assert!(matches!(with(|c| c.otlp_endpoint = Some("not a url".to_owned())), Err(TelemetryError::Exporter(_))));
}

#[test]
fn the_section_reads_from_toml() {
    let text = "log = \"warn\"\nformat = \"json\"\notlp_endpoint = \"http://127.0.0.1:4317\"";
    let config: TelemetryConfig = crate::config::parse(text, "x", "NONE", []).unwrap();
    assert_eq!((config.log.as_str(), config.format), ("warn", LogFormat::Json));
    assert!(crate::config::parse::<TelemetryConfig>("colour = true", "x", "NONE", []).is_err());
}

#[test]
fn retries_of_a_library_are_quiet_unless_asked_for() {
    assert!(filter("info").unwrap().to_string().contains("object_store=warn"));
    let asked = filter("info,object_store=debug").unwrap().to_string();
    assert!(asked.contains("object_store=debug") && !asked.contains("object_store=warn"), "{asked}");
}

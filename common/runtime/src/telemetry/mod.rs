//! Logs, traces and metrics.
//!
//! Logs go to standard error: for people on a terminal, as JSON lines otherwise. Spans go to an OTLP collector when one is configured;
//! the exporter has a bounded queue and a thread of its own, so a collector that is slow or away costs spans and nothing else.

mod lines;

use std::fmt;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

pub use lines::Lines;

/// How long the last spans may take to leave.
const FLUSH: Duration = Duration::from_secs(3);
/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(5);
/// Latency buckets in seconds, from a cached decision to a slow query.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Size buckets in bytes.
const BYTES: &[f64] = &[64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 16_777_216.0];

/// What the exporter is made of.
const EXPORTERS_OWN: &[&str] =
    &["opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp", "tonic", "tower", "h2", "hyper"];

/// Telemetry cannot start as configured.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("telemetry.log is not a filter such as \"info,postern_gateway=debug\": {0}")]
    Filter(String),
    /// The exporter cannot be made.
    #[error("telemetry.otlp_endpoint: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The exporter's sender lives on the async runtime.
    #[error("an OTLP endpoint needs an async runtime to be running")]
    NoRuntime,
    /// The collector's authority is needed and not there.
    #[error("telemetry.otlp_ca_file: {0}")]
    Authority(String),
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// A JSON object per line.
    Json,
}

/// The `[telemetry]` section of every role's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// What is logged and traced: a level, or levels by module (`info,postern_gateway=debug`).
    pub log: String,
    /// The form of log lines.
    pub format: LogFormat,
    /// Where spans are sent, by OTLP over gRPC: `http://127.0.0.1:4317`. None are sent without it.
    pub otlp_endpoint: Option<String>,
    /// The certificate authority of an `https` endpoint.
    pub otlp_ca_file: Option<PathBuf>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".to_owned(), format: LogFormat::Auto, otlp_endpoint: None, otlp_ca_file: None }
    }
}

/// Keep it until the end of `main`: dropping it sends the last spans.
#[must_use = "dropping it ends the export of spans"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("exports", &self.provider.is_some()).finish()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A collector that is away was reported by the exporter; leaving must not hang on it.
        if let Some(provider) = self.provider.take() {
            let _ = provider.shutdown_with_timeout(FLUSH);
        }
    }
}

static EXPORTS: AtomicBool = AtomicBool::new(false);

/// Whether spans are exported. A span for each operation costs as much as deciding it, and without that nobody sees it.
#[must_use]
pub fn exports_spans() -> bool {
    EXPORTS.load(Ordering::Relaxed)
}

/// Starts logs and traces for `role`. A second call in one process (several roles, or tests) changes nothing.
///
/// # Errors
/// The configuration is unusable. A collector that cannot be reached is no error.
pub fn init(role: &str, config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    let filter = || filter(&config.log);
    let provider = match config.otlp_endpoint.as_deref() {
        Some(endpoint) => Some(exporting(role, endpoint, config)?),
        None => None,
    };
    let spans = match &provider {
        Some(provider) => Some(
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("postern"))
                .with_filter(without_exporter(filter()?)?),
        ),
        None => None,
    };
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).with_filter(filter()?).boxed()
    } else {
        lines.with_ansi(terminal).with_target(false).with_filter(filter()?).boxed()
    };
    if tracing_subscriber::registry().with(lines).with(spans).try_init().is_ok() {
        log_panics();
        EXPORTS.store(provider.is_some(), Ordering::Relaxed);
        Ok(Guard { provider })
    } else {
        if let Some(provider) = provider {
            let _ = provider.shutdown_with_timeout(Duration::ZERO);
        }
        Ok(Guard { provider: None })
    }
}

/// What is asked for; of libraries that tell of each retry, only what they warn of, unless it is asked for.
fn filter(asked: &str) -> Result<EnvFilter, TelemetryError> {
    let all = format!("object_store=warn,{asked}");
    EnvFilter::builder().parse(all).map_err(|error| TelemetryError::Filter(error.to_string()))
}

/// The exporter's own traffic must not become spans that it exports.
fn without_exporter(mut filter: EnvFilter) -> Result<EnvFilter, TelemetryError> {
    for quiet in EXPORTERS_OWN {
        let off: Directive =
            format!("{quiet}=off").parse().map_err(|error| TelemetryError::Filter(format!("{error}")))?;
        filter = filter.add_directive(off);
    }
    Ok(filter)
}

fn exporting(role: &str, endpoint: &str, config: &TelemetryConfig) -> Result<SdkTracerProvider, TelemetryError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(TelemetryError::NoRuntime);
    }
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT);
    if endpoint.starts_with("https:") {
        let path = config.otlp_ca_file.as_deref().ok_or_else(|| {
            TelemetryError::Authority("an https endpoint needs its authority's certificate".to_owned())
        })?;
        let pem =
            std::fs::read(path).map_err(|error| TelemetryError::Authority(format!("{}: {error}", path.display())))?;
        exporter = exporter.with_tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)));
    }
    let resource = Resource::builder().with_service_name(format!("postern-{role}")).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter.build()?).with_resource(resource).build())
}

/// Panics go to the log as one line, like everything else.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(message, location, thread = thread.name().unwrap_or("unnamed"), "panic");
    }));
}

/// Reads the process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// Everything measured so far, in Prometheus's text form.
    #[must_use]
    pub fn render(&self) -> String {
        // Folds histograms in, so that they stay small between scrapes.
        self.0.run_upkeep();
        self.0.render()
    }

    /// Folds histograms in; to be called now and then on a node that nobody scrapes, to bound its memory (I11).
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

impl fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsHandle")
    }
}

/// Makes the process's metrics be kept, in Prometheus's way. The first call counts; later ones give the same handle.
#[must_use]
pub fn install_metrics() -> MetricsHandle {
    static HANDLE: OnceLock<MetricsHandle> = OnceLock::new();
    let install = || {
        let suffixed = |builder: PrometheusBuilder, suffix: &str, buckets: &[f64]| {
            builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets).unwrap_or_default()
        };
        let builder = suffixed(suffixed(PrometheusBuilder::new(), "_seconds", SECONDS), "_bytes", BYTES);
        let recorder = builder.build_recorder();
        let handle = MetricsHandle(recorder.handle());
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::error!("another recorder of metrics is installed: /metrics stays empty");
        }
        handle
    };
    HANDLE.get_or_init(install).clone()
}

#[cfg(test)]
mod tests;

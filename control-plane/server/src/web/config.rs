//! What an operator says about the listener for browsers.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Configuration of the listener for browsers and clients that know no gRPC.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// `https://HOST[:PORT]` by which browsers reach the members, the same for all of them: a name with several addresses, or a balancer's.
    pub public_url: String,
    /// PEM of the certificate that browsers are shown, with its chain. Without it they are shown one of the cluster's own authority.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// PEM of its private key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

impl WebConfig {
    /// Faults that the form alone does not show.
    pub(crate) fn faults(&self) -> Option<String> {
        if self.certificate_file.is_some() != self.key_file.is_some() {
            return Some("web.certificate_file and web.key_file: go together".to_owned());
        }
        let host = self.public_url.strip_prefix("https://").unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(plain) {
            return Some("web.public_url: must be https://HOST or https://HOST:PORT, and no more".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(url: &str, certificate: Option<&str>) -> Option<String> {
        let listen = "127.0.0.1:0".parse().unwrap();
        WebConfig { listen, public_url: url.into(), certificate_file: certificate.map(Into::into), key_file: None }
            .faults()
    }

    #[test]
    fn a_public_url_is_a_host_and_no_more() {
        for good in ["https://postern.example.test", "https://postern.example.test:7443", "https://[::1]:7443"] {
            assert_eq!(faults(good, None), None);
        }
        for bad in [
            "http://postern.example.test",
            "https://",
            "https://a/b",
            "https://a/",
            "https://a?b",
            "postern",
            "https://a\"b",
        ] {
            assert!(faults(bad, None).is_some(), "{bad}");
        }
        assert!(faults("https://a", Some("/x")).is_some());
    }
}

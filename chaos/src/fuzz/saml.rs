//! Responses and metadata of SAML identity providers. What the seeds begin with was signed by a provider (npm's `samlp`) whose key is gone: whatever
//! is made of them is refused, or proves whom they proved.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use std::sync::LazyLock;

use postern_core::{Principal, Timestamp};
use postern_server::SamlProbe;

const METADATA: &str = include_str!("../../fixtures/saml/metadata.xml");
const SIGNED: [&str; 2] =
    [include_str!("../../fixtures/saml/assertion-signed.xml"), include_str!("../../fixtures/saml/response-signed.xml")];
/// A moment after they were signed.
const NOW: Timestamp = Timestamp::from_secs(1_795_314_870);

struct Known {
    probe: SamlProbe,
    principal: Principal,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let name = "corp".parse().expect("a name");
    let base = "https://postern.example.test/saml/corp";
    let probe = SamlProbe::new(name, METADATA, &format!("{base}/metadata"), &format!("{base}/acs"));
    let probe = probe.expect("usable metadata");
    let [first, second] = SIGNED.map(|seed| probe.judge(seed.as_bytes(), NOW).expect("a genuine response"));
    assert_eq!(first.id, second.id);
    assert_eq!(first.groups, second.groups);
    Known { probe, principal: first }
});

pub(super) fn run(data: &[u8]) {
    if let Some(principal) = KNOWN.probe.judge(data, NOW) {
        assert_eq!(principal.id, KNOWN.principal.id, "somebody else than the provider said");
        assert_eq!(principal.groups, KNOWN.principal.groups, "other groups than the provider said");
    }
    if let Some(once) = SamlProbe::canonical(data) {
        assert_eq!(
            SamlProbe::canonical(once.as_bytes()).as_deref(),
            Some(once.as_str()),
            "the canonical form is read as another"
        );
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = SamlProbe::is_metadata(text);
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let odd = "<a xmlns=\"u\" xmlns:p='v' p:b='&#10;&lt;\"'><!-- c --><b xmlns=\"\">&amp;<![CDATA[<x>]]>\r\n</b></a>";
    SIGNED.into_iter().chain([METADATA, odd]).map(|seed| seed.as_bytes().to_vec()).collect()
}

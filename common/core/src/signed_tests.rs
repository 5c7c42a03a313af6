use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519, SigningKey as _,
};

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

struct Cluster {
    key: KeyPair,
    params: CertificateParams,
    der: Vec<u8>,
}

impl Cluster {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { key, params, der }
    }

    fn node(&self, dns: &str) -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        (key, der)
    }
}

#[test]
fn only_the_control_plane_signs_policy() {
    let (cluster, stranger) = (Cluster::new(), Cluster::new());
    let (key, certificate) = cluster.node("c1.control.postern.internal");
    let signature = key.sign(&message(Purpose::Delta, b"payload")).unwrap();
    let check = |purpose, payload: &[u8], signature: &[u8], certificate: &[u8], ca: &Cluster| {
        verify(purpose, payload, signature, certificate, Authority(&ca.der), NOW)
    };
    let node = check(Purpose::Delta, b"payload", &signature, &certificate, &cluster).unwrap();
    assert_eq!(node.to_string(), "c1.control");
    // Other bytes, another purpose, another key.
    let fault = |purpose, payload: &[u8], signature: &[u8]| {
        check(purpose, payload, signature, &certificate, &cluster).unwrap_err()
    };
    assert_eq!(fault(Purpose::Delta, b"Payload", &signature), SignatureFault::Signature);
    assert_eq!(fault(Purpose::Snapshot, b"payload", &signature), SignatureFault::Signature);
    assert_eq!(fault(Purpose::Delta, b"payload", &[0; 64]), SignatureFault::Signature);
    assert_eq!(fault(Purpose::Delta, b"payload", &[]), SignatureFault::Signature);
    // A good signature, by another than the control plane.
    let (key, gateway) = cluster.node("g1.gateway.postern.internal");
    let signature = key.sign(&message(Purpose::Delta, b"payload")).unwrap();
    assert_eq!(check(Purpose::Delta, b"payload", &signature, &gateway, &cluster).unwrap_err(), SignatureFault::Role);
    // Another cluster's node, and what is no certificate.
    let (key, foreign) = stranger.node("c1.control.postern.internal");
    let signature = key.sign(&message(Purpose::Delta, b"payload")).unwrap();
    for certificate in [foreign.as_slice(), b"", b"rubbish"] {
        let fault = check(Purpose::Delta, b"payload", &signature, certificate, &cluster).unwrap_err();
        assert!(matches!(fault, SignatureFault::Certificate(_)), "{fault}");
    }
}

#[test]
fn a_certificate_that_has_ended_signs_nothing() {
    let cluster = Cluster::new();
    let (key, certificate) = cluster.node("c1.control.postern.internal");
    let signature = key.sign(&message(Purpose::Snapshot, b"x")).unwrap();
    let far = Timestamp::from_secs(100_000_000_000);
    let fault = verify(Purpose::Snapshot, b"x", &signature, &certificate, Authority(&cluster.der), far).unwrap_err();
    assert!(matches!(fault, SignatureFault::Certificate(_)), "{fault}");
}

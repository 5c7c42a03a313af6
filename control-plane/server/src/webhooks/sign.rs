//! Signatures as in Standard Webhooks: HMAC-SHA256 over id, time and body.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_core::secret::SecretBytes;

/// What precedes a secret in base64, as libraries for Standard Webhooks have it. Any other is taken as it is.
const PREFIX: &[u8] = b"whsec_";

/// For the header `webhook-signature`.
pub(super) fn signature(secret: &SecretBytes, id: &str, seconds: u64, body: &[u8]) -> String {
    let decoded = secret.expose().strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text.trim_ascii()).ok());
    let decoded = decoded.map(SecretBytes::new);
    let key = decoded.as_ref().unwrap_or(secret);
    let mut signer = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
    signer.update(id.as_bytes());
    signer.update(format!(".{seconds}.").as_bytes());
    signer.update(body);
    format!("v1,{}", STANDARD.encode(signer.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the specification of Standard Webhooks.
    #[test]
    fn signs_as_libraries_verify() {
        let secret = SecretBytes::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec());
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}

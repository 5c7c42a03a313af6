//! `tls-server-end-point` (RFC 5929, section 4): what SCRAM is bound to.

use aws_lc_rs::digest::{self, Algorithm, SHA224, SHA256, SHA384, SHA512};

/// The hash of a server's certificate (DER), by its signature's own hash function; of MD5 and SHA-1, SHA-256 in their place. None where the signature has
/// no single hash function, as that of Ed25519: then servers bind to nothing either.
#[must_use]
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (parts, _) = part(certificate, SEQUENCE)?;
    let (_to_be_signed, parts) = part(parts, SEQUENCE)?;
    let (algorithm, _signature) = part(parts, SEQUENCE)?;
    let (identifier, _parameters) = part(algorithm, OBJECT_IDENTIFIER)?;
    let hash = hash_of(identifier)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// By RFC 8017, appendix A.2.4, and RFC 5758, section 3.2.
fn hash_of(identifier: &[u8]) -> Option<&'static Algorithm> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    if let Some(with) = identifier.strip_prefix(RSA) {
        return match with {
            [4 | 5 | 11] => Some(&SHA256),
            [12] => Some(&SHA384),
            [13] => Some(&SHA512),
            [14] => Some(&SHA224),
            _ => None,
        };
    }
    match identifier.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(&SHA256),
        [3, 1] => Some(&SHA224),
        [3, 3] => Some(&SHA384),
        [3, 4] => Some(&SHA512),
        _ => None,
    }
}

/// The content of the first element, which must have this tag, and what follows it (X.690, section 8.1).
fn part(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (octets.iter().fold(0_usize, |sum, octet| (sum << 8) | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let mut out = vec![tag];
        match length {
            0..=0x7f => out.push(u8::try_from(length).unwrap()),
            0x80..=0xff => out.extend([0x81, u8::try_from(length).unwrap()]),
            _ => {
                out.push(0x82);
                out.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        out.extend(content);
        out
    }

    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let identifier = element(SEQUENCE, &element(OBJECT_IDENTIFIER, algorithm));
        element(SEQUENCE, &[element(SEQUENCE, &[7; 300]), identifier, element(3, &[0; 70])].concat())
    }

    #[test]
    fn the_signatures_hash_decides() {
        let rsa = |last: u8| certificate(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last]);
        for (last, length) in [(4, Some(32)), (5, Some(32)), (11, Some(32)), (12, Some(48)), (13, Some(64)), (10, None)]
        {
            assert_eq!(end_point(&rsa(last)).map(|hash| hash.len()), length, "{last}");
        }
        let ecdsa = certificate(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03]);
        assert_eq!(end_point(&ecdsa).unwrap(), digest::digest(&SHA384, &ecdsa).as_ref());
        // Ed25519.
        assert_eq!(end_point(&certificate(&[0x2b, 0x65, 0x70])), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = end_point(&bytes);
            let _ = end_point(&element(SEQUENCE, &bytes));
        }
    }
}

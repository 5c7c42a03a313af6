//! A keyed permutation of all numbers of a given length: FF1 of NIST SP 800-38G, with AES-256 and without a tweak.
//!
//! A permutation keeps what is different different, so that joins still work, and cannot be undone without the key.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};

/// Rounds of FF1.
const ROUNDS: u8 = 10;
const BLOCK: usize = 16;

/// Most decimal digits at once: twice what one block of the round function covers.
pub(super) const MAX_DIGITS: u32 = 56;

/// Fewest: of less than a million numbers (SP 800-38G Rev. 1), too many can be tried.
pub(super) const MIN_DIGITS: u32 = 6;

/// A key of FF1.
pub(super) struct Permutation(EncryptingKey);

impl std::fmt::Debug for Permutation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permutation")
    }
}

/// What is permuted: all strings of `left` and `right` digits of a radix.
#[derive(Clone, Copy)]
struct Domain {
    radix: u8,
    left: u32,
    right: u32,
}

impl Permutation {
    pub(super) fn new(key: &[u8; 32]) -> Option<Self> {
        let key = UnboundCipherKey::new(&AES_256, key).ok()?;
        EncryptingKey::ecb(key).ok().map(Self)
    }

    /// Of numbers of `count` decimal digits, given as the value of the first half (the shorter one) and of the rest.
    pub(super) fn decimal(&self, count: u32, halves: (u128, u128)) -> Option<(u128, u128)> {
        if !(2..=MAX_DIGITS).contains(&count) {
            return None;
        }
        let left = count / 2;
        self.run(Domain { radix: 10, left, right: count.saturating_sub(left) }, halves)
    }

    /// Of numbers of 16, 32 or 64 bits.
    pub(super) fn bits(&self, bits: u32, value: u64) -> Option<u64> {
        let half = bits / 2;
        let mask = 1_u64.checked_shl(half)?.checked_sub(1)?;
        let halves = ((value >> half) & mask, value & mask);
        let (left, right) =
            self.run(Domain { radix: 2, left: half, right: half }, (halves.0.into(), halves.1.into()))?;
        Some((u64::try_from(left).ok()? << half) | u64::try_from(right).ok()?)
    }

    /// Algorithm 7, FF1.Encrypt, with an empty tweak. `b`, the bytes of a half, is at most 12, so that Q is one block and `d` at most 16.
    fn run(&self, domain: Domain, (mut a, mut b): (u128, u128)) -> Option<(u128, u128)> {
        let radix = u128::from(domain.radix);
        let (mod_left, mod_right) = (radix.checked_pow(domain.left)?, radix.checked_pow(domain.right)?);
        let bytes = bytes_of(mod_right)?;
        let wide = bytes.div_ceil(4).checked_mul(4)?.checked_add(4)?;
        if a >= mod_left || b >= mod_right || bytes > 12 {
            return None;
        }
        let mut first = [0_u8; BLOCK];
        let [version, method, one, _, _, radix_at, rounds, left, .., n, _, _, _, _] = &mut first;
        (*version, *method, *one, *radix_at, *rounds) = (1, 2, 1, domain.radix, ROUNDS);
        *left = u8::try_from(domain.left).ok()?;
        // All lengths are below 256: the last of four bytes of n. The tweak's length is 0.
        *n = u8::try_from(domain.left.checked_add(domain.right)?).ok()?;
        self.cipher(&mut first)?;
        for round in 0..ROUNDS {
            let mut block = b.to_be_bytes();
            // NUM(B) takes the last `bytes`, and the round's number the byte before them.
            *block.get_mut(BLOCK.checked_sub(bytes)?.checked_sub(1)?)? = round;
            for (byte, chained) in block.iter_mut().zip(first) {
                *byte ^= chained;
            }
            self.cipher(&mut block)?;
            let y = u128::from_be_bytes(block)
                .checked_shr(u32::try_from(BLOCK.checked_sub(wide)?.checked_mul(8)?).ok()?)?;
            let modulus = if round.is_multiple_of(2) { mod_left } else { mod_right };
            let c = a.checked_add(y.checked_rem(modulus)?)?.checked_rem(modulus)?;
            (a, b) = (b, c);
        }
        Some((a, b))
    }

    fn cipher(&self, block: &mut [u8; BLOCK]) -> Option<()> {
        self.0.encrypt(block).ok().map(drop)
    }
}

/// Bytes that every number below `modulus` fits in.
fn bytes_of(modulus: u128) -> Option<usize> {
    let bits = 128_u32.checked_sub(modulus.checked_sub(1)?.leading_zeros())?;
    usize::try_from(bits.div_ceil(8)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of NIST's samples for FF1 with AES-256.
    const KEY: [u8; 32] = [
        0x2B, 0x7E, 0x15, 0x16, 0x28, 0xAE, 0xD2, 0xA6, 0xAB, 0xF7, 0x15, 0x88, 0x09, 0xCF, 0x4F, 0x3C, 0xEF, 0x43,
        0x59, 0xD8, 0xD5, 0x80, 0xAA, 0x4F, 0x7F, 0x03, 0x6D, 0x6F, 0x04, 0xFC, 0x6A, 0x94,
    ];

    #[test]
    fn agrees_with_the_standards_sample() {
        // "FF1samples.pdf", Sample #7: AES-256, radix 10, no tweak.
        let made = Permutation::new(&KEY).unwrap().decimal(10, (1_234, 56_789)).unwrap();
        assert_eq!(made, (66_576, 67_009));
    }

    #[test]
    fn permutes() {
        let permutation = Permutation::new(&KEY).unwrap();
        let all: std::collections::BTreeSet<_> =
            (0..10_000).map(|n| permutation.decimal(4, (n / 100, n % 100)).unwrap()).collect();
        assert_eq!(all.len(), 10_000);
        let bits: std::collections::BTreeSet<_> = (0..65_536).map(|n| permutation.bits(16, n).unwrap()).collect();
        assert_eq!((bits.len(), bits.iter().max()), (65_536, Some(&65_535)));
        for count in 2..=MAX_DIGITS {
            let (left, right) = permutation.decimal(count, (1, 2)).unwrap();
            assert!(left < 10_u128.pow(count / 2) && right < 10_u128.pow(count - count / 2), "{count}");
        }
        assert!(permutation.bits(64, u64::MAX).is_some() && permutation.decimal(57, (0, 0)).is_none());
    }
}

//! Randomness by seed: one stream for each concern, so that a change to one does not shift the others.

use fastrand::Rng;

/// The stream of `concern` under `seed`.
#[must_use]
pub fn stream(seed: u64, concern: &str) -> Rng {
    // FNV-1a over the name, then splitmix64: neighbouring seeds have nothing in common.
    let named = concern
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ named;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Rng::with_seed(mixed ^ (mixed >> 31))
}

/// True `per_mille` times in a thousand.
pub fn chance(rng: &mut Rng, per_mille: u64) -> bool {
    rng.u64(0..1_000) < per_mille
}

/// One of `of`; none of nothing.
pub fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> Option<T> {
    if of.is_empty() { None } else { of.get(rng.usize(0..of.len())).copied() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream_and_others_do_not() {
        let take = |seed, concern| {
            let mut rng = stream(seed, concern);
            (0..8).map(|_| rng.u64(..)).collect::<Vec<_>>()
        };
        assert_eq!(take(7, "net"), take(7, "net"));
        assert_ne!(take(7, "net"), take(7, "disk"));
        assert_ne!(take(7, "net"), take(8, "net"));
    }
}

//! Claims that a principal keeps of the proof of its identity: policy may ask for them, and revocation may go by them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Claims by name, each with its values. Bounded (I11): it goes into every token that is made from that identity. A copy costs next to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct KeptClaims(
    Option<Arc<All>>,
    /// How long the proof lives, by its own word, in seconds. Of the token that was shown: nothing that is made of it has it.
    #[serde(skip)]
    Option<u32>,
);

type All = BTreeMap<Arc<str>, Vec<Arc<str>>>;

/// How the identity was proven (OpenID Connect Core 1.0, section 2): always kept, when a token says it.
pub const ALWAYS_KEPT: [&str; 3] = ["acr", "amr", "auth_time"];

impl KeptClaims {
    /// Claims at the most.
    pub const MOST: usize = 64;
    /// Values of one claim.
    pub const MOST_VALUES: usize = 32;
    /// Bytes of a name, or of a value.
    pub const MOST_TEXT: usize = 1_024;
    /// Bytes of all names and values.
    pub const MOST_BYTES: usize = 4_096;

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// From when it was issued to its end, in seconds; none: that is not known.
    #[must_use]
    pub const fn token_ttl(&self) -> Option<u32> {
        self.1
    }

    /// Keeps how long the token lives that was shown.
    pub const fn live(&mut self, seconds: u32) {
        self.1 = Some(seconds);
    }

    /// Keeps a claim, in the place of what was kept by that name. Without values it is not kept. Gives whether there was room; else nothing is
    /// changed.
    #[must_use]
    pub fn keep(&mut self, claim: &str, values: Vec<Arc<str>>) -> bool {
        let fits = |text: &str| !text.is_empty() && text.len() <= Self::MOST_TEXT;
        if values.is_empty() {
            return true;
        }
        if !fits(claim) || values.len() > Self::MOST_VALUES || !values.iter().all(|value| fits(value)) {
            return false;
        }
        let others = self.iter().filter(|(name, _)| *name != claim);
        let (count, bytes) = others.fold((1_usize, weight(claim, &values)), |(count, bytes), (name, values)| {
            (count.saturating_add(1), bytes.saturating_add(weight(name, values)))
        });
        if count > Self::MOST || bytes > Self::MOST_BYTES {
            return false;
        }
        Arc::make_mut(self.0.get_or_insert_default()).insert(claim.into(), values);
        true
    }

    /// What is kept, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Arc<str>])> {
        self.0.iter().flat_map(|all| all.iter()).map(|(name, values)| (&**name, values.as_slice()))
    }

    /// The values of `claim`; none, when it is not kept.
    #[must_use]
    pub fn values(&self, claim: &str) -> &[Arc<str>] {
        self.0.as_ref().and_then(|all| all.get(claim)).map_or(&[], Vec::as_slice)
    }

    /// Whether `claim` has `value` among its values.
    #[must_use]
    pub fn says(&self, claim: &str, value: &str) -> bool {
        self.values(claim).iter().any(|known| **known == *value)
    }
}

fn weight(claim: &str, values: &[Arc<str>]) -> usize {
    values.iter().map(|value| value.len()).fold(claim.len(), usize::saturating_add)
}

impl<'de> Deserialize<'de> for KeptClaims {
    /// Refuses what is more than may be kept.
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut kept = Self::default();
        for (claim, values) in All::deserialize(from)? {
            if !kept.keep(&claim, values) {
                return Err(serde::de::Error::custom("more claims than are kept"));
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(of: &[&str]) -> Vec<Arc<str>> {
        of.iter().map(|&text| text.into()).collect()
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = KeptClaims::default();
        assert!(kept.keep("acr", texts(&["mfa"])) && kept.keep("amr", texts(&["pwd", "otp"])));
        assert!(kept.says("amr", "otp") && !kept.says("amr", "mfa") && !kept.says("x", "otp"));
        assert!(kept.keep("none", Vec::new()) && kept.values("none").is_empty());
        for (claim, values) in [
            ("", texts(&["a"])),
            ("a", texts(&[""])),
            ("a", texts(&[&"x".repeat(1_025)])),
            ("a", vec!["x".into(); 33]),
            ("a", vec!["x".repeat(200).into(); 32]),
        ] {
            assert!(!kept.keep(claim, values), "{claim}");
        }
        assert_eq!(kept.iter().count(), 2);
        for number in 2..KeptClaims::MOST {
            assert!(kept.keep(&format!("c{number}"), texts(&["v"])));
        }
        assert!(!kept.keep("more", texts(&["v"])));
        // In the place of another there is room.
        assert!(kept.keep("c2", texts(&["w"])) && kept.says("c2", "w"));
    }

    #[test]
    fn its_text_is_read_back_and_bounded() {
        let mut kept = KeptClaims::default();
        assert!(kept.keep("amr", texts(&["pwd", "otp"])));
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(json, r#"{"amr":["pwd","otp"]}"#);
        assert_eq!(serde_json::from_str::<KeptClaims>(&json).unwrap(), kept);
        let long = format!(r#"{{"a":["{}"]}}"#, "x".repeat(2_000));
        assert!(serde_json::from_str::<KeptClaims>(&long).is_err());
        assert_eq!(serde_json::from_str::<KeptClaims>("{}").unwrap(), KeptClaims::default());
    }
}

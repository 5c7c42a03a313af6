//! What a value is recognised by, wherever it stands.

/// A kind of value that can be told by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Detector {
    /// Numbers of payment cards: a known issuer's range, a fitting length, and the check digit.
    CreditCard,
    /// Account numbers of ISO 13616: the country's length, and the check digits.
    Iban,
    /// Addresses of mail.
    Email,
    /// Telephone numbers, as they are written internationally, in North America, or with a trunk prefix.
    Phone,
    /// Numbers that states give to people: of the US, UK, Germany, France, Spain, Italy, Poland and Brazil.
    NationalId,
    /// JSON Web Tokens.
    Jwt,
    /// Private keys in PEM.
    PrivateKey,
    /// Keys and tokens of clouds and services that say by a prefix what they are.
    CloudKey,
}

/// Some of the detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Detectors(u8);

impl Detector {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CreditCard,
        Self::Iban,
        Self::Email,
        Self::Phone,
        Self::NationalId,
        Self::Jwt,
        Self::PrivateKey,
        Self::CloudKey,
    ];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreditCard => "credit-card",
            Self::Iban => "iban",
            Self::Email => "email",
            Self::Phone => "phone",
            Self::NationalId => "national-id",
            Self::Jwt => "jwt",
            Self::PrivateKey => "private-key",
            Self::CloudKey => "cloud-key",
        }
    }

    /// The detector of this name.
    ///
    /// # Errors
    /// Names those that there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|detector| detector.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::as_str).collect();
            format!("must be one of {}", names.join(", "))
        })
    }

    const fn bit(self) -> u8 {
        match self {
            Self::CreditCard => 1,
            Self::Iban => 2,
            Self::Email => 4,
            Self::Phone => 8,
            Self::NationalId => 16,
            Self::Jwt => 32,
            Self::PrivateKey => 64,
            Self::CloudKey => 128,
        }
    }
}

impl Detectors {
    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, detector: Detector) -> bool {
        self.0 & detector.bit() != 0
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are among them, in the order of [`Detector::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Detector> {
        Detector::ALL.into_iter().filter(move |detector| self.has(*detector))
    }
}

impl FromIterator<Detector> for Detectors {
    fn from_iter<I: IntoIterator<Item = Detector>>(all: I) -> Self {
        Self(all.into_iter().fold(0, |bits, detector| bits | detector.bit()))
    }
}

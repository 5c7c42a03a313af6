//! Which signatures are taken.

macro_rules! algorithms {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Signature algorithms of JSON Web Signature (RFC 7518, section 3.1; RFC 8037). Asymmetric ones only: there is no `none`
        /// and no `HS256` to be confused with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Algorithm { $($(#[$doc])* $name,)* }

        impl Algorithm {
            /// Every accepted algorithm.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Those that an issuer which names none is trusted with. It stays as it was first: what a cluster has written down means the
            /// same to each of its members, whichever release they run.
            pub const DEFAULT: &'static [Self] = &[
                Self::Rs256, Self::Rs384, Self::Rs512, Self::Ps256, Self::Ps384, Self::Ps512, Self::Es256, Self::Es384, Self::EdDsa,
            ];

            /// The `alg` header's text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// From the `alg` header's text.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

algorithms! {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256 = "RS256";
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384 = "RS384";
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512 = "RS512";
    /// RSASSA-PSS with SHA-256.
    Ps256 = "PS256";
    /// RSASSA-PSS with SHA-384.
    Ps384 = "PS384";
    /// RSASSA-PSS with SHA-512.
    Ps512 = "PS512";
    /// ECDSA on P-256 with SHA-256.
    Es256 = "ES256";
    /// ECDSA on P-384 with SHA-384.
    Es384 = "ES384";
    /// ECDSA on P-521 with SHA-512. Only where an issuer names it.
    Es512 = "ES512";
    /// Ed25519.
    EdDsa = "EdDSA";
}

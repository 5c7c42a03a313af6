//! Well-known issuers: what is usual of them, and what a declaration must say so that not everybody's tokens are taken.
//!
//! The issuers of forges and clouds sign for all their customers: the signature says that a token is of GitHub, and not that it is of one's
//! own repository. A preset therefore demands the claims that tell whose a token is.

use super::{Algorithm, ClaimPath, ClaimPattern, GroupsClaim, Issuer, KeySource, OidcIssuer, RequiredClaim};

/// A well-known issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Workflows of GitHub Actions.
    GithubActions,
    /// Jobs of GitLab CI (`id_tokens`).
    GitlabCi,
    /// Service accounts of a Kubernetes cluster (projected tokens).
    Kubernetes,
    /// JWT-SVIDs of a SPIFFE trust domain.
    Spiffe,
    /// Google accounts and service accounts.
    Google,
    /// A tenant of Microsoft Entra ID, with its managed identities.
    Azure,
}

/// How far a value must be pinned down.
#[derive(Clone, Copy)]
enum Pinned {
    /// No wildcard.
    Whole,
    /// No wildcard up to the first slash, which must come after something.
    Owner,
    /// As [`Self::Owner`], after this beginning.
    OwnerAfter(&'static str),
    /// An address: whole, or any of the service accounts of one Google project.
    ServiceAccounts,
}

type Demand = (&'static [&'static str], Pinned);

const GITHUB: &[Demand] = &[
    (&["repository"], Pinned::Owner),
    (&["repository_owner"], Pinned::Whole),
    (&["repository_id"], Pinned::Whole),
    (&["repository_owner_id"], Pinned::Whole),
    (&["enterprise"], Pinned::Whole),
    (&["sub"], Pinned::OwnerAfter("repo:")),
];
const GITLAB: &[Demand] = &[
    (&["project_path"], Pinned::Owner),
    (&["namespace_path"], Pinned::Owner),
    (&["project_id"], Pinned::Whole),
    (&["namespace_id"], Pinned::Whole),
    (&["sub"], Pinned::OwnerAfter("project_path:")),
];
const GOOGLE: &[Demand] = &[
    (&["hd"], Pinned::Whole),
    (&["sub"], Pinned::Whole),
    (&["email"], Pinned::ServiceAccounts),
    (&["google", "compute_engine", "project_id"], Pinned::Whole),
];
const SPIFFE: &[Demand] = &[(&["sub"], Pinned::OwnerAfter(super::SPIFFE))];

impl Preset {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::GithubActions, Self::GitlabCi, Self::Kubernetes, Self::Spiffe, Self::Google, Self::Azure];

    /// Its name in a declaration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GithubActions => "github-actions",
            Self::GitlabCi => "gitlab-ci",
            Self::Kubernetes => "kubernetes",
            Self::Spiffe => "spiffe",
            Self::Google => "google",
            Self::Azure => "azure",
        }
    }

    /// From its name in a declaration.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == text)
    }

    /// The URL, where all the world has one.
    pub(crate) const fn url(self) -> Option<&'static str> {
        match self {
            Self::GithubActions => Some("https://token.actions.githubusercontent.com"),
            Self::GitlabCi => Some("https://gitlab.com"),
            Self::Google => Some("https://accounts.google.com"),
            Self::Kubernetes | Self::Spiffe | Self::Azure => None,
        }
    }

    pub(crate) const fn algorithms(self) -> &'static [Algorithm] {
        use Algorithm::{Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Self::GithubActions | Self::GitlabCi | Self::Google | Self::Azure => &[Rs256],
            Self::Kubernetes => &[Rs256, Es256, Es384, Es512],
            // JWT-SVID, section 2.1.
            Self::Spiffe => &[Rs256, Rs384, Rs512, Es256, Es384, Es512, Ps256, Ps384, Ps512],
        }
    }

    /// The claim that names the subject. Entra's `sub` is another for each application; `oid` is the same everywhere in the tenant.
    pub(crate) fn subject(self) -> ClaimPath {
        ClaimPath::of_name(if matches!(self, Self::Azure) { "oid" } else { "sub" })
    }

    /// Groups by claims that nobody but the issuer and the owner of the namespace can choose.
    pub(crate) fn groups(self) -> Vec<GroupsClaim> {
        let claims: &[(&str, &str)] = match self {
            Self::GithubActions => &[("repository", "repository:"), ("repository_owner", "owner:")],
            Self::GitlabCi => &[("project_path", "project:"), ("namespace_path", "namespace:")],
            Self::Kubernetes => &[("/kubernetes.io/namespace", "namespace:")],
            Self::Google => &[("hd", "domain:")],
            Self::Azure => &[("groups", ""), ("roles", "role:")],
            Self::Spiffe => &[],
        };
        let read = claims.iter().filter_map(|(claim, prefix)| {
            let claim = ClaimPath::parse(claim).ok()?;
            Some(GroupsClaim { prefix: (*prefix).to_owned(), ..GroupsClaim::list(claim) })
        });
        read.collect()
    }

    /// Adds what goes without saying: a Google address counts when Google has verified it, an Entra token when it is of the tenant of the URL.
    pub(crate) fn complete(self, url: &str, required: &mut Vec<RequiredClaim>) {
        let mut add = |claim: &str, value: &str| {
            if !required.iter().any(|known| known.claim.names() == [claim]) {
                let values = ClaimPattern::parse(value).into_iter().collect();
                required.push(RequiredClaim { claim: ClaimPath::of_name(claim), values });
            }
        };
        match self {
            Self::Azure => {
                if let Some(tenant) = tenant(url) {
                    add("tid", tenant);
                }
            }
            Self::Google => add("email_verified", "true"),
            _ => {}
        }
        // Tokens without an address have no such claim: it is asked of those whose address counts.
        if matches!(self, Self::Google) && !required.iter().any(|known| known.claim.names() == ["email"]) {
            required.retain(|known| known.claim.names() != ["email_verified"]);
        }
    }

    /// What is missing in the declaration, by the field that should say it.
    #[must_use]
    pub(crate) fn faults(self, issuer: &Issuer) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let Some(oidc) = issuer.oidc() else { return faults };
        match self {
            Self::GithubActions => demand(GITHUB, "anybody's workflow", oidc, &mut faults),
            Self::GitlabCi => demand(GITLAB, "anybody's job", oidc, &mut faults),
            Self::Google => demand(GOOGLE, "any Google account", oidc, &mut faults),
            Self::Spiffe if issuer.is_trust_domain() => {
                if oidc.keys == KeySource::Discovery {
                    let why = "is needed (or jwks): a trust domain has no discovery document, but a bundle of keys";
                    faults.push(("spec.jwksUri", why.to_owned()));
                }
            }
            Self::Spiffe => demand(SPIFFE, "any trust domain's workload", oidc, &mut faults),
            Self::Azure => {
                if tenant(&issuer.url).is_none() {
                    let why = "must have the tenant's id, as in https://login.microsoftonline.com/TENANT-ID/v2.0: \
                        \"common\" and the like are of everybody";
                    faults.push(("spec.url", why.to_owned()));
                }
            }
            Self::Kubernetes => {
                let own = |audience: &&String| **audience == issuer.url || audience.contains("kubernetes.default");
                if let Some(own) = oidc.audiences.iter().find(own) {
                    let why = format!(
                        "{own:?} is the cluster's own audience, which every pod's token has: ask for one of Postern's own"
                    );
                    faults.push(("spec.audiences", why));
                }
            }
        }
        faults
    }
}

fn demand(demands: &[Demand], of: &str, oidc: &OidcIssuer, faults: &mut Vec<(&'static str, String)>) {
    let pinned = |(claim, how): &Demand| {
        oidc.required.iter().any(|required| {
            required.claim.names() == *claim && required.values.iter().all(|value| is_pinned(value, *how))
        })
    };
    if !demands.iter().any(pinned) {
        let claims: Vec<String> = demands.iter().map(|(claim, _)| claim.join(".")).collect();
        let why = format!(
            "must pin down one of {}, or {of} is let in (wildcards may stand behind the owner's name only)",
            claims.join(", ")
        );
        faults.push(("spec.requiredClaims", why));
    }
}

fn is_pinned(value: &ClaimPattern, how: Pinned) -> bool {
    let (literal, wild) = value.literal();
    let owner = |text: &str| text.split_once('/').is_some_and(|(owner, _)| !owner.is_empty());
    match how {
        Pinned::Whole => !wild,
        Pinned::Owner => !wild || owner(literal),
        Pinned::OwnerAfter(beginning) => literal.strip_prefix(beginning).is_some_and(owner),
        Pinned::ServiceAccounts => {
            let domain = value.literal_end().split_once('@').map_or("", |(_, domain)| domain);
            !wild || domain.strip_suffix(".iam.gserviceaccount.com").is_some_and(|project| !project.is_empty())
        }
    }
}

/// The tenant's id in the URL of an Entra issuer.
fn tenant(url: &str) -> Option<&str> {
    let tenant = url.strip_prefix("https://")?.split('/').nth(1)?;
    let groups: Vec<usize> = tenant.split('-').map(str::len).collect();
    let hex = tenant.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    (hex && groups == [8, 4, 4, 4, 12]).then_some(tenant)
}

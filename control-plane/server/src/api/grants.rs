//! What a caller may do: verbs on objects.

use postern_core::resource::Kind;
use postern_core::role::{Grant, Role};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name { $($variant,)* }

        impl $name {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

words! {
    /// What is acted on.
    Object {
        Approvals = "approvals",
        Audit = "audit",
        Backups = "backups",
        Certificates = "certificates",
        Cluster = "cluster",
        Issuers = "issuers",
        MaskingRules = "masking-rules",
        Policies = "policies",
        Recordings = "recordings",
        Revocations = "revocations",
        RoleBindings = "role-bindings",
        Roles = "roles",
        Secrets = "secrets",
        ServiceAccounts = "service-accounts",
        Sessions = "sessions",
        Targets = "targets",
        Tokens = "tokens",
        Webhooks = "webhooks",
    }
}

words! {
    /// What is done to it.
    Verb {
        Create = "create",
        Delete = "delete",
        Export = "export",
        Get = "get",
        Issue = "issue",
        List = "list",
        Manage = "manage",
        Review = "review",
        Update = "update",
        Watch = "watch",
    }
}

impl From<Kind> for Object {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Issuer => Self::Issuers,
            Kind::Target => Self::Targets,
            Kind::Policy => Self::Policies,
            Kind::MaskingRule => Self::MaskingRules,
            Kind::Secret => Self::Secrets,
            Kind::Role => Self::Roles,
            Kind::RoleBinding => Self::RoleBindings,
            Kind::ServiceAccount => Self::ServiceAccounts,
            Kind::Webhook => Self::Webhooks,
        }
    }
}

/// Permissions, as a set of bits: for each object, the verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants([u16; Object::ALL.len()]);

/// Roles that are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuiltIn {
    Admin,
    Auditor,
    Operator,
    Reviewer,
}

impl Grants {
    /// Everything.
    pub(crate) const ALL: Self = Self([Self::EVERY_VERB; Object::ALL.len()]);

    const EVERY_VERB: u16 = (1 << Verb::ALL.len()) - 1;

    /// What one must hold to have approvals told elsewhere, signed by a Secret.
    pub(crate) fn told_of_approvals() -> Self {
        let mut grants = Self::default();
        grants.add(Object::Approvals, Verb::Get);
        grants.add(Object::Secrets, Verb::Update);
        grants
    }

    const fn bit(verb: Verb) -> u16 {
        1 << verb as u16
    }

    pub(crate) fn add(&mut self, object: Object, verb: Verb) {
        if let Some(verbs) = self.0.get_mut(object as usize) {
            *verbs |= Self::bit(verb);
        }
    }

    pub(crate) fn permits(&self, object: Object, verb: Verb) -> bool {
        self.0.get(object as usize).is_some_and(|verbs| verbs & Self::bit(verb) != 0)
    }

    /// Whether `other` is no more than this.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(own, wanted)| wanted & !own == 0)
    }

    pub(crate) fn union(&mut self, other: &Self) {
        for (own, more) in self.0.iter_mut().zip(other.0) {
            *own |= more;
        }
    }

    /// Each permission by its words.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Object, Verb)> + '_ {
        let pairs = Object::ALL.iter().flat_map(|object| Verb::ALL.iter().map(|verb| (*object, *verb)));
        pairs.filter(|(object, verb)| self.permits(*object, *verb))
    }

    /// As few grants as say the same.
    pub(crate) fn to_words(self) -> Vec<Grant> {
        if self == Self::ALL {
            return vec![Grant { objects: vec!["*".to_owned()], verbs: vec!["*".to_owned()] }];
        }
        let mut words: Vec<Grant> = Vec::new();
        for object in Object::ALL {
            let verbs: Vec<String> = Verb::ALL
                .iter()
                .filter(|verb| self.permits(*object, **verb))
                .map(|verb| verb.as_str().to_owned())
                .collect();
            match words.iter_mut().find(|grant| grant.verbs == verbs) {
                _ if verbs.is_empty() => {}
                Some(grant) => grant.objects.push(object.as_str().to_owned()),
                None => words.push(Grant { objects: vec![object.as_str().to_owned()], verbs }),
            }
        }
        words
    }
}

impl From<&Role> for Grants {
    fn from(role: &Role) -> Self {
        let mut grants = Self::default();
        for object in Object::ALL {
            for verb in Verb::ALL {
                if role.permits(object.as_str(), verb.as_str()) {
                    grants.add(*object, *verb);
                }
            }
        }
        grants
    }
}

impl BuiltIn {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "admin" => Some(Self::Admin),
            "auditor" => Some(Self::Auditor),
            "operator" => Some(Self::Operator),
            "reviewer" => Some(Self::Reviewer),
            _ => None,
        }
    }

    pub(crate) fn grants(self) -> Grants {
        let mut grants = Grants::default();
        let reads = |grants: &mut Grants| {
            for object in Object::ALL {
                for verb in [Verb::Get, Verb::List, Verb::Watch] {
                    grants.add(*object, verb);
                }
            }
        };
        match self {
            Self::Admin => return Grants::ALL,
            Self::Auditor => {
                reads(&mut grants);
                grants.add(Object::Recordings, Verb::Export);
                grants.add(Object::Audit, Verb::Export);
            }
            // Not who is trusted (issuers, roles, bindings), no secret's value, and nobody into the cluster.
            Self::Operator => {
                reads(&mut grants);
                for object in [Object::Targets, Object::Policies, Object::MaskingRules] {
                    for verb in [Verb::Create, Verb::Update, Verb::Delete] {
                        grants.add(object, verb);
                    }
                }
                grants.add(Object::Recordings, Verb::Export);
                grants.add(Object::Tokens, Verb::Manage);
                grants.add(Object::Revocations, Verb::Create);
                grants.add(Object::Sessions, Verb::Delete);
            }
            // What every verified principal may anyway: policies name who reviews, and those see what they are to review.
            Self::Reviewer => {}
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::role::{BUILT_IN, OBJECTS, VERBS};

    fn sorted(mut words: Vec<&str>) -> Vec<&str> {
        words.sort_unstable();
        words
    }

    #[test]
    fn the_words_are_those_that_roles_may_use() {
        let objects = Object::ALL.iter().map(|object| object.as_str()).collect();
        let verbs = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
        assert_eq!(sorted(objects), sorted(OBJECTS.to_vec()));
        assert_eq!(sorted(verbs), sorted(VERBS.to_vec()));
        assert!(BUILT_IN.iter().all(|name| BuiltIn::from_name(name).is_some()));
    }

    #[test]
    fn built_in_roles() {
        let (operator, auditor) = (BuiltIn::Operator.grants(), BuiltIn::Auditor.grants());
        assert!(Grants::ALL.covers(&operator) && Grants::ALL.covers(&auditor) && !operator.covers(&auditor));
        for object in [Object::Secrets, Object::Roles, Object::RoleBindings, Object::Issuers, Object::Cluster] {
            for verb in [Verb::Create, Verb::Update, Verb::Delete, Verb::Manage, Verb::Issue] {
                assert!(!operator.permits(object, verb), "{object:?} {verb:?}");
            }
        }
        assert!(auditor.iter().all(|(_, verb)| matches!(verb, Verb::Get | Verb::List | Verb::Watch | Verb::Export)));
        assert_eq!(BuiltIn::Reviewer.grants(), Grants::default());
    }

    #[test]
    fn sets_and_words_agree() {
        let mut grants = Grants::default();
        grants.add(Object::Targets, Verb::Get);
        grants.add(Object::Policies, Verb::Get);
        grants.add(Object::Policies, Verb::Update);
        let role = Role { grants: grants.to_words(), description: String::new() };
        assert_eq!(Grants::from(&role), grants);
        assert_eq!(role.grants.len(), 2);
        let all = Role { grants: Grants::ALL.to_words(), description: String::new() };
        assert_eq!((Grants::from(&all), all.grants.len()), (Grants::ALL, 1));
        let mut more = grants;
        more.add(Object::Audit, Verb::List);
        assert!(more.covers(&grants) && !grants.covers(&more));
        grants.union(&more);
        assert_eq!(grants, more);
    }
}

//! The one table that says what each method of each service needs. A method that is not in it is not served.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::grants::Object::{Audit as AuditLog, Backups, Certificates, Cluster, Revocations, Secrets};
use super::grants::Verb::{self, Create, Delete, Export, Get, Issue, List, Manage, Update, Watch};
use super::grants::{Grants, Object};

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: what is asked is public, or the request itself proves that it may be.
    Nothing,
    /// A name: the service tells each caller what is theirs to see.
    Name,
    /// A permission.
    May(Object, Verb),
    /// Any of the verbs on any kind of declared object; the service checks the kinds that the request speaks of.
    Kinds(&'static [Verb]),
    /// A gateway's certificate.
    Gateway,
}

/// What goes into the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audit {
    /// Every call.
    Calls,
    /// Refused calls only: what is permitted tells or changes nothing.
    Refusals,
    /// No administration.
    Never,
}

/// What stands in the table for a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) needs: Needs,
    pub(super) audit: Audit,
}

const fn audited(needs: Needs) -> Rule {
    Rule { needs, audit: Audit::Calls }
}

const fn quiet(needs: Needs) -> Rule {
    Rule { needs, audit: Audit::Never }
}

use Needs::{Gateway, Kinds, May, Name, Nothing};

/// By service and method.
const TABLE: &[(&str, &[(&str, Rule)])] = &[
    (
        "postern.admin.v1.ResourceService",
        &[
            ("Get", audited(Kinds(&[Get]))),
            ("List", audited(Kinds(&[List]))),
            ("Create", audited(Kinds(&[Create]))),
            ("Update", audited(Kinds(&[Create, Update]))),
            ("Delete", audited(Kinds(&[Delete]))),
            ("Watch", audited(Kinds(&[Watch]))),
            ("Apply", audited(Kinds(&[Create, Update]))),
        ],
    ),
    ("postern.admin.v1.WebhookService", &[("ListWebhookStatuses", audited(May(Object::Webhooks, List)))]),
    (
        "postern.admin.v1.ApprovalService",
        &[
            ("ListApprovals", audited(Name)),
            ("GetApproval", audited(Name)),
            ("ReviewApproval", audited(Name)),
            ("WatchApprovals", audited(Name)),
        ],
    ),
    (
        "postern.admin.v1.ReviewService",
        &[("ListReviews", audited(Name)), ("GetReview", audited(Name)), ("CloseReview", audited(Name))],
    ),
    (
        "postern.admin.v1.AccessService",
        &[
            ("RequestAccess", audited(Name)),
            ("ListAccess", audited(Name)),
            ("GetAccess", audited(Name)),
            ("ReviewAccess", audited(Name)),
            ("EndAccess", audited(Name)),
            ("WatchAccess", audited(Name)),
        ],
    ),
    (
        "postern.admin.v1.SessionService",
        &[
            ("ListSessions", audited(Name)),
            ("GetSession", audited(Name)),
            ("ExportSession", audited(Name)),
            ("WatchSessions", audited(Name)),
            ("KillSessions", audited(Name)),
        ],
    ),
    (
        "postern.admin.v1.LogService",
        &[
            // Heads are published: they tell of no recording.
            ("GetHead", quiet(Nothing)),
            ("GetConsistency", quiet(Nothing)),
            ("GetEvidence", audited(Name)),
            ("ListLeaves", audited(May(Object::Sessions, List))),
        ],
    ),
    (
        "postern.admin.v1.TokenService",
        &[("ExchangeToken", audited(Nothing)), ("WhoAmI", Rule { needs: Name, audit: Audit::Refusals })],
    ),
    (
        "postern.admin.v1.JobService",
        &[
            ("StartJob", audited(Name)),
            // Every few seconds of every job: what it changes is told when the job ends.
            ("BeatJob", Rule { needs: Name, audit: Audit::Refusals }),
            ("EndJob", audited(Name)),
            ("GetJob", audited(Name)),
            ("ListJobs", audited(Name)),
        ],
    ),
    (
        "postern.admin.v1.RevocationService",
        &[
            // Whoever shows a token whole may revoke it; the service checks what else is asked for.
            ("Revoke", audited(Nothing)),
            ("ListRevocations", audited(May(Revocations, List))),
        ],
    ),
    (
        "postern.admin.v1.ClientService",
        &[("ListLogins", quiet(Nothing)), ("GetConnection", Rule { needs: Name, audit: Audit::Refusals })],
    ),
    ("postern.admin.v1.AuditService", &[("ListAuditRecords", audited(May(AuditLog, List)))]),
    (
        "postern.admin.v1.CertificateService",
        &[
            ("IssueCertificate", audited(May(Certificates, Issue))),
            // By the certificate that is shown.
            ("RenewCertificate", audited(Nothing)),
            ("ListCertificates", audited(May(Certificates, List))),
            ("RevokeCertificates", audited(May(Certificates, Manage))),
            ("GetAuthority", quiet(Nothing)),
        ],
    ),
    (
        "postern.admin.v1.ClusterService",
        &[
            // By the token that is shown.
            ("RedeemToken", audited(Nothing)),
            ("CreateJoinToken", audited(May(Cluster, Create))),
            ("ListJoinTokens", audited(May(Cluster, List))),
            ("DeleteJoinToken", audited(May(Cluster, Delete))),
            ("GetClusterStatus", audited(May(Cluster, Get))),
            ("PromoteMember", audited(May(Cluster, Manage))),
            ("RemoveMember", audited(May(Cluster, Manage))),
            ("TransferLeader", audited(May(Cluster, Manage))),
            ("RotateSigningKey", audited(May(Cluster, Manage))),
            ("RevokeSigningKey", audited(May(Cluster, Manage))),
            ("Backup", audited(May(Backups, Export))),
        ],
    ),
    (
        "postern.admin.v1.FleetService",
        &[("ListGateways", audited(May(Cluster, List))), ("ListAgents", audited(May(Cluster, List)))],
    ),
    (
        "postern.admin.v1.SecretService",
        &[("GetKekStatus", audited(May(Secrets, List))), ("RotateKek", audited(May(Secrets, Manage)))],
    ),
    ("postern.gateway.v1.PolicyFeedService", &[("Watch", quiet(Gateway))]),
    (
        "postern.gateway.v1.HoldService",
        &[
            ("RequestApproval", quiet(Gateway)),
            ("WatchApproval", quiet(Gateway)),
            ("ConsumeApproval", quiet(Gateway)),
            ("WithdrawApproval", quiet(Gateway)),
        ],
    ),
    ("postern.gateway.v1.ReviewService", &[("OpenReview", quiet(Gateway))]),
    ("postern.gateway.v1.TokenUseService", &[("TakeUses", quiet(Gateway))]),
    ("postern.gateway.v1.IssuerService", &[("RefreshKeys", quiet(Gateway))]),
    ("postern.gateway.v1.RecordingService", &[("Upload", quiet(Gateway))]),
    ("postern.gateway.v1.FleetService", &[("Report", quiet(Gateway))]),
    ("grpc.health.v1.Health", &[("Check", quiet(Nothing)), ("Watch", quiet(Nothing)), ("List", quiet(Nothing))]),
    ("grpc.reflection.v1.ServerReflection", &[("ServerReflectionInfo", quiet(Nothing))]),
    ("grpc.reflection.v1alpha.ServerReflection", &[("ServerReflectionInfo", quiet(Nothing))]),
];

static BY_PATH: LazyLock<BTreeMap<String, Rule>> = LazyLock::new(|| {
    let rules =
        TABLE.iter().flat_map(|(service, methods)| methods.iter().map(move |(method, rule)| (service, method, rule)));
    rules.map(|(service, method, rule)| (format!("/{service}/{method}"), *rule)).collect()
});

/// What calling `path` needs; `None`: it is not served.
pub(super) fn rule(path: &str) -> Option<Rule> {
    BY_PATH.get(path).copied()
}

/// Whether anything of a kind may be done by one of `verbs`.
pub(super) fn any_kind(grants: &Grants, verbs: &[Verb]) -> bool {
    let kinds = postern_core::resource::Kind::ALL.into_iter().map(Object::from);
    kinds.into_iter().any(|object| verbs.iter().any(|verb| grants.permits(object, *verb)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::SCHEMA;

    /// Forgetting is impossible: whatever is described has an entry, and nothing else does.
    #[test]
    fn every_method_has_an_entry_and_every_entry_a_method() {
        // Served on the peers' own terms, or to tunnels.
        let elsewhere = ["/postern.peer.", "/postern.tunnel."];
        let described: Vec<&str> =
            SCHEMA.methods().filter(|path| !elsewhere.iter().any(|p| path.starts_with(p))).collect();
        let missing: Vec<&&str> = described.iter().filter(|path| rule(path).is_none()).collect();
        assert!(missing.is_empty(), "no permission is stated for {missing:?}");
        let gone: Vec<&String> = BY_PATH
            .keys()
            .filter(|path| path.starts_with("/postern.") && !described.contains(&path.as_str()))
            .collect();
        assert!(gone.is_empty(), "no such method: {gone:?}");
    }

    #[test]
    fn administration_is_audited_and_never_open() {
        for (path, rule) in BY_PATH.iter().filter(|(path, _)| path.starts_with("/postern.admin.")) {
            match rule.needs {
                Needs::May(..) | Needs::Kinds(_) | Needs::Name => assert_ne!(rule.audit, Audit::Never, "{path}"),
                Needs::Nothing => assert!(
                    rule.audit == Audit::Calls
                        || ["/GetAuthority", "/ListLogins", "/GetHead", "/GetConsistency"]
                            .iter()
                            .any(|open| path.ends_with(open)),
                    "{path} is open and leaves no trace"
                ),
                Needs::Gateway => panic!("{path} is no public method"),
            }
        }
    }
}

//! What the targets begin with: all that is right, for them to make it wrong.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use std::collections::{BTreeMap, BTreeSet};

use postern_core::access::Grant as AccessGrant;
use postern_core::allowance::Allowance;
use postern_core::approval::{Approval, ApprovalRequirement, ApprovalState, ReviewVerdict};
use postern_core::audit::AuditRecord;
use postern_core::background::{Background, Estimate, ValuePlace, ValueUse};
use postern_core::cluster::{ControlNode, JoinToken, NodeCertificate};
use postern_core::issuer::Issuer;
use postern_core::job::Job;
use postern_core::masking::{ColumnRegex, MaskFunction, MaskingRule};
use postern_core::node::NodeRole;
use postern_core::operation::Digest;
use postern_core::policy::{Pattern, PrincipalSelector};
use postern_core::principal::PrincipalId;
use postern_core::resource::{ANY_REVISION, Kind, Metadata, Resource, Spec};
use postern_core::review::{Finding, ReviewItem};
use postern_core::revocation::{Mark, Revoked};
use postern_core::role::{Grant, Role, RoleBinding};
use postern_core::secret::Sealed;
use postern_core::service_account::ServiceAccount;
use postern_core::session::{Session, SessionEnd};
use postern_core::snapshot::Snapshot;
use postern_core::target::{
    CredentialKind, CredentialRef, CredentialSource, Protocol, Route, Target as Server, TargetSelector, TargetTls,
    TlsMode,
};
use postern_core::time::Ttl;
use postern_core::webhook::{Webhook, WebhookFormat};
use postern_core::wire::snapshot::{delta_to_proto, to_proto};
use postern_core::{AccessId, ApprovalId, Name, OperationId, Principal, RequestId, ReviewId, SessionId, Timestamp};
use postern_proto::gateway::v1 as pb;
use postern_state::{Cluster, Command, Entry, FEATURE_LEVEL, commands};
use prost::Message as _;

use super::{Target, answers, bearers, entries, evidence, files, saml, tokens, tunnel};

/// Something for `target` to begin with.
#[must_use]
pub fn seeds(target: Target) -> Vec<Vec<u8>> {
    match target {
        Target::Entries => logs(),
        Target::Restore => {
            let entry = log().pop().unwrap_or_default();
            let mut state = entries::founded();
            let mut out = vec![[prefixed(&entry), state.snapshot()].concat()];
            for entry in log() {
                let _ = state.apply(state.index() + 1, &entry);
                out.push([prefixed(&entry), state.snapshot()].concat());
            }
            out
        }
        // Bytes that say what happens: any do.
        Target::Messages => {
            let scripts = [[0_u8, 15].repeat(4), [2, 0, 0].repeat(40), [1, 4, 0, 0].repeat(8), [8; 120].to_vec()];
            let elected = [&[0][..], &[0, 15], &[2, 0, 0, 2, 1, 0, 2, 0, 0, 2, 1, 0]].concat();
            let all: Vec<u8> = scripts.concat();
            scripts.into_iter().map(|script| [&elected[..], &script].concat()).chain([all]).collect()
        }
        Target::Files => files::seeds(),
        Target::Policy => policies(),
        Target::Tunnel => tunnel::seeds(),
        Target::Tokens => tokens::seeds(),
        Target::Bearers => bearers::seeds(),
        Target::Answers => answers::seeds(),
        Target::Saml => saml::seeds(),
        Target::Evidence => evidence::seeds(),
    }
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Each entry alone, and all in one.
fn logs() -> Vec<Vec<u8>> {
    let log = log();
    let whole = |leave: u8| {
        let entries: Vec<u8> = log.iter().flat_map(|entry| prefixed(entry)).collect();
        [&[leave][..], &entries].concat()
    };
    let alone = log.iter().map(|entry| [&[0][..], &prefixed(entry)].concat());
    alone.chain([whole(0), whole(9), whole(255)]).collect()
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn sealed() -> Sealed {
    Sealed { kek_id: "k".into(), wrapped_key: vec![1], nonce: vec![2], ciphertext: vec![3] }
}

/// The first command of a cluster.
pub(super) fn founding() -> commands::InitCluster {
    commands::InitCluster(Cluster {
        id: "c".into(),
        incarnation: "i".into(),
        ca_pem: "pem".into(),
        ca_key: sealed(),
        session_token_jwks: "{}".into(),
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
        session_token_key: sealed(),
        mask_key: sealed(),
    })
}

fn principal(subject: &str) -> Principal {
    Principal {
        id: PrincipalId { issuer: name("corp"), subject: subject.into() },
        groups: BTreeSet::from(["dba".into()]),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}

fn resource(of: &str, spec: Spec) -> Resource {
    let (created_at, updated_at) = (Timestamp::default(), Timestamp::default());
    let labels = BTreeMap::from([("env".to_owned(), "test".to_owned())]);
    Resource { metadata: Metadata { name: name(of), labels, revision: ANY_REVISION, created_at, updated_at }, spec }
}

fn issuer() -> Resource {
    resource("corp", Spec::Issuer(Issuer::new_oidc("https://corp", ["postern"])))
}

fn target() -> Resource {
    let target = Server {
        protocol: Protocol::Postgres,
        address: "db:5432".parse().expect("an address"),
        tls: TargetTls { mode: TlsMode::Prefer, ca_pem: None, server_name: None, direct: false },
        credential: CredentialRef {
            username: "app".into(),
            kind: CredentialKind::Password,
            source: CredentialSource::Secret(name("pw")),
        },
        route: Route::Direct,
        databases: vec!["shop".into()],
        disabled: false,
        limits: Allowance::default(),
        spare_sessions: 2,
    };
    resource("db", Spec::Target(target))
}

fn rule() -> Resource {
    let rule = MaskingRule {
        targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
        columns: vec![Pattern::parse("public.people.email").expect("a pattern")],
        matching: ColumnRegex::parse("(?i)phone$").into_iter().collect(),
        labels: ColumnRegex::parse("^pii").into_iter().collect(),
        types: vec!["inet".into()],
        mask: MaskFunction::Digits { luhn: true },
        opaque: true,
        exempt_groups: vec!["dba".into()],
        only_by_policy: true,
        ..Default::default()
    };
    resource("mask", Spec::MaskingRule(rule))
}

fn approval(n: u8) -> Approval {
    Approval {
        id: ApprovalId::from_bytes([n; 16]),
        state: ApprovalState::Pending,
        requester: principal("alice"),
        target: name("db"),
        session: SessionId::from_bytes([1; 16]),
        operation: OperationId::from_bytes([n; 16]),
        digest: Digest([7; 32]),
        text: "delete from t".into(),
        parameters: vec!["1".into()],
        actions: vec!["sql:delete on shop.public.t".into()],
        policies: vec!["hold".into()],
        reason: "why".into(),
        requirement: ApprovalRequirement { groups: vec!["dba".into()], count: 1, expires: Ttl(60) },
        reviews: Vec::new(),
        requested_at: Timestamp::default(),
        expires_at: Timestamp::default(),
        revision: 0,
        withdrawn_because: String::new(),
        background: Some(std::sync::Arc::new(Background {
            estimate: Some(Estimate::Planned { returned: 0, written: 5, cost: 2 }),
            values: vec![ValueUse { place: ValuePlace::Parameter(1), columns: vec!["a".into()] }],
            ..Background::default()
        })),
    }
}

fn review(n: u8) -> ReviewItem {
    ReviewItem {
        id: ReviewId::from_bytes([n; 16]),
        principal: principal("alice"),
        target: name("db"),
        session: SessionId::from_bytes([n; 16]),
        gateway: "g1".into(),
        operation: OperationId::from_bytes([n; 16]),
        digest: Digest([7; 32]),
        text: "delete from t".into(),
        text_cut: true,
        parameters: vec!["1".into()],
        actions: vec!["sql:delete on shop.public.t".into()],
        policies: vec!["break-glass".into()],
        policy_revision: 3,
        reason: "why".into(),
        groups: vec!["dba".into()],
        opened_at: Timestamp::default(),
        due_at: Timestamp::default(),
        overdue: false,
        session_over: false,
        closed: None,
        revision: 0,
        relations: vec![["db".into(), "public".into(), "t".into()]],
        values: vec![ValueUse { place: ValuePlace::Parameter(1), columns: vec!["a".into()] }],
    }
}

fn node(id: u64, of: &str) -> ControlNode {
    ControlNode {
        id,
        name: name(of),
        peer_address: "c1:1".into(),
        api_address: "c1:2".into(),
        feature_level: FEATURE_LEVEL,
        kek_ids: vec!["k".into()],
        version: "0.1.0".into(),
        joined_at: Timestamp::default(),
        revision: 0,
        learner: false,
    }
}

fn certificate(serial: &str, role: NodeRole) -> NodeCertificate {
    NodeCertificate {
        serial: serial.into(),
        role,
        name: name("c1"),
        agent_pool: None,
        issued_at: Timestamp::default(),
        not_after: Timestamp::from_millis(90_000_000),
        revoked: None,
        revision: 0,
    }
}

fn audit() -> AuditRecord {
    AuditRecord {
        sequence: 0,
        at: Timestamp::default(),
        principal: Some(principal("alice")),
        certificate: String::new(),
        client_address: "127.0.0.1:1".into(),
        node: "c1".into(),
        method: "m".into(),
        objects: vec!["Target/db".into()],
        code: String::new(),
        reason: String::new(),
        request_id: String::new(),
        dry_run: false,
        count: 1,
        hash: [0; 32],
    }
}

/// Every command, in an order in which most are not refused.
fn log() -> Vec<Vec<u8>> {
    use commands as c;
    let session = Session {
        id: SessionId::from_bytes([1; 16]),
        principal: principal("alice"),
        target: name("db"),
        gateway: "g1".into(),
        client_address: "127.0.0.1:1".into(),
        database: "shop".into(),
        started_at: Timestamp::from_millis(5),
        end: None,
        revision: 0,
    };
    let end = SessionEnd {
        ending: postern_core::session::Ending::Interrupted,
        at: Timestamp::from_millis(9),
        reason: "r".into(),
        events: 3,
        head: Digest([1; 32]),
    };
    let role = Role {
        grants: vec![Grant { objects: vec!["targets".into()], verbs: vec!["get".into()] }],
        description: "d".into(),
    };
    let subjects = PrincipalSelector { groups: vec!["dev".into()], subjects: Vec::new(), tokens: Vec::new() };
    let token = JoinToken {
        id: "t".into(),
        role: NodeRole::Control,
        secret_sha256: Digest([7; 32]),
        uses_left: 2,
        expires_at: Timestamp::from_millis(3_600_000),
        created_at: Timestamp::default(),
        created_by: "alice".into(),
        agent_pool: None,
        serves: None,
        name: None,
        learner: false,
        revision: 0,
    };
    let rewrap = c::RewrapItem {
        of: c::SealedOf::Secret(name("pw")),
        expected_kek_id: "k".into(),
        expected_wrapped_key: vec![1],
        kek_id: "k2".into(),
        wrapped_key: vec![9],
    };
    let webhook = Webhook {
        url: "https://hooks.example/".into(),
        events: Vec::new(),
        targets: TargetSelector::default(),
        format: WebhookFormat::Postern,
        secret: Some(name("pw")),
        ca_pem: None,
        disabled: false,
    };
    let resources = vec![
        resource("pw", Spec::Secret(sealed())),
        issuer(),
        target(),
        rule(),
        resource("reader", Spec::Role(role)),
        resource("devs", Spec::RoleBinding(RoleBinding { role: "reader".into(), subjects })),
        resource("ci", Spec::ServiceAccount(ServiceAccount { jwks: r#"{"keys":[]}"#.into(), ..Default::default() })),
        resource("ops", Spec::Webhook(webhook)),
    ];
    let asked = |n| c::RequestApproval { approval: approval(n), expires: Ttl(60) };
    let answer = |n, verdict| c::ReviewApproval {
        id: ApprovalId::from_bytes([n; 16]),
        reviewer: principal("rita"),
        verdict,
        comment: "ok".into(),
    };
    let (id, session_id) = (ApprovalId::from_bytes([1; 16]), session.id);
    let redeem = |serial: &str, of: &str| c::RedeemJoinToken {
        id: "t".into(),
        secret_sha256: Digest([7; 32]),
        certificate: NodeCertificate { name: name(of), ..certificate(serial, NodeRole::Control) },
        node: Some(node(0, of)),
    };
    let job = |token: &str| {
        let (ends, asked) = (Timestamp::from_secs(9_000), ("build".to_owned(), Ttl(30)));
        c::StartJob { job: Job::new(&principal("alice"), &token.into(), ends, asked) }
    };
    let list: Vec<Command> = vec![
        c::RaiseFeatureLevel { level: FEATURE_LEVEL }.into(),
        c::PutResources { resources }.into(),
        c::SetIssuerKeys { issuer: name("corp"), jwks: r#"{"keys":[]}"#.into(), url: "https://corp".into() }.into(),
        asked(1).into(),
        asked(2).into(),
        asked(3).into(),
        answer(1, ReviewVerdict::Approve).into(),
        answer(2, ReviewVerdict::Deny).into(),
        c::ConsumeApproval { id, session: session_id, digest: Digest([7; 32]) }.into(),
        c::WithdrawApproval { id: ApprovalId::from_bytes([3; 16]), because: "x".into() }.into(),
        c::OpenReview { item: review(7), within: Ttl(60) }.into(),
        c::OpenReview { item: review(8), within: Ttl(1) }.into(),
        c::CloseReview {
            id: ReviewId::from_bytes([7; 16]),
            reviewer: principal("rita"),
            finding: Finding::Concern,
            comment: "why".into(),
        }
        .into(),
        c::SettleWebhook { webhook: name("ops"), delivered: vec![1, 2], failure: "it is away".into() }.into(),
        c::AddRecordingKey { number: 1, sealed: sealed() }.into(),
        c::SetLogKey { key: evidence::log_key(sealed()) }.into(),
        c::SignLogHead { checkpoint: evidence::empty_head() }.into(),
        c::CosignLogHead { checkpoint: evidence::empty_head() }.into(),
        c::OpenSession { session }.into(),
        c::CloseSession { id: session_id, events: 2, head: Digest([2; 32]) }.into(),
        c::ReopenSession { id: session_id }.into(),
        c::SealSession { id: session_id, end }.into(),
        c::CreateJoinToken { token: token.clone() }.into(),
        c::CreateJoinToken { token: JoinToken { id: "u".into(), role: NodeRole::Gateway, ..token } }.into(),
        redeem("1a", "c1").into(),
        redeem("1b", "c2").into(),
        c::UpdateNode { node: node(1, "c1") }.into(),
        c::RecordCertificate { certificate: certificate("1c", NodeRole::Gateway) }.into(),
        c::RevokeCertificates {
            serials: vec!["1c".into()],
            node: Some((NodeRole::Control, name("c2"))),
            by: "alice".into(),
            because: "lost".into(),
        }
        .into(),
        c::RemoveNode { id: 2, by: "alice".into() }.into(),
        c::RewrapSecrets { items: vec![rewrap] }.into(),
        job("tok_1").into(),
        job("tok_2").into(),
        c::BeatJobs { tokens: vec!["tok_1".into(), "tok_3".into()] }.into(),
        c::EndJob { token: "tok_1".into(), unheard_of_since: None, by: "alice".into(), because: "done".into() }.into(),
        c::RecordAudit { records: vec![audit(), audit()] }.into(),
        c::DeleteJoinToken { id: "u".into() }.into(),
        c::DeleteResource { kind: Kind::MaskingRule, name: name("mask"), expected_revision: 0 }.into(),
        c::ExpireApprovals.into(),
        founding().into(),
    ];
    let entries = list.into_iter().zip(0_u8..).map(|(command, n)| {
        let request_id = (n & 1 == 0).then(|| RequestId::from_bytes([n; 16]));
        let proposed_at = Timestamp::from_millis(1_000 * u64::from(n));
        Entry { proposed_at, request_id, command, audit: (n % 3 == 0).then(audit) }.encode()
    });
    entries.collect()
}

fn grant(n: u8) -> AccessGrant {
    AccessGrant {
        id: AccessId::from_bytes([n; 16]),
        principal: PrincipalId { issuer: name("corp"), subject: "alice".into() },
        chain: vec!["tok_1".into()],
        target: name("db"),
        policy: name("p"),
        ends_at: Timestamp::from_millis(9_000),
        reason: "INC-7".into(),
    }
}

fn policies() -> Vec<Vec<u8>> {
    let mut snapshot = Snapshot { revision: 5, ..Snapshot::empty("c", "i") };
    for object in [issuer(), target(), rule()] {
        snapshot.put(object).expect("it is for gateways");
    }
    snapshot.set_keys(&name("corp"), Some("{}".into()));
    snapshot.revocations.insert(Mark { key: Revoked::Issuer(name("corp")).key(), issued_before: 7, until: 4 });
    snapshot.grants = [grant(8)].into_iter().collect();
    let delta = postern_core::delta::Delta {
        incarnation: "i".into(),
        from_revision: 5,
        revision: 6,
        upserts: vec![target(), issuer()],
        deletes: vec![(Kind::MaskingRule, name("mask"))],
        issuer_keys: vec![(name("corp"), None)],
        session_token_jwks: Some("{}".into()),
        revoked: vec!["1a".into()],
        revocations: vec![Mark { key: Revoked::All.key(), issued_before: 7, until: 9 }],
        revocations_over: 5,
        grants: vec![grant(7)],
        ended_grants: vec![grant(8).id],
    };
    let credential = pb::Credential { target: "db".into(), username: "u".into(), password: b"p".to_vec() };
    let credentials = pb::Credentials {
        whole: true,
        credentials: vec![credential],
        removed: vec!["x".into()],
        mask_key: vec![7; 32],
    };
    let whole = prefixed(&to_proto(&snapshot).encode_to_vec());
    let delta = prefixed(&delta_to_proto(&delta).encode_to_vec());
    let credentials = prefixed(&credentials.encode_to_vec());
    vec![
        [&[0][..], &whole].concat(),
        [&[0][..], &whole, &delta, &credentials].concat(),
        [&[255][..], &[0; 64]].concat(),
    ]
}

/// Most of the log's commands are taken: else little would be reached.
#[cfg(test)]
#[test]
fn hardly_anything_is_refused() {
    let mut state = entries::founded();
    let taken = log().iter().filter(|entry| state.apply(state.index() + 1, entry).unwrap().outcome.is_ok()).count();
    assert!(taken + 3 >= log().len(), "{taken} of {}", log().len());
}

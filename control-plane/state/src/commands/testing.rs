//! A small state and its objects, for the commands' tests.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::access::{AccessState, OnRequest, Reviewers};
use postern_core::approval::{Approval, ApprovalRequirement, ApprovalState, ReviewVerdict};
use postern_core::audit::AuditRecord;
use postern_core::cluster::{ControlNode, JoinToken, NodeCertificate};
use postern_core::issuer::Issuer;
use postern_core::node::NodeRole;
use postern_core::operation::Digest;
use postern_core::policy::{ActionPattern, Conditions, Policy, PrincipalSelector, Staleness};
use postern_core::principal::{Actor, Link, PrincipalId};
use postern_core::resource::{Metadata, Resource, Spec};
use postern_core::review::ReviewItem;
use postern_core::role::{Grant, Role, RoleBinding};
use postern_core::scope::Scope;
use postern_core::secret::Sealed;
use postern_core::session::{Session, SessionEnd};
use postern_core::target::{
    CredentialKind, CredentialRef, CredentialSource, Protocol, Route, Target, TargetSelector, TargetTls, TlsMode,
};
use postern_core::time::Ttl;
use postern_core::{AccessId, ApprovalId, Name, OperationId, Principal, RequestId, ReviewId, SessionId, Timestamp};

use super::{
    InitCluster, OpenSession, PutResources, RaiseFeatureLevel, RequestAccess, RequestApproval, ReviewAccess,
    ReviewApproval,
};
use crate::entry::{Command, Entry};
use crate::outcome::{Effect, Outcome, Success};
use crate::state::{Cluster, State};

pub(crate) struct Fixture {
    pub(crate) state: State,
    pub(crate) now: u64,
    pub(crate) effects: Vec<Effect>,
}

impl Fixture {
    pub(crate) fn uninitialised() -> Self {
        Self { state: State::default(), now: 1_000, effects: Vec::new() }
    }

    /// With the cluster initialised, at index 1.
    pub(crate) fn new() -> Self {
        let mut fixture = Self::uninitialised();
        fixture.run(InitCluster(cluster())).unwrap();
        fixture
    }

    /// With the cluster initialised at second 1, by the signing key `k0`.
    pub(crate) fn signing() -> Self {
        let mut fixture = Self::uninitialised();
        let mut cluster = cluster();
        cluster.session_token_jwks = r#"{"keys":[{"kid":"k0","kty":"OKP"}]}"#.into();
        fixture.run(InitCluster(cluster)).unwrap();
        fixture
    }

    pub(crate) fn run(&mut self, command: impl Into<Command>) -> Outcome {
        self.run_as(None, command)
    }

    pub(crate) fn run_as(&mut self, request_id: Option<RequestId>, command: impl Into<Command>) -> Outcome {
        let entry =
            Entry { proposed_at: Timestamp::from_millis(self.now), request_id, command: command.into(), audit: None };
        let applied = self.state.apply(self.state.index() + 1, &entry.encode()).unwrap();
        self.effects = applied.effects;
        applied.outcome
    }

    /// A pending approval that needs `count` reviewers of group `dba`.
    pub(crate) fn ask(&mut self, count: u32) -> ApprovalId {
        let mut approval = approval(1);
        approval.requirement.count = count;
        match self.run(RequestApproval { approval, expires: Ttl(60) }) {
            Ok(Success::Approval(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn approve(&mut self, id: ApprovalId) {
        let reviewer = principal("rita", &["dba"]);
        let verdict = ReviewVerdict::Approve;
        self.run(ReviewApproval { id, reviewer, verdict, comment: String::new() }).unwrap();
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn request_id(n: u128) -> RequestId {
    RequestId::from_bytes(n.to_be_bytes())
}

pub(crate) fn new_key(kid: &str) -> crate::signing::NewSigningKey {
    let jwk = format!(r#"{{"kid":"{kid}"}}"#);
    crate::signing::NewSigningKey { kid: kid.into(), jwk, sealed: sealed(7) }
}

pub(crate) fn sealed(byte: u8) -> Sealed {
    Sealed { kek_id: "k".into(), wrapped_key: vec![byte], nonce: vec![byte], ciphertext: vec![byte] }
}

pub(crate) fn cluster() -> Cluster {
    Cluster {
        id: "c1".into(),
        ca_pem: "pem".into(),
        ca_key: sealed(1),
        session_token_jwks: "{}".into(),
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
        session_token_key: sealed(2),
        mask_key: sealed(3),
        incarnation: "i1".into(),
    }
}

fn resource(of: &str, revision: u64, spec: Spec) -> Resource {
    let metadata = Metadata {
        name: name(of),
        labels: BTreeMap::new(),
        revision,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    Resource { metadata, spec }
}

pub(crate) fn secret(of: &str, byte: u8, revision: u64) -> Resource {
    resource(of, revision, Spec::Secret(sealed(byte)))
}

pub(crate) fn target(of: &str, secret: Option<&str>, revision: u64) -> Resource {
    let target = Target {
        protocol: Protocol::Postgres,
        address: "db:5432".parse().unwrap(),
        tls: TargetTls { mode: TlsMode::Prefer, ca_pem: None, server_name: None, direct: false },
        credential: CredentialRef {
            username: "app".into(),
            kind: CredentialKind::Password,
            source: secret.map_or(CredentialSource::None, |of| CredentialSource::Secret(name(of))),
        },
        route: Route::Direct,
        databases: Vec::new(),
        disabled: false,
        limits: postern_core::allowance::Allowance::default(),
        spare_sessions: 0,
    };
    resource(of, revision, Spec::Target(target))
}

pub(crate) fn role(of: &str, revision: u64) -> Resource {
    let grant = Grant { objects: vec!["targets".into()], verbs: vec!["get".into()] };
    resource(of, revision, Spec::Role(Role { grants: vec![grant], description: String::new() }))
}

pub(crate) fn role_binding(of: &str, to: &str, revision: u64) -> Resource {
    let subjects = PrincipalSelector { groups: vec!["dev".into()], subjects: Vec::new(), tokens: Vec::new() };
    resource(of, revision, Spec::RoleBinding(RoleBinding { role: to.into(), subjects }))
}

pub(crate) fn issuer(of: &str, url: &str, revision: u64) -> Resource {
    resource(of, revision, Spec::Issuer(Issuer::new_oidc(url, ["postern"])))
}

pub(crate) fn principal(subject: &str, groups: &[&str]) -> Principal {
    Principal {
        id: PrincipalId { issuer: name("corp"), subject: subject.into() },
        groups: groups.iter().map(|group| (*group).into()).collect::<BTreeSet<_>>(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}

/// The part of a chain by which somebody acts for another, as an issuer says.
pub(crate) fn handed_to(subject: &str) -> Link {
    let actor = Actor { issuer: Some(name("corp")), name: subject.into() };
    Link { token: "tok_1".into(), actor: Some(actor), scope: Scope::default() }
}

pub(crate) fn approval(n: u128) -> Approval {
    Approval {
        id: ApprovalId::from_bytes(n.to_be_bytes()),
        state: ApprovalState::Pending,
        requester: principal("alice", &["dev"]),
        target: name("db"),
        session: SessionId::from_bytes(n.to_be_bytes()),
        operation: OperationId::from_bytes(n.to_be_bytes()),
        digest: Digest([7; 32]),
        text: "delete from t".into(),
        parameters: Vec::new(),
        actions: vec!["sql:delete on shop.public.t".into()],
        policies: vec!["hold".into()],
        reason: String::new(),
        requirement: ApprovalRequirement { groups: vec!["dba".into()], count: 1, expires: Ttl(60) },
        reviews: Vec::new(),
        requested_at: Timestamp::default(),
        expires_at: Timestamp::default(),
        revision: 0,
        withdrawn_because: String::new(),
        background: None,
    }
}

pub(crate) fn session(n: u128) -> Session {
    Session {
        id: SessionId::from_bytes(n.to_be_bytes()),
        principal: principal("alice", &["dev"]),
        target: name("db"),
        gateway: "g1".into(),
        client_address: "127.0.0.1:1".into(),
        database: "shop".into(),
        started_at: Timestamp::from_millis(5),
        end: None,
        revision: 0,
    }
}

pub(crate) fn control_node(id: u64, of: &str) -> ControlNode {
    ControlNode {
        id,
        name: name(of),
        peer_address: format!("{of}:1"),
        api_address: format!("{of}:2"),
        feature_level: 1,
        kek_ids: vec!["k".into()],
        version: "0.1.0".into(),
        joined_at: Timestamp::default(),
        revision: 0,
        learner: false,
    }
}

/// Good for an hour, once; its secret's digest is all sevens.
pub(crate) fn join_token(id: &str, role: NodeRole) -> JoinToken {
    JoinToken {
        id: id.into(),
        role,
        secret_sha256: Digest([7; 32]),
        uses_left: 1,
        expires_at: Timestamp::from_millis(3_600_000),
        created_at: Timestamp::default(),
        created_by: "alice".into(),
        agent_pool: None,
        serves: None,
        name: None,
        learner: false,
        revision: 0,
    }
}

pub(crate) fn certificate(serial: &str, role: NodeRole, of: &str) -> NodeCertificate {
    NodeCertificate {
        serial: serial.into(),
        role,
        name: name(of),
        agent_pool: None,
        issued_at: Timestamp::default(),
        not_after: Timestamp::from_millis(90_000_000),
        revoked: None,
        revision: 0,
    }
}

pub(crate) fn audit(method: &str) -> AuditRecord {
    AuditRecord {
        sequence: 0,
        at: Timestamp::default(),
        principal: Some(principal("alice", &["dev"])),
        certificate: String::new(),
        client_address: "127.0.0.1:1".into(),
        node: "c1".into(),
        method: method.into(),
        objects: vec!["Target/db".into()],
        code: String::new(),
        reason: String::new(),
        request_id: String::new(),
        dry_run: false,
        count: 1,
        hash: [0; 32],
    }
}

/// Permits group `dev` all on target `db` on request.
pub(crate) fn on_request(of: &str, asked: OnRequest, revision: u64) -> Resource {
    let policy = Policy {
        effect: postern_core::policy::Effect::Permit,
        principals: PrincipalSelector { groups: vec!["dev".into()], ..Default::default() },
        targets: TargetSelector { names: vec!["db".into()], ..Default::default() },
        actions: vec![ActionPattern::Any],
        resources: Vec::new(),
        when: Conditions::default(),
        approval: None,
        waits: false,
        staleness: Staleness::default(),
        limits: postern_core::allowance::Allowance::default(),
        on_request: Some(Box::new(asked)),
        cedar: None,
        obligations: postern_core::policy::Obligations::default(),
        reason: None,
    };
    resource(of, revision, Spec::Policy(policy))
}

/// Reviewed by one of each of `groups`; for a minute at most, within ten seconds.
pub(crate) fn reviewed_by(groups: &[&str]) -> OnRequest {
    let review = groups.iter().map(|group| Reviewers { groups: vec![(*group).to_owned()], count: 1 });
    OnRequest {
        review: review.collect(),
        max_duration: Ttl(60),
        expires: Ttl(10),
        min_reason: 3,
        auto_approve: Vec::new(),
    }
}

pub(crate) fn access_id(n: u128) -> AccessId {
    AccessId::from_bytes(n.to_be_bytes())
}

pub(crate) fn request_access(n: u128) -> RequestAccess {
    RequestAccess {
        id: access_id(n),
        requester: principal("alice", &["dev"]),
        target: name("db"),
        policy: None,
        reason: "because".into(),
        duration: Ttl(0),
    }
}

pub(crate) fn review_access(n: u128, who: &str, groups: &[&str], verdict: ReviewVerdict) -> ReviewAccess {
    ReviewAccess { id: access_id(n), reviewer: principal(who, groups), verdict, comment: String::new() }
}

/// Of what alice does in session `n`, by group `dba` within a minute.
pub(crate) fn open_review(n: u128) -> super::OpenReview {
    let item = ReviewItem {
        id: ReviewId::from_bytes(n.to_be_bytes()),
        principal: principal("alice", &["on-call"]),
        target: name("db"),
        session: SessionId::from_bytes(n.to_be_bytes()),
        gateway: "g1".into(),
        operation: OperationId::from_bytes(n.to_be_bytes()),
        digest: Digest([7; 32]),
        text: "delete from t".into(),
        text_cut: false,
        parameters: Vec::new(),
        actions: vec!["sql:delete on shop.public.t".into()],
        policies: vec!["break-glass".into()],
        policy_revision: 3,
        reason: String::new(),
        groups: vec!["dba".into()],
        opened_at: Timestamp::default(),
        due_at: Timestamp::default(),
        overdue: false,
        session_over: false,
        closed: None,
        revision: 0,
        relations: Vec::new(),
        values: Vec::new(),
    };
    super::OpenReview { item, within: Ttl(60) }
}

impl Fixture {
    /// At the newest feature level.
    pub(crate) fn newest() -> Self {
        let mut fixture = Self::new();
        fixture.run(RaiseFeatureLevel { level: crate::entry::FEATURE_LEVEL }).unwrap();
        fixture
    }

    /// At the newest feature level, with target `db` and policy `jit`.
    pub(crate) fn on_request(asked: OnRequest) -> Self {
        let mut fixture = Self::new();
        fixture.run(RaiseFeatureLevel { level: crate::entry::FEATURE_LEVEL }).unwrap();
        let resources = vec![target("db", None, 0), on_request("jit", asked, 0)];
        fixture.run(PutResources { resources }).unwrap();
        fixture
    }

    /// A session that was opened, and the head that its recording is sealed with.
    pub(crate) fn sealed(&mut self, n: u128) -> Outcome {
        self.run(OpenSession { session: session(n) }).unwrap();
        let head = Digest([u8::try_from(n % 251).unwrap(); 32]);
        let (at, reason) = (Timestamp::from_millis(9), "closed".into());
        let end = SessionEnd { ending: postern_core::session::Ending::Orderly, at, reason, events: 4, head };
        self.run(super::SealSession { id: session(n).id, end })
    }

    pub(crate) fn access_state(&self, n: u128) -> AccessState {
        self.state.access(access_id(n)).unwrap().state
    }
}

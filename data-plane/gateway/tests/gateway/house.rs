//! Everything that a test needs, started and stopped together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_core::approval::ApprovalRequirement;
use postern_core::issuer::Issuer;
use postern_core::masking::{MaskFunction, MaskingRule};
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::policy::{ActionPattern, Conditions, Effect, Pattern, Policy, PrincipalSelector};
use postern_core::principal::{Principal, PrincipalId};
use postern_core::recording::Entry;
use postern_core::secret::SecretBytes;
use postern_core::snapshot::{Labeled, Snapshot, Table};
use postern_core::target::{
    CredentialKind, CredentialRef, CredentialSource, Protocol, Route, Target as TargetSpec, TargetSelector, TargetTls,
    TlsMode,
};
use postern_core::time::Ttl;
use postern_core::token::SessionClaims;
use postern_core::{Name, SessionId, Timestamp};
use postern_gateway::{GatewayConfig, GatewayHandle};
use postern_runtime::clock;
use postern_runtime::jwt::SessionSigner;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::control::Control;
use crate::target::{PASSWORD, Target};

pub(crate) const CLUSTER: &str = "test-cluster";

pub(crate) struct House {
    pub(crate) control: Control,
    /// The other member of the control plane, when there are two.
    pub(crate) other: Option<Control>,
    pub(crate) gateway: GatewayHandle,
    pub(crate) target: Target,
    pub(crate) supervisor: Supervisor,
    pub(crate) credential: NodeCredential,
    pub(crate) signer: SessionSigner,
    pub(crate) authority: Authority,
    _dir: tempfile::TempDir,
}

/// A client of the gateway, and the notices that came to it.
pub(crate) struct Client {
    pub(crate) sql: tokio_postgres::Client,
    pub(crate) notices: tokio::sync::mpsc::Receiver<String>,
}

pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    Supervisor::new().spawn("test", OnEnd::EndSession, task);
}

pub(crate) fn credential(authority: &Authority, role: NodeRole, pool: Option<&str>) -> NodeCredential {
    let pool = pool.map(|pool| pool.parse().unwrap());
    let identity = NodeIdentity { role, name: "one".parse().unwrap(), pool };
    let request = KeyRequest::generate().unwrap();
    let certificate_pem =
        authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(3600)).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
}

pub(crate) fn principal(subject: &str, group: &str) -> Principal {
    Principal {
        id: PrincipalId { issuer: "ci".parse().unwrap(), subject: subject.into() },
        groups: [group.into()].into_iter().collect(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}

fn policy(group: &str, actions: &[&str], resources: &[&str]) -> Policy {
    Policy {
        effect: Effect::Permit,
        principals: PrincipalSelector { groups: vec![group.into()], subjects: Vec::new(), tokens: Vec::new() },
        targets: TargetSelector { names: vec!["db".into()], ..Default::default() },
        actions: actions.iter().map(|action| ActionPattern::parse(action).unwrap()).collect(),
        resources: resources.iter().map(|resource| Pattern::parse(resource).unwrap()).collect(),
        when: Conditions::default(),
        approval: None,
        waits: false,
        staleness: postern_core::policy::Staleness::default(),
        limits: postern_core::allowance::Allowance::default(),
        on_request: None,
        cedar: None,
        obligations: postern_core::policy::Obligations::default(),
        reason: None,
    }
}

impl House {
    pub(crate) async fn start() -> Self {
        Self::with("", |_| {}).await
    }

    pub(crate) async fn with(sql: &str, adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::around(sql, None, false, adjust).await
    }

    /// With a control plane of two members.
    pub(crate) async fn with_two(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::around("", None, true, adjust).await
    }

    /// With a target that speaks TLS by this certificate and key.
    pub(crate) async fn with_tls(certificate: &str, key: &str) -> Self {
        Self::around("", Some((certificate, key)), false, |_| {}).await
    }

    async fn around(sql: &str, tls: Option<(&str, &str)>, two: bool, adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let sql = format!(
            "CREATE TABLE public.items (id int PRIMARY KEY, name text);
             INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 20) n;
             CREATE TABLE public.people (id int, email text);
             INSERT INTO people VALUES (1, 'ada@example.org'), (2, 'bob@example.org');
             CREATE TABLE public.secrets (value text); {sql}"
        );
        let target = Target::start(&sql, tls).await;
        let authority = Authority::create(CLUSTER).unwrap();
        let control = Control::new();
        let other = two.then(|| control.other());
        let mut addresses = Vec::new();
        for control in [Some(&control), other.as_ref()].into_iter().flatten() {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap().to_string());
            spawn(control.clone().serve(listener, credential(&authority, NodeRole::Control, None)));
        }

        let dir = tempfile::tempdir().unwrap();
        let mut config: GatewayConfig = serde_json::from_value(serde_json::json!({
            "postgres_listen": "127.0.0.1:0",
            "control_plane": addresses,
            "spool_dir": dir.path().join("spool"),
            "drain_limit": "500ms",
        }))
        .unwrap();
        adjust(&mut config);
        let credential = credential(&authority, NodeRole::Gateway, None);
        let supervisor = Supervisor::new();
        let gateway = postern_gateway::run(config, credential.clone(), supervisor.clone()).await.unwrap();
        let signer = SessionSigner::generate().unwrap();
        let house = Self { control, other, gateway, target, supervisor, credential, signer, authority, _dir: dir };
        house.apply(|_| {});
        house.ready().await;
        house
    }

    pub(crate) async fn ready(&self) {
        let began = std::time::Instant::now();
        while !self.gateway.readiness.is_ready() {
            assert!(began.elapsed() < Duration::from_secs(20), "the gateway does not become ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a new policy: the usual one, changed by `change`.
    pub(crate) fn apply(&self, change: impl FnOnce(&mut Snapshot)) {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let issuer = Issuer { leeway: Duration::ZERO, ..Issuer::new_oidc("https://ci.example", ["postern"]) };
        let target = TargetSpec {
            protocol: Protocol::Postgres,
            address: format!("127.0.0.1:{}", self.target.port).parse().unwrap(),
            tls: TargetTls { mode: TlsMode::Prefer, ca_pem: None, server_name: None, direct: false },
            credential: CredentialRef {
                username: "owner".into(),
                kind: CredentialKind::Password,
                source: CredentialSource::None,
            },
            route: Route::Direct,
            databases: vec!["postgres".into()],
            disabled: false,
            limits: postern_core::allowance::Allowance::default(),
            spare_sessions: 0,
        };
        let mut held = policy("writers", &["sql:delete"], &["public.items"]);
        held.approval = Some(ApprovalRequirement { groups: vec!["leads".into()], count: 1, expires: Ttl(60) });
        held.reason = Some("deletions are reviewed".into());
        let rule = MaskingRule {
            targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
            columns: vec![Pattern::parse("public.people.email").unwrap()],
            mask: MaskFunction::Redact("***".into()),
            exempt_groups: vec!["owners".into()],
            ..Default::default()
        };
        let mut snapshot = Snapshot {
            revision: self.control.policy.borrow().as_ref().map_or(1, |before| before.revision + 1),
            issuers: Table::from([(name("ci"), (issuer, None))]),
            targets: Table::from([(name("db"), Labeled { labels: BTreeMap::new(), value: target })]),
            policies: Table::from([
                (name("read"), policy("readers", &["sql:select"], &["public.items", "public.people"])),
                (
                    name("write"),
                    policy(
                        "writers",
                        &["sql:select", "sql:insert", "sql:update", "sql:create", "sql:call"],
                        &["public.*", "pg_temp.*", "function:*.*", "schema:*.public"],
                    ),
                ),
                (name("held"), held),
            ]),
            masking: Table::from([(name("emails"), rule)]),
            credentials: BTreeMap::from([(name("db"), SecretBytes::new(PASSWORD.into()))]),
            session_token_jwks: self.signer.jwks(),
            mask_key: SecretBytes::new(vec![7; 32]),
            ..Snapshot::empty(CLUSTER, "first")
        };
        change(&mut snapshot);
        self.control.policy.send_replace(Some(Arc::new(snapshot)));
    }

    pub(crate) fn token(&self, principal: &Principal, ttl: i64) -> String {
        let now = clock::now().secs();
        let (from, end) = (Timestamp::from_secs(now - 60), Timestamp::from_secs(now.saturating_add_signed(ttl)));
        let id = clock::token_id().to_string();
        let claims = SessionClaims::new(CLUSTER, &id, principal.clone(), (from, end));
        self.signer.sign(&claims).unwrap()
    }

    pub(crate) fn url(&self, target: &str, token: &str) -> String {
        let address = self.gateway.postgres_addr;
        format!("host=127.0.0.1 port={} user={target} password={token} dbname=postgres", address.port())
    }

    pub(crate) async fn connect(&self, group: &str) -> Client {
        let token = self.token(&principal("ada", group), 600);
        self.try_connect("db", &token).await.unwrap()
    }

    pub(crate) async fn try_connect(&self, target: &str, token: &str) -> Result<Client, tokio_postgres::Error> {
        let (sql, mut connection) = tokio_postgres::connect(&self.url(target, token), NoTls).await?;
        let (to, notices) = tokio::sync::mpsc::channel(100);
        spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let _ = to.try_send(notice.message().to_owned());
                }
            }
        });
        Ok(Client { sql, notices })
    }

    /// The recording of the session that is sealed next beside `known`; it must verify.
    pub(crate) async fn recording(&self, known: usize) -> (SessionId, Vec<Entry>) {
        let began = std::time::Instant::now();
        loop {
            let mut sealed = self.control.sealed(&self.credential.ca_der());
            if sealed.len() > known {
                let (session, report, entries) = sealed.swap_remove(known);
                assert!(report.is_good(), "{report}");
                return (session, entries);
            }
            assert!(began.elapsed() < Duration::from_secs(15), "no recording came");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The SQLSTATE and message of an error.
pub(crate) fn db(error: &tokio_postgres::Error) -> (String, String) {
    let db = error.as_db_error().unwrap_or_else(|| panic!("not from the server: {error:?}"));
    (db.code().code().to_owned(), db.message().to_owned())
}

//! Where to connect for a target, whom to trust there, and a token of its own for it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_core::node::GATEWAYS_NAME;
use postern_core::scope::Scope;
use postern_core::target::Address;
use postern_core::token::Confirmation;
use postern_core::wire::identity::scope_to_proto;
use postern_core::wire::timestamp_from_proto;
use postern_core::{Name, Timestamp};
use postern_proto::admin::v1::{ExchangeTokenRequest, GetConnectionRequest, RevokeRequest};
use postern_runtime::clock;
use postern_runtime::jwt::unverified_binding;
use secrecy::{ExposeSecret as _, SecretString};

use crate::args::ConnectionArgs;
use crate::client::{Client, Settings, read, refused};
use crate::client_args::ReachArgs;
use crate::credentials;
use crate::failure::Failure;

/// Gateways that a client is told of: it tries one after the other.
const MOST: usize = 3;
/// How long whoever ended something waits.
const REVOKE_LIMIT: Duration = Duration::from_secs(10);

/// How long a token is good when neither its bearer nor its issuer says how long.
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// As requests say it.
pub(crate) fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

/// Where to connect.
pub(crate) struct Reach {
    pub(crate) target: Name,
    /// In the order in which to try them.
    pub(crate) gateways: Vec<Address>,
    /// None: the client says.
    pub(crate) database: Option<String>,
    pub(crate) trust: Trust,
    actor: Option<String>,
    ttl: Option<Duration>,
    connection: ConnectionArgs,
}

/// Whom gateways must prove to be.
pub(crate) enum Trust {
    /// A gateway of the cluster, by its authority.
    Cluster(String),
    /// Its address's host, by this authority.
    File(PathBuf),
    /// Its address's host, by the system's authorities.
    System,
}

/// A token for one target.
pub(crate) struct Narrowed {
    pub(crate) token: SecretString,
    pub(crate) id: String,
    pub(crate) expires_at: Timestamp,
}

impl Reach {
    /// Asks the control plane.
    pub(crate) async fn find(args: &ReachArgs, connection: &ConnectionArgs) -> Result<Self, Failure> {
        let settings = Settings::acting(connection).await?;
        let client = Client::connect(&settings).await?;
        let request = GetConnectionRequest { target: args.target.to_string() };
        let known = client.clients().get_connection(request).await.map_err(refused)?.into_inner();
        let mut gateways: Vec<Address> = args.gateway.clone();
        if gateways.is_empty() {
            gateways = known.gateways.iter().filter_map(|address| address.parse().ok()).collect();
            if gateways.is_empty() {
                return Err(Failure::failed(format!(
                    "no gateway serves {} now; --gateway says where one is",
                    args.target
                )));
            }
            let first = usize::try_from(clock::random_u128() % 1_000).unwrap_or_default();
            let count = gateways.len();
            gateways.rotate_left(first.checked_rem(count).unwrap_or_default());
            gateways.truncate(MOST);
        }
        let database = match (&args.database, known.databases.as_slice()) {
            (Some(database), _) => Some(database.clone()),
            (None, [only]) => Some(only.clone()),
            (None, []) => None,
            (None, several) => {
                return Err(Failure::usage(format!("which database? --database {}", several.join(", "))));
            }
        };
        let trust = match args.gateway_ca.as_deref() {
            None => Trust::Cluster(settings.ca_pem),
            Some("system") => Trust::System,
            Some(file) => Trust::File(PathBuf::from(file)),
        };
        let (target, actor, ttl) = (args.target.clone(), args.actor.clone(), args.ttl);
        Ok(Self { target, gateways, database, trust, actor, ttl, connection: connection.clone() })
    }

    /// A fresh token, good for the target alone: of the login as it is now, so that whoever was locked out gets none.
    pub(crate) async fn token(&self) -> Result<Narrowed, Failure> {
        let request = ExchangeTokenRequest {
            scope: Some(scope_to_proto(&Scope::of_targets([self.target.clone()]))),
            actor: self.actor.clone().unwrap_or_default(),
            ..Default::default()
        };
        exchange(request, self.ttl, &self.connection).await
    }

    /// Ends a token before its time: whoever has seen it has nothing by it.
    pub(crate) async fn give_back(&self, token: &Narrowed) -> Result<(), Failure> {
        let settings =
            Settings { token: Some(token.token.clone()), credential: None, ..Settings::resolve(&self.connection)? };
        revoke(&settings, &token.token).await
    }

    /// What libpq's clients read, but for the password.
    pub(crate) async fn variables(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let (mut hosts, mut addresses, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for gateway in &self.gateways {
            ports.push(gateway.port().to_string());
            if matches!(self.trust, Trust::Cluster(_)) {
                // By this name a gateway shows the certificate that the cluster vouches for; where it is libpq is told beside.
                hosts.push(GATEWAYS_NAME.to_owned());
                addresses.push(resolve(gateway).await?.ip().to_string());
            } else {
                hosts.push(gateway.host().to_owned());
            }
        }
        let root = match &self.trust {
            Trust::Cluster(ca_pem) => authority(ca_pem)?.display().to_string(),
            Trust::File(file) => file.display().to_string(),
            Trust::System => "system".to_owned(),
        };
        let mut all = vec![("PGHOST", hosts.join(","))];
        if !addresses.is_empty() {
            all.push(("PGHOSTADDR", addresses.join(",")));
        }
        all.extend([("PGPORT", ports.join(",")), ("PGUSER", self.target.to_string())]);
        all.extend(self.database.iter().map(|database| ("PGDATABASE", database.clone())));
        all.extend([("PGSSLMODE", "verify-full".to_owned()), ("PGSSLROOTCERT", root)]);
        Ok(all)
    }

    /// The authority that a gateway's certificate must be of, PEM, and the name in it; `None`: the public authorities.
    pub(crate) fn trusted(&self, gateway: &Address) -> Result<(Option<String>, String), Failure> {
        Ok(match &self.trust {
            Trust::Cluster(ca_pem) => (Some(ca_pem.clone()), GATEWAYS_NAME.to_owned()),
            Trust::File(file) => (Some(read(file)?), gateway.host().to_owned()),
            Trust::System => (None, gateway.host().to_owned()),
        })
    }
}

/// A token as `request` says, for `ttl` or as long as is usual, of the login as it is now or of the token that is given.
pub(crate) async fn exchange(
    request: ExchangeTokenRequest,
    ttl: Option<Duration>,
    connection: &ConnectionArgs,
) -> Result<Narrowed, Failure> {
    let wanted = ttl.unwrap_or(HOUR);
    let mut settings = Settings::acting_for(connection, wanted / 2).await?;
    let Some(subject) = settings.token.take() else {
        return Err(Failure::usage("a certificate opens no sessions: log in by `postern login`, or set POSTERN_TOKEN"));
    };
    settings.credential = None;
    // No client of a gateway can prove it.
    settings.key = None;
    if let Some(Confirmation::Key(_)) = unverified_binding(subject.expose_secret()) {
        return Err(Failure::usage(
            "the token is bound to a key (DPoP), which gateways cannot be shown: make one of it for a client certificate, by `postern token --certificate`",
        ));
    }
    let client = Client::connect(&settings).await?;
    let request = ExchangeTokenRequest {
        subject_token: subject.expose_secret().to_owned(),
        ttl_seconds: seconds(wanted),
        ttl_is_default: ttl.is_none(),
        ..request
    };
    let answer = client.tokens().exchange_token(request).await.map_err(refused)?.into_inner();
    let expires_at = answer.expires_at.as_ref().map(timestamp_from_proto).unwrap_or_default();
    Ok(Narrowed { token: answer.token.into(), id: answer.id, expires_at })
}

/// Revokes a token and all that is made of it, as its bearer may.
pub(crate) async fn revoke(settings: &Settings, token: &SecretString) -> Result<(), Failure> {
    let request = RevokeRequest {
        token: token.expose_secret().to_owned(),
        subtree: true,
        because: "its command ended".to_owned(),
        request_id: clock::request_id().to_string(),
        ..Default::default()
    };
    let revoked = async {
        let client = Client::connect(settings).await?;
        client.revocations().revoke(request).await.map(drop).map_err(refused)
    };
    let late = || Failure::failed("the control plane does not answer");
    tokio::time::timeout(REVOKE_LIMIT, revoked).await.unwrap_or_else(|_| Err(late()))
}

/// The first of its addresses.
pub(crate) async fn resolve(gateway: &Address) -> Result<SocketAddr, Failure> {
    let cannot = |why: String| Failure::failed(format!("gateway {gateway}: {why}"));
    let mut found = tokio::net::lookup_host(gateway.to_string()).await.map_err(|error| cannot(error.to_string()))?;
    found.next().ok_or_else(|| cannot("its name has no address".to_owned()))
}

/// A file with the cluster's authority, for programs that read one.
fn authority(ca_pem: &str) -> Result<PathBuf, Failure> {
    let file = credentials::home()?.join("authorities").join(format!("{}.crt", credentials::cluster_of(ca_pem)));
    if !std::fs::read_to_string(&file).is_ok_and(|text| text == ca_pem) {
        credentials::write_own(&file, ca_pem)?;
    }
    Ok(file)
}

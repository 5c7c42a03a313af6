//! What the administrator writes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postern_chaos::live::cluster::{LiveCluster, tls_of};
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use postern_proto::admin::v1::{ApplyRequest, DeleteRequest, RevokeRequest};
use postern_proto::resource::v1::resource::Spec;
use postern_proto::resource::v1::revoked_thing::Thing;
use postern_proto::resource::v1::{
    Effect, Kind, Metadata, PolicySpec, PrincipalName, PrincipalSelector, Protocol, Resource, RevokedThing,
    TargetCredential, TargetSelector, TargetSpec, TargetTls, TlsMode, target_credential,
};
use tonic::transport::{Channel, Endpoint};

/// A revocation means the second that it is of, to its end.
const REVOKED_SECOND: Duration = Duration::from_millis(1_100);

/// Who has the sessions.
pub(crate) const SUBJECT: &str = "bench";
/// The target of all of them.
pub(crate) const TARGET: &str = "shop-direct";

/// How sessions lose their right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The target is disabled.
    Target,
    /// The identity is denied everything.
    Identity,
    /// All tokens of the identity are revoked.
    Revoked,
}

impl End {
    pub(crate) const ALL: [Self; 3] = [Self::Target, Self::Identity, Self::Revoked];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Target => "the target is disabled",
            Self::Identity => "the identity is denied everything",
            Self::Revoked => "the identity's tokens are revoked",
        }
    }
}

/// Writes through the public API.
pub(crate) struct Admin {
    client: ResourceServiceClient<Channel>,
    revocations: RevocationServiceClient<Channel>,
    address: String,
}

impl Admin {
    pub(crate) fn new(cluster: &LiveCluster, address: &str) -> Result<Self> {
        let api = cluster.addresses().into_iter().next().context("a member")?;
        let channel = Endpoint::from_shared(format!("https://{api}"))?
            .tls_config(tls_of(&cluster.admin())?)?
            .tcp_nodelay(true)
            .timeout(Duration::from_secs(30))
            .connect_lazy();
        let revocations = RevocationServiceClient::new(channel.clone());
        Ok(Self { client: ResourceServiceClient::new(channel), revocations, address: address.to_owned() })
    }

    /// Returns once it is acknowledged.
    pub(crate) async fn end(&mut self, end: End) -> Result<()> {
        match end {
            End::Target => self.put(TARGET, self.target(true)).await,
            End::Identity => self.put("locked-out", deny(&format!("test/{SUBJECT}"))).await,
            End::Revoked => {
                let name = PrincipalName { issuer: "test".into(), subject: SUBJECT.into() };
                let things = vec![RevokedThing { thing: Some(Thing::Principal(name)) }];
                self.revocations.revoke(RevokeRequest { things, ..Default::default() }).await?;
                Ok(())
            }
        }
    }

    /// Takes it back.
    pub(crate) async fn undo(&mut self, end: End) -> Result<()> {
        match end {
            End::Target => self.put(TARGET, self.target(false)).await,
            End::Identity => {
                let request =
                    DeleteRequest { kind: Kind::Policy.into(), name: "locked-out".into(), ..Default::default() };
                self.client.delete(request).await?;
                Ok(())
            }
            // Tokens of a later second are good.
            End::Revoked => {
                tokio::time::sleep(REVOKED_SECOND).await;
                Ok(())
            }
        }
    }

    /// Something that concerns nobody who is there.
    pub(crate) async fn unrelated(&mut self, place: usize) -> Result<()> {
        self.put("somebody-else", deny(&format!("test/nobody-{place}"))).await
    }

    /// So many policies, at most 1,000, that speak of others: any system has them, and each change is held against them.
    pub(crate) async fn bystanders(&mut self, count: usize) -> Result<()> {
        let resources = (0..count).map(|place| {
            let metadata = Metadata { name: format!("bystander-{place}"), ..Default::default() };
            Resource { metadata: Some(metadata), spec: Some(deny(&format!("test/bystander-{place}"))) }
        });
        self.client.apply(ApplyRequest { resources: resources.collect(), ..Default::default() }).await?;
        Ok(())
    }

    async fn put(&mut self, name: &str, spec: Spec) -> Result<()> {
        let labels = match spec {
            Spec::Target(_) => BTreeMap::from([("kind".to_owned(), "shop".to_owned())]),
            _ => BTreeMap::new(),
        };
        let metadata = Metadata { name: name.to_owned(), labels, ..Default::default() };
        let resource = Resource { metadata: Some(metadata), spec: Some(spec) };
        self.client.apply(ApplyRequest { resources: vec![resource], ..Default::default() }).await?;
        Ok(())
    }

    fn target(&self, disabled: bool) -> Spec {
        let source = Some(target_credential::Source::Secret("shop-password".into()));
        Spec::Target(TargetSpec {
            protocol: Protocol::Postgres.into(),
            address: self.address.clone(),
            tls: Some(TargetTls { mode: TlsMode::Disable.into(), ..Default::default() }),
            credential: Some(TargetCredential { username: "app".into(), source, ..Default::default() }),
            databases: vec!["shop".into()],
            disabled,
            ..Default::default()
        })
    }
}

fn deny(subject: &str) -> Spec {
    Spec::Policy(PolicySpec {
        effect: Effect::Deny.into(),
        principals: Some(PrincipalSelector { subjects: vec![subject.to_owned()], ..Default::default() }),
        targets: Some(TargetSelector { names: vec!["*".into()], ..Default::default() }),
        actions: vec!["*".into()],
        ..Default::default()
    })
}

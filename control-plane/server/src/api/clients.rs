//! What a client of people has to know before it can ask for anything else.

use postern_core::Name;
use postern_core::fleet::FleetGateway;
use postern_core::issuer::{Issuer, IssuerKind};
use postern_core::policy::PolicySlice;
use postern_core::snapshot::Snapshot;
use postern_core::target::{Protocol as Speaks, Target};
use postern_core::wire::fleet::gateway_from_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::client_service_server::ClientService;
use postern_proto::admin::v1::login::Protocol;
use postern_proto::peer::v1 as peer_pb;
use postern_proto::resource::v1 as resource_pb;
use tonic::{Request, Response, Status};

use super::access::{Access, Caller};
use super::grants::{Object, Verb};
use super::{fleet, status};
use crate::identity::saml::SamlLogins;

/// Nobody chooses among more.
const MAX_LOGINS: usize = 100;
/// A client tries one after the other.
const MAX_GATEWAYS: usize = 16;

pub(super) struct Service {
    pub(super) access: Access,
    pub(super) saml: SamlLogins,
    pub(super) fleet: fleet::Service,
}

#[tonic::async_trait]
impl ClientService for Service {
    /// From what this node has at hand: whoever asks costs the cluster nothing.
    async fn list_logins(
        &self,
        _request: Request<pb::ListLoginsRequest>,
    ) -> Result<Response<pb::ListLoginsResponse>, Status> {
        let policy = self.access.policy();
        let issuers = policy.snapshot.issuers.iter().map(|(name, known)| (name, &known.0));
        Ok(Response::new(pb::ListLoginsResponse { logins: logins(issuers, self.saml.public_url()) }))
    }

    async fn get_connection(
        &self,
        request: Request<pb::GetConnectionRequest>,
    ) -> Result<Response<pb::GetConnectionResponse>, Status> {
        let call = self.access.call(&request)?;
        let name: Name = status::parse("target", &request.into_inner().target)?;
        call.about(format_args!("Target/{name}"));
        let policy = self.access.policy();
        let (target, labels) = known(&policy.snapshot, call.caller(), &name)?;
        let list = peer_pb::get_fleet_request::List::Gateways(pb::ListGatewaysRequest {
            page_size: 1_000,
            ..Default::default()
        });
        let listed = match self.fleet.ask(list).await?.list {
            Some(peer_pb::get_fleet_response::List::Gateways(listed)) => listed.gateways,
            _ => return Err(Status::internal("the leader answered something else")),
        };
        let gateways = listed.into_iter().filter(|one| one.connected);
        let gateways = gateways.filter_map(|one| gateway_from_proto(one.gateway?).ok());
        let serving = |gateway: &FleetGateway| {
            !gateway.draining && gateway.serves.as_ref().is_none_or(|serves| serves.matches(&name, labels))
        };
        let addresses = gateways.filter(serving).flat_map(|gateway| gateway.client_addresses);
        Ok(Response::new(pb::GetConnectionResponse {
            protocol: match target.protocol {
                Speaks::Postgres => resource_pb::Protocol::Postgres.into(),
            },
            gateways: addresses.map(|address| address.to_string()).take(MAX_GATEWAYS).collect(),
            databases: target.databases.clone(),
        }))
    }
}

type Labels = std::collections::BTreeMap<String, String>;

/// The target, if the caller may know of it: one answer for all else, as gateways have (I3). Whom policy would permit something after another login
/// is told so.
fn known<'a>(snapshot: &'a Snapshot, caller: &Caller, name: &Name) -> Result<(&'a Target, &'a Labels), Status> {
    let unknown = || Status::not_found(format!("there is no target {name} for you"));
    let target = snapshot.targets.get(name).filter(|target| !target.value.disabled);
    let mut slice = PolicySlice::default();
    if let Some(principal) = caller.maybe_principal() {
        slice = snapshot.policy_slice(principal, name);
    }
    let found = target.map(|target| (&target.value, &target.labels));
    if slice.permits_anything() || (caller.maybe_principal().is_none() && caller.may(Object::Targets, Verb::Get)) {
        return found.ok_or_else(unknown);
    }
    Err(slice.asks().filter(|_| found.is_some()).map_or_else(unknown, Status::permission_denied))
}

fn logins<'a>(issuers: impl Iterator<Item = (&'a Name, &'a Issuer)>, web: Option<&str>) -> Vec<pb::Login> {
    let login = |(name, issuer): (&Name, &Issuer)| {
        let protocol = match &issuer.kind {
            IssuerKind::Oidc(oidc) => oidc.login.as_ref().map(|login| {
                Protocol::Oidc(pb::OidcLogin {
                    url: issuer.url.clone(),
                    client_id: login.client_id.clone(),
                    scopes: login.scopes.clone(),
                    ca_pem: oidc.ca_pem.clone().unwrap_or_default(),
                })
            }),
            IssuerKind::Saml(_) => web.map(|web| Protocol::Saml(pb::SamlLogin { web_url: web.to_owned() })),
        };
        Some(pb::Login { issuer: name.to_string(), protocol: Some(protocol?) })
    };
    issuers.filter_map(login).take(MAX_LOGINS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::issuer::{Login, SamlIssuer};

    #[test]
    fn strangers_learn_of_those_where_people_log_in_alone() {
        let name = |text: &str| -> Name { text.parse().unwrap() };
        let ci = Issuer::new_oidc("https://ci.example", ["postern"]);
        let mut corp = Issuer::new_oidc("https://id.example", ["cli", "postern"]);
        corp.oidc_mut().unwrap().login =
            Some(Login { client_id: "cli".into(), scopes: vec!["openid".into(), "email".into()] });
        let saml = Issuer {
            kind: IssuerKind::Saml(SamlIssuer::new("<EntityDescriptor/>", "urn:postern")),
            ..Issuer::new_oidc("urn:idp", ["x"])
        };
        let all = [(name("ci"), ci), (name("corp"), corp), (name("saml"), saml)];
        let listed = |web| logins(all.iter().map(|(name, issuer)| (name, issuer)), web);
        let without = listed(None);
        assert_eq!(without.len(), 1);
        let Some(Protocol::Oidc(oidc)) = &without[0].protocol else { panic!("{without:?}") };
        assert_eq!((oidc.url.as_str(), oidc.client_id.as_str()), ("https://id.example", "cli"));
        let with = listed(Some("https://postern.example"));
        let names: Vec<&str> = with.iter().map(|login| login.issuer.as_str()).collect();
        assert_eq!(names, ["corp", "saml"]);
        assert_eq!(logins(std::iter::repeat_n((&all[1].0, &all[1].1), 1_000), None).len(), MAX_LOGINS);
    }
}

//! What a client of people has to know before it can ask for anything else.

use postern_core::Name;
use postern_core::issuer::{Issuer, IssuerKind};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::client_service_server::ClientService;
use postern_proto::admin::v1::login::Protocol;
use tonic::{Request, Response, Status};

use super::access::Access;
use crate::identity::saml::SamlLogins;

/// Nobody chooses among more.
const MAX_LOGINS: usize = 100;

pub(super) struct Service {
    pub(super) access: Access,
    pub(super) saml: SamlLogins,
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

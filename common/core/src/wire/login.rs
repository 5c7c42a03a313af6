//! How people log in at an issuer.

use postern_proto::resource::v1 as pb;

use super::faults::{Faults, MAX_TEXT};
use crate::issuer::Login;

/// Of one request.
const MAX_SCOPES: usize = 32;

pub(super) fn read(
    login: pb::IssuerLogin,
    audiences: &[String],
    trust_domain: bool,
    faults: &mut Faults,
) -> Option<Login> {
    let before = faults.count();
    if trust_domain {
        faults.add("spec.login", "is of OpenID providers: nobody logs in at a trust domain");
    }
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    faults.bound("spec.login.clientId", login.client_id.len(), MAX_TEXT);
    if !visible(&login.client_id) {
        faults.add("spec.login.clientId", "is missing, or has characters that no client's id has");
    } else if !audiences.contains(&login.client_id) {
        // An ID token is for the client that asked for it (OpenID Connect Core 1.0, section 2): else no login would ever be let in.
        faults.add("spec.login.clientId", "must be one of spec.audiences");
    }
    faults.bound("spec.login.scopes", login.scopes.len(), MAX_SCOPES);
    faults.bound_all("spec.login.scopes", &login.scopes);
    for (place, scope) in login.scopes.iter().enumerate() {
        if !visible(scope) {
            faults.add(format!("spec.login.scopes[{place}]"), "is no scope");
        }
    }
    let mut scopes = login.scopes;
    if scopes.is_empty() {
        scopes = Login::SCOPES.map(str::to_owned).to_vec();
    } else if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    (faults.count() == before).then_some(Login { client_id: login.client_id, scopes })
}

pub(super) fn to_proto(login: &Login) -> pb::IssuerLogin {
    pb::IssuerLogin { client_id: login.client_id.clone(), scopes: login.scopes.clone() }
}

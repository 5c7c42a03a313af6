//! Objects for the tests of watches.

use postern_core::resource::{ANY_REVISION, Metadata, Resource, Spec};
use postern_core::secret::Sealed;
use postern_core::target::{
    CredentialKind, CredentialRef, CredentialSource, Protocol, Route, Target, TargetTls, TlsMode,
};
use postern_core::{Name, Timestamp};
use postern_state::{Cluster, commands};

pub(crate) fn sealed() -> Sealed {
    Sealed { kek_id: "k".into(), wrapped_key: vec![1], nonce: vec![2], ciphertext: vec![3] }
}

pub(crate) fn cluster() -> Cluster {
    Cluster {
        id: "test".into(),
        incarnation: "i1".into(),
        ca_pem: "ca".into(),
        ca_key: sealed(),
        session_token_jwks: r#"{"keys":[]}"#.into(),
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
        session_token_key: sealed(),
        mask_key: sealed(),
    }
}

pub(crate) fn resource(name: &str, spec: Spec) -> Resource {
    let name: Name = name.parse().unwrap();
    let at = Timestamp::default();
    let metadata = Metadata {
        name,
        labels: [("env".to_owned(), "test".to_owned())].into(),
        revision: ANY_REVISION,
        created_at: at,
        updated_at: at,
    };
    Resource { metadata, spec }
}

pub(crate) fn target(name: &str, source: CredentialSource) -> Resource {
    let target = Target {
        protocol: Protocol::Postgres,
        address: "db:5432".parse().unwrap(),
        tls: TargetTls { mode: TlsMode::Disable, ca_pem: None, server_name: None, direct: false },
        credential: CredentialRef { username: "u".into(), kind: CredentialKind::Password, source },
        route: Route::Direct,
        databases: vec![],
        disabled: false,
        limits: postern_core::allowance::Allowance::default(),
        spare_sessions: 0,
    };
    resource(name, Spec::Target(target))
}

pub(crate) fn put_target(name: &str) -> commands::PutResources {
    commands::PutResources { resources: vec![target(name, CredentialSource::None)] }
}

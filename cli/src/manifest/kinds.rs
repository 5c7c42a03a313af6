//! The `spec` of each kind, from its mapping.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use postern_core::resource::Kind;
use postern_proto::resource::v1 as pb;

use super::object::Object;

/// The largest file that a manifest may take in (`caFile`, `valueFrom.file`).
const MAX_INCLUDED: u64 = 1 << 20;

type Spec = pb::resource::Spec;

/// Reads `spec` as that of `kind`. Files that it names are relative to `base`.
pub(super) fn read(kind: Kind, mut spec: Object<'_>, base: &Path) -> Spec {
    let read = match kind {
        Kind::Issuer => Spec::Issuer(issuer(&mut spec, base)),
        Kind::Target => Spec::Target(target(&mut spec, base)),
        Kind::Policy => Spec::Policy(policy(&mut spec)),
        Kind::MaskingRule => Spec::MaskingRule(super::masking::rule(&mut spec)),
        Kind::Secret => Spec::Secret(secret(&mut spec, base)),
        Kind::Role => Spec::Role(role(&mut spec)),
        Kind::RoleBinding => Spec::RoleBinding(role_binding(&mut spec)),
        Kind::ServiceAccount => Spec::ServiceAccount(service_account(&mut spec, base)),
        Kind::Webhook => Spec::Webhook(webhook(&mut spec, base)),
    };
    spec.finish();
    read
}

fn issuer(spec: &mut Object<'_>, base: &Path) -> pb::IssuerSpec {
    let preset = spec.string("preset").unwrap_or_default();
    let forms = [
        ("list", pb::ClaimForm::List),
        ("spaces", pb::ClaimForm::Spaces),
        ("commas", pb::ClaimForm::Commas),
        ("keys", pb::ClaimForm::Keys),
    ];
    let claim_groups = spec.objects("claimGroups").into_iter().map(|mut from| {
        let read = pb::ClaimGroups {
            claim: from.required("claim"),
            prefix: from.string("prefix").unwrap_or_default(),
            form: from.choice("form", &forms).unwrap_or_default().into(),
        };
        from.finish();
        read
    });
    let claim_groups = claim_groups.collect();
    let required_claims = spec.objects("requiredClaims").into_iter().map(|mut asked| {
        let read = pb::RequiredClaim { claim: asked.required("claim"), values: asked.strings("values") };
        asked.finish();
        read
    });
    let required_claims = required_claims.collect();
    pb::IssuerSpec {
        keep_claims: spec.strings("keepClaims"),
        url: match preset.is_empty() {
            true => spec.required("url"),
            // Some presets bring one; the cluster says when it is missing.
            false => spec.string("url").unwrap_or_default(),
        },
        audiences: spec.strings("audiences"),
        groups_claim: spec.string("groupsClaim").unwrap_or_default(),
        groups_prefix: spec.string("groupsPrefix").unwrap_or_default(),
        algorithms: spec.strings("algorithms"),
        leeway_seconds: spec.seconds("leeway"),
        max_age_seconds: spec.seconds("maxAge").unwrap_or_default(),
        max_token_ttl_seconds: spec.seconds("maxTokenTtl").unwrap_or_default(),
        token_ttl_seconds: spec.seconds("tokenTtl").unwrap_or_default(),
        ca_pem: pem(spec, base),
        jwks_uri: spec.string("jwksUri").unwrap_or_default(),
        jwks: given_or_file(spec, ("jwks", "jwksFile"), base),
        subject_claim: spec.string("subjectClaim").unwrap_or_default(),
        claim_groups,
        required_claims,
        preset,
        saml: saml(spec, base),
        login: login(spec),
    }
}

fn service_account(spec: &mut Object<'_>, base: &Path) -> pb::ServiceAccountSpec {
    let mut public_keys = spec.strings("publicKeys");
    let file = given_or_file(spec, ("publicKey", "publicKeyFile"), base);
    public_keys.extend(Some(file).filter(|key| !key.is_empty()));
    pb::ServiceAccountSpec {
        description: spec.string("description").unwrap_or_default(),
        public_keys,
        jwks: given_or_file(spec, ("jwks", "jwksFile"), base),
        groups: spec.strings("groups"),
        networks: spec.strings("networks"),
        max_token_ttl_seconds: spec.seconds("maxTokenTtl").unwrap_or_default(),
        disabled: spec.bool("disabled").unwrap_or_default(),
    }
}

fn login(spec: &mut Object<'_>) -> Option<pb::IssuerLogin> {
    let mut login = spec.object("login")?;
    let read = pb::IssuerLogin { client_id: login.required("clientId"), scopes: login.strings("scopes") };
    login.finish();
    Some(read)
}

fn webhook(spec: &mut Object<'_>, base: &Path) -> pb::WebhookSpec {
    let formats = [("postern", pb::WebhookFormat::Postern), ("slack", pb::WebhookFormat::Slack)];
    pb::WebhookSpec {
        url: spec.required("url"),
        events: spec.strings("events"),
        targets: spec.has("targets").then(|| targets(spec)).flatten(),
        format: spec.choice("format", &formats).unwrap_or_default().into(),
        secret: spec.string("secret").unwrap_or_default(),
        ca_pem: pem(spec, base),
        disabled: spec.bool("disabled").unwrap_or_default(),
    }
}

fn saml(spec: &mut Object<'_>, base: &Path) -> Option<pb::SamlIssuer> {
    let mut saml = spec.object("saml")?;
    let read = pb::SamlIssuer {
        metadata: given_or_file(&mut saml, ("metadata", "metadataFile"), base),
        entity_id: saml.required("entityId"),
        subject_attribute: saml.string("subjectAttribute").unwrap_or_default(),
        groups_attribute: saml.string("groupsAttribute").unwrap_or_default(),
        allow_unsolicited: saml.bool("allowUnsolicited").unwrap_or_default(),
        require_encrypted: saml.bool("requireEncrypted").unwrap_or_default(),
        key_secret: saml.string("keySecret").unwrap_or_default(),
    };
    saml.finish();
    Some(read)
}

fn target(spec: &mut Object<'_>, base: &Path) -> pb::TargetSpec {
    let protocol = spec.choice("protocol", &[("postgres", pb::Protocol::Postgres)]);
    if !spec.has("protocol") {
        spec.fault("protocol", "is required");
    }
    let tls = spec.object("tls").map(|mut tls| {
        let modes = [
            ("disable", pb::TlsMode::Disable),
            ("prefer", pb::TlsMode::Prefer),
            ("require", pb::TlsMode::Require),
            ("verify-ca", pb::TlsMode::VerifyCa),
            ("verify-full", pb::TlsMode::VerifyFull),
        ];
        let read = pb::TargetTls {
            mode: tls.choice("mode", &modes).unwrap_or_default().into(),
            ca_pem: pem(&mut tls, base),
            server_name: tls.string("serverName").unwrap_or_default(),
            direct: tls.bool("direct").unwrap_or_default(),
        };
        tls.finish();
        read
    });
    let credential = spec.object("credential").map(|mut credential| {
        let source = credential_source(&mut credential);
        let username = credential.string("username").unwrap_or_default();
        let types = [("password", pb::CredentialType::Password), ("certificate", pb::CredentialType::Certificate)];
        let kind = credential.choice("type", &types).unwrap_or_default();
        let read = pb::TargetCredential { username, source, r#type: kind.into() };
        credential.finish();
        read
    });
    pb::TargetSpec {
        protocol: protocol.unwrap_or_default().into(),
        address: spec.required("address"),
        tls,
        credential,
        agent_pool: spec.string("agentPool").unwrap_or_default(),
        databases: spec.strings("databases"),
        disabled: spec.bool("disabled").unwrap_or_default(),
        limits: limits(spec),
        spare_sessions: spec.number("spareSessions").unwrap_or_default(),
    }
}

/// A limit that is written down is one: 0 would be none at all.
fn limits(spec: &mut Object<'_>) -> Option<pb::Limits> {
    let mut limits = spec.object("limits")?;
    let mut limit = |key| {
        let limit = limits.number(key);
        if limit == Some(0) {
            limits.fault(key, "must be at least 1; leave it out for no limit");
        }
        limit.unwrap_or_default()
    };
    let read = pb::Limits {
        sessions: limit("sessions"),
        connections_per_second: limit("connectionsPerSecond"),
        operations_per_second: limit("operationsPerSecond"),
        in_flight_bytes: limit("inFlightBytes"),
    };
    limits.finish();
    Some(read)
}

/// At most one of `secret`, `env`, `file`, `vaultKv` and `vaultDatabase`.
fn credential_source(credential: &mut Object<'_>) -> Option<pb::target_credential::Source> {
    use pb::target_credential::Source;
    const FORMS: [&str; 5] = ["secret", "env", "file", "vaultKv", "vaultDatabase"];
    if FORMS.iter().filter(|form| credential.has(form)).count() > 1 {
        let line = credential.line();
        credential.faults.add(line, "spec.credential", format!("expected at most one of {}", FORMS.join(", ")));
    }
    let kv = credential.object("vaultKv").map(|mut kv| {
        let read = pb::VaultKv {
            mount: kv.string("mount").unwrap_or_default(),
            path: kv.required("path"),
            field: kv.string("field").unwrap_or_default(),
            version: kv.number("version").unwrap_or_default(),
        };
        kv.finish();
        Source::VaultKv(read)
    });
    let database = credential.object("vaultDatabase").map(|mut database| {
        let read =
            pb::VaultDatabase { mount: database.string("mount").unwrap_or_default(), role: database.required("role") };
        database.finish();
        Source::VaultDatabase(read)
    });
    let (secret, env, file) = (credential.string("secret"), credential.string("env"), credential.string("file"));
    secret.map(Source::Secret).or(env.map(Source::Env)).or(file.map(Source::File)).or(kv).or(database)
}

fn role(spec: &mut Object<'_>) -> pb::RoleSpec {
    let grants = spec.objects("grants").into_iter().map(|mut grant| {
        let read = pb::Grant { objects: grant.strings("objects"), verbs: grant.strings("verbs") };
        grant.finish();
        read
    });
    pb::RoleSpec { grants: grants.collect(), description: spec.string("description").unwrap_or_default() }
}

fn role_binding(spec: &mut Object<'_>) -> pb::RoleBindingSpec {
    let subjects = spec.object("subjects").map(|mut subjects| {
        let read = pb::PrincipalSelector {
            groups: subjects.strings("groups"),
            subjects: subjects.strings("subjects"),
            tokens: Vec::new(),
        };
        subjects.finish();
        read
    });
    pb::RoleBindingSpec { role: spec.required("role"), subjects }
}

fn policy(spec: &mut Object<'_>) -> pb::PolicySpec {
    let cedar = spec.string("cedar").unwrap_or_default();
    let effect = match cedar.is_empty() {
        true => spec.choice("effect", &[("permit", pb::Effect::Permit), ("deny", pb::Effect::Deny)]),
        // The policy says it itself.
        false => Some(pb::Effect::Cedar),
    };
    if effect.is_none() && !spec.has("effect") {
        spec.fault("effect", "is required: permit or deny");
    }
    let principals = spec.object("principals").map(|mut principals| {
        let read = pb::PrincipalSelector {
            groups: principals.strings("groups"),
            subjects: principals.strings("subjects"),
            tokens: principals.strings("tokens"),
        };
        principals.finish();
        read
    });
    let when = spec.object("when").map(|mut when| {
        let authentication = when.object("authentication").map(|mut asked| {
            let read = pb::Authentication {
                acr: asked.strings("acr"),
                amr: asked.strings("amr"),
                max_token_ttl_seconds: asked.seconds("maxTokenTtl").unwrap_or_default(),
            };
            asked.finish();
            read
        });
        let read = pb::Conditions { bounded: when.bool("bounded"), authentication };
        when.finish();
        read
    });
    let approval = spec.object("approval").map(|mut approval| {
        let read = pb::ApprovalRequirement {
            groups: approval.strings("groups"),
            count: approval.number("count").unwrap_or_default(),
            expires_seconds: approval.seconds("expires").unwrap_or_default(),
            when_away: approval
                .choice("whenAway", &[("fail", pb::WhenAway::Fail), ("wait", pb::WhenAway::Wait)])
                .unwrap_or_default()
                .into(),
        };
        approval.finish();
        read
    });
    let on_request = on_request(spec);
    // Who does not know of requests refuses it, rather than permit without one.
    let effect = match effect {
        Some(pb::Effect::Permit) if on_request.is_some() => Some(pb::Effect::PermitOnRequest),
        effect => effect,
    };
    let on_stale = spec.choice("onStale", &[("end", pb::OnStale::End), ("keep", pb::OnStale::Keep)]);
    pb::PolicySpec {
        effect: effect.unwrap_or_default().into(),
        principals,
        targets: targets(spec),
        actions: spec.strings("actions"),
        resources: spec.strings("resources"),
        when,
        approval,
        reason: spec.string("reason").unwrap_or_default(),
        max_staleness_seconds: spec.seconds("maxStaleness"),
        on_stale: on_stale.unwrap_or_default().into(),
        limits: limits(spec),
        on_request,
        cedar,
        obligations: super::obligations::read(spec),
    }
}

fn on_request(spec: &mut Object<'_>) -> Option<pb::OnRequest> {
    let mut asked = spec.object("onRequest")?;
    let review = asked.objects("review").into_iter().map(|mut of| {
        let read = pb::Reviewers { groups: of.strings("groups"), count: of.number("count").unwrap_or_default() };
        of.finish();
        read
    });
    let review = review.collect();
    let rules = asked.objects("autoApprove").into_iter().map(|mut rule| {
        let hours = rule.object("hours").map(|mut hours| {
            let read =
                pb::Hours { from: hours.required("from"), to: hours.required("to"), days: hours.strings("days") };
            hours.finish();
            read
        });
        let read = pb::AutoApprove {
            name: rule.required("name"),
            groups: rule.strings("groups"),
            labels: rule.map("labels"),
            hours,
            max_duration_seconds: rule.seconds("maxDuration").unwrap_or_default(),
            max_per_day: rule.number("maxPerDay").unwrap_or_default(),
        };
        rule.finish();
        read
    });
    let auto_approve = rules.collect();
    let read = pb::OnRequest {
        review,
        max_duration_seconds: asked.seconds("maxDuration").unwrap_or_default(),
        expires_seconds: asked.seconds("expires").unwrap_or_default(),
        min_reason: asked.number("minReason").unwrap_or_default(),
        auto_approve,
    };
    asked.finish();
    Some(read)
}

fn secret(spec: &mut Object<'_>, base: &Path) -> pb::SecretSpec {
    use pb::secret_spec::Source;
    const FORMS: &str = "expected exactly one of value, valueFrom: {env: NAME} and valueFrom: {file: PATH}";
    let value = spec.string("value").map(Source::Value);
    let from = spec.object("valueFrom").and_then(|mut from| {
        let (env, file) = (from.string("env"), from.string("file"));
        let found = match (env, file) {
            (Some(name), None) => match std::env::var(&name) {
                Ok(value) if !value.is_empty() => Some(value),
                Ok(_) => {
                    from.fault("env", format!("the environment's {name} is empty"));
                    None
                }
                Err(std::env::VarError::NotPresent) => {
                    from.fault("env", format!("the environment has no {name}"));
                    None
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    from.fault("env", format!("the environment's {name} is not UTF-8"));
                    None
                }
            },
            (None, Some(path)) => match include(&base.join(&path)) {
                // Editors and `echo` end a file with a newline; a password does not.
                Ok(value) => Some(
                    value.strip_suffix('\n').map(|v| v.strip_suffix('\r').unwrap_or(v).to_owned()).unwrap_or(value),
                ),
                Err(message) => {
                    from.fault("file", message);
                    None
                }
            },
            _ => {
                from.faults.add(from.line(), "spec.valueFrom", FORMS);
                None
            }
        };
        from.finish();
        found.map(Source::Value)
    });
    let stored = spec.bool("stored").filter(|stored| *stored).map(Source::Stored);
    let given = [spec.has("value"), spec.has("valueFrom"), spec.has("stored")];
    if given.iter().filter(|given| **given).count() != 1 {
        spec.faults.add(spec.line(), "spec", FORMS);
    }
    pb::SecretSpec { source: value.or(from).or(stored) }
}

pub(super) fn targets(spec: &mut Object<'_>) -> Option<pb::TargetSelector> {
    let mut targets = spec.object("targets")?;
    let read = pb::TargetSelector { names: targets.strings("names"), labels: targets.map("labels") };
    targets.finish();
    Some(read)
}

/// `ca` in place, or the file that `caFile` names.
fn pem(object: &mut Object<'_>, base: &Path) -> String {
    given_or_file(object, ("ca", "caFile"), base)
}

/// A long text: in the manifest, or in a file beside it.
fn given_or_file(object: &mut Object<'_>, (text, file): (&'static str, &'static str), base: &Path) -> String {
    match (object.string(text), object.string(file)) {
        (Some(given), None) => given,
        (None, Some(path)) => match include(&base.join(path)) {
            Ok(read) => read,
            Err(message) => {
                object.fault(file, message);
                String::new()
            }
        },
        (None, None) => String::new(),
        (Some(_), Some(_)) => {
            object.fault(file, format!("give either {text} or {file}"));
            String::new()
        }
    }
}

fn include(path: &Path) -> Result<String, String> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(MAX_INCLUDED.saturating_add(1)).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_INCLUDED => {
            Err(format!("{} is larger than 1 MiB", path.display()))
        }
        Ok(text) => Ok(text),
        Err::<_, std::io::Error>(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

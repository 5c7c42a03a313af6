//! The few words on an object that fit a table.

use postern_core::policy::Effect;
use postern_core::policy::cedar::Rule;
use postern_core::resource::Kind;
use postern_proto::resource::v1 as pb;

pub(super) const fn columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Issuer => &["URL", "AUDIENCES"],
        Kind::Target => &["PROTOCOL", "ADDRESS", "POOL", "TLS", "USER"],
        Kind::Policy => &["EFFECT", "PRINCIPALS", "TARGETS", "ACTIONS", "RESOURCES"],
        Kind::MaskingRule => &["TARGETS", "COLUMNS", "MASK", "EXEMPT"],
        Kind::Secret => &[],
        Kind::Role => &["GRANTS", "DESCRIPTION"],
        Kind::RoleBinding => &["ROLE", "SUBJECTS"],
        Kind::ServiceAccount => &["GROUPS", "KEYS", "STATE", "DESCRIPTION"],
        Kind::Webhook => &["URL", "FORMAT", "EVENTS", "STATE"],
    }
}

pub(super) fn cells(resource: &pb::Resource) -> Vec<String> {
    match &resource.spec {
        Some(pb::resource::Spec::Issuer(spec)) => vec![spec.url.clone(), join(&spec.audiences)],
        Some(pb::resource::Spec::Target(spec)) => target(spec),
        Some(pb::resource::Spec::Policy(spec)) => policy(spec),
        Some(pb::resource::Spec::MaskingRule(spec)) => vec![
            if spec.only_by_policy { "by policy".to_owned() } else { targets(spec.targets.as_ref()) },
            masked(spec),
            mask(spec.mask.as_ref()).to_owned(),
            join(&spec.exempt_groups),
        ],
        Some(pb::resource::Spec::Secret(_)) | None => Vec::new(),
        Some(pb::resource::Spec::Role(spec)) => {
            let grant = |grant: &pb::Grant| format!("{}: {}", join(&grant.objects), join(&grant.verbs));
            let grants: Vec<String> = spec.grants.iter().map(grant).collect();
            vec![grants.join("; "), spec.description.clone()]
        }
        Some(pb::resource::Spec::ServiceAccount(spec)) => {
            let keys = match (spec.public_keys.len(), spec.jwks.is_empty()) {
                (keys, true) => keys.to_string(),
                (0, false) => "jwks".to_owned(),
                (keys, false) => format!("{keys} and jwks"),
            };
            let state = if spec.disabled { "disabled" } else { "" };
            vec![join(&spec.groups), keys, state.to_owned(), spec.description.clone()]
        }
        Some(pb::resource::Spec::Webhook(spec)) => {
            let format = if spec.format() == pb::WebhookFormat::Slack { "slack" } else { "postern" };
            let events = if spec.events.is_empty() { "*".to_owned() } else { join(&spec.events) };
            let state = if spec.disabled { "disabled" } else { "" };
            vec![spec.url.clone(), format.to_owned(), events, state.to_owned()]
        }
        Some(pb::resource::Spec::RoleBinding(spec)) => {
            let subjects = spec.subjects.clone().unwrap_or_default();
            let subjects: Vec<String> = subjects.groups.into_iter().chain(subjects.subjects).collect();
            vec![spec.role.clone(), join(&subjects)]
        }
    }
}

fn target(spec: &pb::TargetSpec) -> Vec<String> {
    let protocol = match spec.protocol() {
        pb::Protocol::Postgres => "postgres",
        pb::Protocol::Unspecified => "?",
    };
    let tls = match spec.tls.as_ref().map(pb::TargetTls::mode).unwrap_or_default() {
        pb::TlsMode::Unspecified | pb::TlsMode::Prefer => "prefer",
        pb::TlsMode::Disable => "disable",
        pb::TlsMode::Require => "require",
        pb::TlsMode::VerifyCa => "verify-ca",
        pb::TlsMode::VerifyFull => "verify-full",
    };
    let user = spec.credential.as_ref().map(|credential| credential.username.clone()).unwrap_or_default();
    let pool = if spec.agent_pool.is_empty() { "(direct)" } else { &spec.agent_pool };
    let protocol = if spec.disabled { format!("{protocol} (disabled)") } else { protocol.to_owned() };
    vec![protocol, spec.address.clone(), pool.to_owned(), tls.to_owned(), user]
}

fn policy(spec: &pb::PolicySpec) -> Vec<String> {
    let effect = match spec.effect() {
        pb::Effect::Permit if spec.approval.is_some() => "hold",
        pb::Effect::Permit => "permit",
        pb::Effect::PermitOnRequest => "on request",
        pb::Effect::Deny => "deny",
        pb::Effect::Cedar => return in_cedar(&spec.cedar),
        pb::Effect::Unspecified => "?",
    };
    let principals = spec.principals.clone().unwrap_or_default();
    let principals: Vec<String> = principals.groups.into_iter().chain(principals.subjects).collect();
    let resources = if spec.resources.is_empty() { "*".to_owned() } else { join(&spec.resources) };
    vec![effect.to_owned(), join(&principals), targets(spec.targets.as_ref()), join(&spec.actions), resources]
}

/// What its head says; its conditions have no place in a line.
fn in_cedar(text: &str) -> Vec<String> {
    let shown = |text: &str| if text.is_empty() { "*".to_owned() } else { text.to_owned() };
    Rule::parse(text).map_or_else(
        |_| vec!["?".to_owned()],
        |rule| {
            let effect = match rule.effect() {
                Effect::Permit if rule.annotated().approval.is_some() => "hold",
                Effect::Permit => "permit",
                Effect::Deny => "deny",
            };
            let head = rule.head();
            vec![effect.to_owned(), shown(&head.principal), String::new(), shown(&head.action), shown(&head.resource)]
        },
    )
}

fn targets(selector: Option<&pb::TargetSelector>) -> String {
    let Some(selector) = selector else { return String::new() };
    let labels = selector.labels.iter().map(|(key, value)| format!("{key}={value}"));
    selector.names.iter().cloned().chain(labels).collect::<Vec<_>>().join(",")
}

/// What a masking rule speaks of.
fn masked(spec: &pb::MaskingRuleSpec) -> String {
    let matching = spec.columns_matching.iter().map(|regex| format!("/{regex}/"));
    let types = spec.types.iter().map(|name| format!("type {name}"));
    let labels = spec.labels.iter().map(|regex| format!("label /{regex}/"));
    let detect = spec.detect.iter().map(|kind| format!("any {kind}"));
    join(&spec.columns.iter().cloned().chain(matching).chain(types).chain(labels).chain(detect).collect::<Vec<_>>())
}

fn mask(mask: Option<&pb::Mask>) -> &'static str {
    use pb::mask::Function;
    match mask.and_then(|mask| mask.function.as_ref()) {
        Some(Function::Null(_)) => "null",
        Some(Function::Redact(_)) => "redact",
        Some(Function::Partial(_)) => "partial",
        Some(Function::Hash(_)) => "hash",
        Some(Function::Truncate(_)) => "truncate",
        Some(Function::Bucket(_)) => "bucket",
        Some(Function::Digits(_)) => "digits",
        None => "?",
    }
}

fn join(list: &[String]) -> String {
    list.join(",")
}

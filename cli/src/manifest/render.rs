//! Objects as JSON values of the form that files have: what `get -o yaml` shows can be applied again.

use postern_core::wire::timestamp_from_proto;
use postern_proto::resource::v1 as pb;
use serde_json::{Map, Value, json};

use super::API_VERSION;
use super::duration::show_duration;

/// `resource` as a file would declare it. Empty fields are left out.
pub(crate) fn render(resource: &pb::Resource) -> Value {
    let metadata = resource.metadata.clone().unwrap_or_default();
    let mut shown = Fields::default();
    shown.text("name", &metadata.name);
    shown.map("labels", &metadata.labels);
    shown.value("revision", json!(metadata.revision));
    shown.time("createdAt", metadata.created_at);
    shown.time("updatedAt", metadata.updated_at);
    let (kind, spec) = match &resource.spec {
        Some(pb::resource::Spec::Issuer(spec)) => ("Issuer", issuer(spec)),
        Some(pb::resource::Spec::Target(spec)) => ("Target", target(spec)),
        Some(pb::resource::Spec::Policy(spec)) => ("Policy", policy(spec)),
        Some(pb::resource::Spec::MaskingRule(spec)) => ("MaskingRule", masking_rule(spec)),
        Some(pb::resource::Spec::Secret(_)) => ("Secret", json!({"stored": true})),
        None => ("Unknown", json!({})),
    };
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": shown.0, "spec": spec})
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn value(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.value(key, json!(text));
        }
    }

    fn list(&mut self, key: &str, list: &[String]) {
        if !list.is_empty() {
            self.value(key, json!(list));
        }
    }

    fn map<'a>(&mut self, key: &str, map: impl IntoIterator<Item = (&'a String, &'a String)>) {
        // By key: a hash map has no order of its own.
        let map: std::collections::BTreeMap<_, _> = map.into_iter().collect();
        if !map.is_empty() {
            self.value(key, json!(map));
        }
    }

    fn seconds(&mut self, key: &str, seconds: u32) {
        if seconds > 0 {
            self.value(key, json!(show_duration(seconds.into())));
        }
    }

    fn time(&mut self, key: &str, time: Option<prost_types::Timestamp>) {
        if let Some(time) = time {
            self.value(key, json!(timestamp_from_proto(&time).to_string()));
        }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn issuer(spec: &pb::IssuerSpec) -> Value {
    let mut fields = Fields::default();
    fields.text("url", &spec.url);
    fields.list("audiences", &spec.audiences);
    fields.text("groupsClaim", &spec.groups_claim);
    fields.text("groupsPrefix", &spec.groups_prefix);
    fields.list("algorithms", &spec.algorithms);
    if let Some(leeway) = spec.leeway_seconds {
        fields.value("leeway", json!(show_duration(leeway.into())));
    }
    fields.seconds("maxAge", spec.max_age_seconds);
    fields.text("ca", &spec.ca_pem);
    fields.done()
}

fn target(spec: &pb::TargetSpec) -> Value {
    let mut fields = Fields::default();
    if spec.protocol() == pb::Protocol::Postgres {
        fields.text("protocol", "postgres");
    }
    fields.text("address", &spec.address);
    if let Some(tls) = &spec.tls {
        let mut shown = Fields::default();
        let mode = match tls.mode() {
            pb::TlsMode::Unspecified => "",
            pb::TlsMode::Disable => "disable",
            pb::TlsMode::Prefer => "prefer",
            pb::TlsMode::Require => "require",
            pb::TlsMode::VerifyCa => "verify-ca",
            pb::TlsMode::VerifyFull => "verify-full",
        };
        shown.text("mode", mode);
        shown.text("ca", &tls.ca_pem);
        shown.text("serverName", &tls.server_name);
        fields.value("tls", shown.done());
    }
    if let Some(credential) = &spec.credential {
        let mut shown = Fields::default();
        shown.text("username", &credential.username);
        shown.text("secret", &credential.secret);
        fields.value("credential", shown.done());
    }
    fields.text("agentPool", &spec.agent_pool);
    fields.list("databases", &spec.databases);
    if spec.disabled {
        fields.value("disabled", json!(true));
    }
    fields.done()
}

fn policy(spec: &pb::PolicySpec) -> Value {
    let mut fields = Fields::default();
    match spec.effect() {
        pb::Effect::Permit => fields.text("effect", "permit"),
        pb::Effect::Deny => fields.text("effect", "deny"),
        pb::Effect::Unspecified => {}
    }
    if let Some(principals) = &spec.principals {
        let mut shown = Fields::default();
        shown.list("groups", &principals.groups);
        shown.list("subjects", &principals.subjects);
        fields.value("principals", shown.done());
    }
    targets(spec.targets.as_ref(), &mut fields);
    fields.list("actions", &spec.actions);
    fields.list("resources", &spec.resources);
    if let Some(bounded) = spec.when.as_ref().and_then(|when| when.bounded) {
        fields.value("when", json!({"bounded": bounded}));
    }
    if let Some(approval) = &spec.approval {
        let mut shown = Fields::default();
        shown.list("groups", &approval.groups);
        if approval.count > 0 {
            shown.value("count", json!(approval.count));
        }
        shown.seconds("expires", approval.expires_seconds);
        fields.value("approval", shown.done());
    }
    fields.text("reason", &spec.reason);
    fields.done()
}

fn masking_rule(spec: &pb::MaskingRuleSpec) -> Value {
    use pb::mask::Function;
    let mut fields = Fields::default();
    targets(spec.targets.as_ref(), &mut fields);
    fields.list("columns", &spec.columns);
    let mask = match spec.mask.as_ref().and_then(|mask| mask.function.as_ref()) {
        None => Value::Null,
        Some(Function::Null(_)) => json!("null"),
        Some(Function::Hash(_)) => json!("hash"),
        Some(Function::Redact(redact)) if redact.text.is_empty() => json!("redact"),
        Some(Function::Redact(redact)) => json!({"redact": {"text": redact.text}}),
        Some(Function::Partial(partial)) => json!({"partial": {"keepLast": partial.keep_last}}),
    };
    fields.value("mask", mask);
    fields.list("exemptGroups", &spec.exempt_groups);
    fields.done()
}

fn targets(selector: Option<&pb::TargetSelector>, fields: &mut Fields) {
    if let Some(selector) = selector {
        let mut shown = Fields::default();
        shown.list("names", &selector.names);
        shown.map("labels", &selector.labels);
        fields.value("targets", shown.done());
    }
}

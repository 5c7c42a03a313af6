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
        Some(pb::resource::Spec::Role(spec)) => ("Role", role(spec)),
        Some(pb::resource::Spec::RoleBinding(spec)) => ("RoleBinding", role_binding(spec)),
        Some(pb::resource::Spec::ServiceAccount(spec)) => ("ServiceAccount", service_account(spec)),
        Some(pb::resource::Spec::Webhook(spec)) => ("Webhook", webhook(spec)),
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

    fn objects(&mut self, key: &str, objects: Vec<Value>) {
        if !objects.is_empty() {
            self.value(key, Value::Array(objects));
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

fn service_account(spec: &pb::ServiceAccountSpec) -> Value {
    let mut fields = Fields::default();
    fields.text("description", &spec.description);
    fields.list("publicKeys", &spec.public_keys);
    fields.text("jwks", &spec.jwks);
    fields.list("groups", &spec.groups);
    fields.list("networks", &spec.networks);
    fields.seconds("maxTokenTtl", spec.max_token_ttl_seconds);
    if spec.disabled {
        fields.value("disabled", json!(true));
    }
    fields.done()
}

fn webhook(spec: &pb::WebhookSpec) -> Value {
    let mut fields = Fields::default();
    fields.text("url", &spec.url);
    fields.list("events", &spec.events);
    targets(spec.targets.as_ref(), &mut fields);
    match spec.format() {
        pb::WebhookFormat::Slack => fields.text("format", "slack"),
        pb::WebhookFormat::Postern => fields.text("format", "postern"),
        pb::WebhookFormat::Unspecified => {}
    }
    fields.text("secret", &spec.secret);
    fields.text("ca", &spec.ca_pem);
    if spec.disabled {
        fields.value("disabled", json!(true));
    }
    fields.done()
}

fn issuer(spec: &pb::IssuerSpec) -> Value {
    let mut fields = Fields::default();
    fields.text("preset", &spec.preset);
    fields.text("url", &spec.url);
    fields.list("audiences", &spec.audiences);
    fields.text("groupsClaim", &spec.groups_claim);
    fields.text("groupsPrefix", &spec.groups_prefix);
    fields.list("algorithms", &spec.algorithms);
    if let Some(leeway) = spec.leeway_seconds {
        fields.value("leeway", json!(show_duration(leeway.into())));
    }
    fields.seconds("maxAge", spec.max_age_seconds);
    fields.seconds("maxTokenTtl", spec.max_token_ttl_seconds);
    fields.seconds("tokenTtl", spec.token_ttl_seconds);
    fields.text("ca", &spec.ca_pem);
    fields.text("jwksUri", &spec.jwks_uri);
    fields.text("jwks", &spec.jwks);
    fields.text("subjectClaim", &spec.subject_claim);
    let groups = spec.claim_groups.iter().map(|from| {
        let mut shown = Fields::default();
        shown.text("claim", &from.claim);
        shown.text("prefix", &from.prefix);
        shown.text("form", form(from.form()));
        shown.done()
    });
    fields.objects("claimGroups", groups.collect());
    let required = spec.required_claims.iter().map(|asked| {
        let mut shown = Fields::default();
        shown.text("claim", &asked.claim);
        shown.list("values", &asked.values);
        shown.done()
    });
    fields.objects("requiredClaims", required.collect());
    fields.list("keepClaims", &spec.keep_claims);
    if let Some(login) = &spec.login {
        let mut shown = Fields::default();
        shown.text("clientId", &login.client_id);
        shown.list("scopes", &login.scopes);
        fields.value("login", shown.done());
    }
    if let Some(saml) = &spec.saml {
        let mut shown = Fields::default();
        shown.text("entityId", &saml.entity_id);
        shown.text("subjectAttribute", &saml.subject_attribute);
        shown.text("groupsAttribute", &saml.groups_attribute);
        for (key, on) in [("allowUnsolicited", saml.allow_unsolicited), ("requireEncrypted", saml.require_encrypted)] {
            if on {
                shown.value(key, json!(true));
            }
        }
        shown.text("keySecret", &saml.key_secret);
        shown.text("metadata", &saml.metadata);
        fields.value("saml", shown.done());
    }
    fields.done()
}

const fn form(form: pb::ClaimForm) -> &'static str {
    match form {
        pb::ClaimForm::Unspecified | pb::ClaimForm::List => "",
        pb::ClaimForm::Spaces => "spaces",
        pb::ClaimForm::Commas => "commas",
        pb::ClaimForm::Keys => "keys",
    }
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
        if tls.direct {
            shown.value("direct", json!(true));
        }
        fields.value("tls", shown.done());
    }
    if let Some(credential) = &spec.credential {
        fields.value("credential", target_credential(credential));
    }
    fields.text("agentPool", &spec.agent_pool);
    fields.list("databases", &spec.databases);
    if spec.disabled {
        fields.value("disabled", json!(true));
    }
    limits(spec.limits.as_ref(), &mut fields);
    if spec.spare_sessions > 0 {
        fields.value("spareSessions", json!(spec.spare_sessions));
    }
    fields.done()
}

fn limits(limits: Option<&pb::Limits>, fields: &mut Fields) {
    let Some(limits) = limits else { return };
    let mut shown = Fields::default();
    for (key, limit) in [
        ("sessions", limits.sessions),
        ("connectionsPerSecond", limits.connections_per_second),
        ("operationsPerSecond", limits.operations_per_second),
        ("inFlightBytes", limits.in_flight_bytes),
    ] {
        if limit > 0 {
            shown.value(key, json!(limit));
        }
    }
    fields.value("limits", shown.done());
}

fn target_credential(credential: &pb::TargetCredential) -> Value {
    use pb::target_credential::Source;
    let mut shown = Fields::default();
    shown.text("username", &credential.username);
    if credential.r#type() == pb::CredentialType::Certificate {
        shown.text("type", "certificate");
    }
    match &credential.source {
        None => {}
        Some(Source::Secret(name)) => shown.text("secret", name),
        Some(Source::Env(variable)) => shown.text("env", variable),
        Some(Source::File(path)) => shown.text("file", path),
        Some(Source::VaultKv(kv)) => {
            let mut fields = Fields::default();
            fields.text("mount", &kv.mount);
            fields.text("path", &kv.path);
            fields.text("field", &kv.field);
            if kv.version > 0 {
                fields.value("version", json!(kv.version));
            }
            shown.value("vaultKv", fields.done());
        }
        Some(Source::VaultDatabase(database)) => {
            let mut fields = Fields::default();
            fields.text("mount", &database.mount);
            fields.text("role", &database.role);
            shown.value("vaultDatabase", fields.done());
        }
    }
    shown.done()
}

fn role(spec: &pb::RoleSpec) -> Value {
    let grant = |grant: &pb::Grant| json!({"objects": grant.objects, "verbs": grant.verbs});
    let mut fields = Fields::default();
    fields.value("grants", Value::Array(spec.grants.iter().map(grant).collect()));
    fields.text("description", &spec.description);
    fields.done()
}

fn role_binding(spec: &pb::RoleBindingSpec) -> Value {
    let mut fields = Fields::default();
    fields.text("role", &spec.role);
    fields.value("subjects", principals(spec.subjects.as_ref()));
    fields.done()
}

fn principals(selector: Option<&pb::PrincipalSelector>) -> Value {
    let mut shown = Fields::default();
    if let Some(selector) = selector {
        shown.list("groups", &selector.groups);
        shown.list("subjects", &selector.subjects);
        shown.list("tokens", &selector.tokens);
    }
    shown.done()
}

fn policy(spec: &pb::PolicySpec) -> Value {
    let mut fields = Fields::default();
    match spec.effect() {
        pb::Effect::Permit | pb::Effect::PermitOnRequest => fields.text("effect", "permit"),
        pb::Effect::Deny => fields.text("effect", "deny"),
        pb::Effect::Unspecified => {}
        pb::Effect::Cedar => fields.text("cedar", &spec.cedar),
    }
    if spec.principals.is_some() {
        fields.value("principals", principals(spec.principals.as_ref()));
    }
    targets(spec.targets.as_ref(), &mut fields);
    fields.list("actions", &spec.actions);
    fields.list("resources", &spec.resources);
    if let Some(when) = &spec.when {
        let mut shown = Fields::default();
        if let Some(bounded) = when.bounded {
            shown.value("bounded", json!(bounded));
        }
        if let Some(asked) = &when.authentication {
            let mut how = Fields::default();
            how.list("acr", &asked.acr);
            how.list("amr", &asked.amr);
            how.seconds("maxTokenTtl", asked.max_token_ttl_seconds);
            shown.value("authentication", how.done());
        }
        fields.value("when", shown.done());
    }
    if let Some(approval) = &spec.approval {
        let mut shown = Fields::default();
        shown.list("groups", &approval.groups);
        if approval.count > 0 {
            shown.value("count", json!(approval.count));
        }
        shown.seconds("expires", approval.expires_seconds);
        match approval.when_away() {
            pb::WhenAway::Fail => shown.text("whenAway", "fail"),
            pb::WhenAway::Wait => shown.text("whenAway", "wait"),
            pb::WhenAway::Unspecified => {}
        }
        fields.value("approval", shown.done());
    }
    if let Some(asked) = &spec.obligations {
        let mut shown = Fields::default();
        if asked.row_limit > 0 {
            shown.value("rowLimit", json!(asked.row_limit));
        }
        shown.seconds("statementTimeout", asked.statement_timeout_seconds);
        if asked.read_only {
            shown.value("readOnly", json!(true));
        }
        shown.list("masks", &asked.masks);
        match asked.durability() {
            pb::Durability::Quorum => shown.text("durability", "quorum"),
            pb::Durability::Spooled => shown.text("durability", "spooled"),
            pb::Durability::Buffered => shown.text("durability", "buffered"),
            pb::Durability::Unspecified => {}
        }
        reviews(&asked.reviews_afterwards, &mut shown);
        fields.value("obligations", shown.done());
    }
    if let Some(asked) = &spec.on_request {
        fields.value("onRequest", on_request(asked));
    }
    if let Some(seconds) = spec.max_staleness_seconds {
        // Nought means something here.
        fields.value("maxStaleness", json!(format!("{seconds}s")));
    }
    match spec.on_stale() {
        pb::OnStale::End => fields.text("onStale", "end"),
        pb::OnStale::Keep => fields.text("onStale", "keep"),
        pb::OnStale::Unspecified => {}
    }
    limits(spec.limits.as_ref(), &mut fields);
    fields.text("reason", &spec.reason);
    fields.done()
}

/// One as it is, several as a list.
fn reviews(asked: &[pb::ReviewAfterwards], to: &mut Fields) {
    let one = |review: &pb::ReviewAfterwards| {
        let mut shown = Fields::default();
        shown.list("groups", &review.groups);
        shown.seconds("within", review.within_seconds);
        shown.done()
    };
    match asked {
        [] => {}
        [only] => to.value("reviewAfterwards", one(only)),
        all => to.value("reviewAfterwards", Value::Array(all.iter().map(one).collect())),
    }
}

fn on_request(asked: &pb::OnRequest) -> Value {
    let review = asked.review.iter().map(|of| {
        let mut shown = Fields::default();
        shown.list("groups", &of.groups);
        if of.count > 0 {
            shown.value("count", json!(of.count));
        }
        shown.done()
    });
    let rules = asked.auto_approve.iter().map(|rule| {
        let mut shown = Fields::default();
        shown.text("name", &rule.name);
        shown.list("groups", &rule.groups);
        shown.map("labels", &rule.labels);
        if let Some(hours) = &rule.hours {
            let mut when = Fields::default();
            when.text("from", &hours.from);
            when.text("to", &hours.to);
            when.list("days", &hours.days);
            shown.value("hours", when.done());
        }
        shown.seconds("maxDuration", rule.max_duration_seconds);
        if rule.max_per_day > 0 {
            shown.value("maxPerDay", json!(rule.max_per_day));
        }
        shown.done()
    });
    let mut fields = Fields::default();
    fields.objects("review", review.collect());
    fields.seconds("maxDuration", asked.max_duration_seconds);
    fields.seconds("expires", asked.expires_seconds);
    if asked.min_reason > 0 {
        fields.value("minReason", json!(asked.min_reason));
    }
    fields.objects("autoApprove", rules.collect());
    fields.done()
}

fn masking_rule(spec: &pb::MaskingRuleSpec) -> Value {
    use pb::mask::Function;
    let mut fields = Fields::default();
    targets(spec.targets.as_ref(), &mut fields);
    fields.list("columns", &spec.columns);
    fields.list("columnsMatching", &spec.columns_matching);
    fields.list("types", &spec.types);
    fields.list("labels", &spec.labels);
    fields.list("detect", &spec.detect);
    let mask = match spec.mask.as_ref().and_then(|mask| mask.function.as_ref()) {
        None => Value::Null,
        Some(Function::Null(_)) => json!("null"),
        Some(Function::Hash(_)) => json!("hash"),
        Some(Function::Redact(redact)) if redact.text.is_empty() => json!("redact"),
        Some(Function::Redact(redact)) => json!({"redact": {"text": redact.text}}),
        Some(Function::Partial(partial)) => json!({"partial": {"keepLast": partial.keep_last}}),
        Some(Function::Truncate(truncate)) => json!({"truncate": {"to": truncate.to}}),
        Some(Function::Bucket(bucket)) => json!({"bucket": {"width": bucket.width}}),
        Some(Function::Digits(digits)) if digits.luhn => json!({"digits": {"luhn": true}}),
        Some(Function::Digits(_)) => json!("digits"),
    };
    fields.value("mask", mask);
    if spec.opaque {
        fields.value("opaque", json!(true));
    }
    fields.list("exemptGroups", &spec.exempt_groups);
    if spec.only_by_policy {
        fields.value("onlyByPolicy", json!(true));
    }
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

//! Policies in Cedar: one policy of that language in the place of the selectors and conditions of ours. Cedar says whom, what and when it is about;
//! what follows from it (review, limits, staleness) stands in annotations or beside it, and is the same for both forms.

mod annotations;
mod answer;
mod entities;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, LazyLock};

use cedar_policy::{
    ActionConstraint, EntityUid, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint, Schema, ValidationMode,
    Validator,
};

pub use annotations::Annotated;
pub(super) use answer::{Answer, Cache};
use entities::Types;
use rules::Asks;
pub(super) use rules::{Broken, Rules};

use super::Effect;
use crate::name::Name;
use crate::principal::Principal;

/// What policies may speak of, in Cedar's schema language.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// Bytes of one policy's text.
pub const MAX_POLICY: usize = 16 << 10;

/// Depth of brackets in one policy's text: who reads and evaluates it goes down as deep.
const MAX_DEPTH: usize = 64;

/// Without it no policy is accepted: a test holds that it is there.
static VALIDATOR: LazyLock<Option<Validator>> =
    LazyLock::new(|| Some(Validator::new(Schema::from_cedarschema_str(SCHEMA).ok()?.0)));

/// The attributes that members and gateways of feature level 4 do not know: those of the schema's lines that are marked so. No other attribute has such a
/// name.
static NEWER: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let marked = SCHEMA.lines().filter(|line| line.ends_with("// level 5"));
    marked.filter_map(|line| line.split('"').nth(1)).collect()
});

/// One policy in Cedar, that was checked against the [`SCHEMA`]. Equal to another with the same text.
#[derive(Clone)]
pub struct Rule {
    text: Arc<str>,
    policy: cedar_policy::Policy,
    annotated: Annotated,
    asks: Asks,
    is_of_level_4: bool,
}

/// Whom, what and where a rule is about at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `== Principal::"corp/alice"`, `in Group::"dba"`.
    pub principal: String,
    /// `== Action::"sql:select"`, `in [Action::"sql:read"]`.
    pub action: String,
    /// `in Target::"shop"`, `is Table`.
    pub resource: String,
}

/// The text is no policy that Postern can go by. For people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRule(String);

/// The file is none that Postern can go by. For people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidFile {
    /// The policy that is at fault, where it has a name.
    pub policy: Option<Name>,
    /// What is wrong.
    #[source]
    pub why: InvalidRule,
}

/// `policy NAME: why`
impl fmt::Display for InvalidFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some(policy) => write!(f, "policy {policy}: {}", self.why),
            None => fmt::Display::fmt(&self.why, f),
        }
    }
}

impl From<InvalidRule> for InvalidFile {
    fn from(why: InvalidRule) -> Self {
        Self { policy: None, why }
    }
}

impl InvalidRule {
    fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl Rule {
    /// Reads one policy, and checks it against the schema.
    ///
    /// # Errors
    /// When it is none, several or a template; when it speaks of what the schema does not know, compares what cannot be equal, or can never apply; when an
    /// annotation is unknown or says something that it cannot say; when it is longer than [`MAX_POLICY`].
    pub fn parse(text: &str) -> Result<Self, InvalidRule> {
        if text.len() > MAX_POLICY {
            return Err(InvalidRule(format!("is longer than {MAX_POLICY} bytes")));
        }
        if depth(text) > MAX_DEPTH {
            return Err(InvalidRule(format!("is nested deeper than {MAX_DEPTH}")));
        }
        let policy = cedar_policy::Policy::parse(Some(PolicyId::new("policy")), text).map_err(|errors| {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            InvalidRule(format!("is not one policy in Cedar: {}", all.join("; ")))
        })?;
        let annotated = Annotated::read(&policy)?;
        validate(&policy)?;
        let is_of_level_4 = policy.to_json().is_ok_and(|tree| !asks_for_newer(&tree));
        Ok(Self { text: text.into(), asks: Asks::of(text), policy, annotated, is_of_level_4 })
    }

    /// Reads all policies of a file, each with the name that its `@id` gives it.
    ///
    /// # Errors
    /// As [`Rule::parse`]; and when one has no `@id`, two have the same, or it is no name of an object.
    pub fn parse_all(text: &str) -> Result<BTreeMap<Name, Self>, InvalidFile> {
        if depth(text) > MAX_DEPTH {
            return Err(InvalidRule(format!("is nested deeper than {MAX_DEPTH}")).into());
        }
        let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            InvalidRule(format!("is not Cedar: {}", all.join("; ")))
        })?;
        if set.templates().next().is_some() {
            return Err(InvalidRule("has a template: what stands for its slots is not known here".to_owned()).into());
        }
        let mut rules = BTreeMap::new();
        for policy in set.policies() {
            let text = policy.to_string();
            let Some(id) = policy.annotation("id") else {
                return Err(InvalidRule(format!("a policy has no @id, which names it: {}", start(&text))).into());
            };
            let name: Name = id.parse().map_err(|error| InvalidRule(format!("@id({id:?}): {error}")))?;
            let rule = Self::parse(&text).map_err(|why| InvalidFile { policy: Some(name.clone()), why })?;
            if rules.insert(name, rule).is_some() {
                return Err(InvalidRule(format!("two policies have the @id {id:?}")).into());
            }
        }
        Ok(rules)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What its annotations say.
    #[must_use]
    pub const fn annotated(&self) -> &Annotated {
        &self.annotated
    }

    /// Permits or denies.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self.policy.effect() {
            cedar_policy::Effect::Permit => Effect::Permit,
            cedar_policy::Effect::Forbid => Effect::Deny,
        }
    }

    /// Its head, as it stands there without the words "principal", "action" and "resource": empty for any.
    #[must_use]
    pub fn head(&self) -> Head {
        let principal = match self.policy.principal_constraint() {
            PrincipalConstraint::Any => String::new(),
            PrincipalConstraint::Is(kind) => format!("is {kind}"),
            PrincipalConstraint::Eq(id) => format!("== {id}"),
            PrincipalConstraint::In(id) => format!("in {id}"),
            PrincipalConstraint::IsIn(kind, id) => format!("is {kind} in {id}"),
        };
        let resource = match self.policy.resource_constraint() {
            ResourceConstraint::Any => String::new(),
            ResourceConstraint::Is(kind) => format!("is {kind}"),
            ResourceConstraint::Eq(id) => format!("== {id}"),
            ResourceConstraint::In(id) => format!("in {id}"),
            ResourceConstraint::IsIn(kind, id) => format!("is {kind} in {id}"),
        };
        let action = match self.policy.action_constraint() {
            ActionConstraint::Any => String::new(),
            ActionConstraint::Eq(id) => format!("== {id}"),
            ActionConstraint::In(ids) => {
                format!("in [{}]", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        };
        Head { principal, action, resource }
    }

    /// Whether it can apply to anything that `principal` does on `target`, by its head; its conditions are asked when something is done.
    #[must_use]
    pub fn may_speak_of(&self, principal: &Principal, target: &Name) -> bool {
        let Some(types) = Types::get() else { return true };
        let whom = match self.policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => true,
            PrincipalConstraint::Eq(id) => types.is(principal, &id),
            PrincipalConstraint::In(id) | PrincipalConstraint::IsIn(_, id) => types.is_in(principal, &id),
        };
        let at = |id: &EntityUid| entities::target_of(id) == target.as_str();
        let what = match self.policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => true,
            ResourceConstraint::Eq(id) | ResourceConstraint::In(id) | ResourceConstraint::IsIn(_, id) => at(&id),
        };
        whom && what
    }

    /// Whether it denies everything of which it speaks, whatever the circumstances.
    #[must_use]
    pub fn denies_all(&self) -> bool {
        self.effect() == Effect::Deny && self.is_about_everything()
    }

    /// Whether it permits everything to whoever it speaks of, whatever the circumstances.
    #[must_use]
    pub fn permits_everything(&self) -> bool {
        let named = matches!(
            self.policy.principal_constraint(),
            PrincipalConstraint::Any | PrincipalConstraint::Eq(_) | PrincipalConstraint::In(_)
        );
        self.effect() == Effect::Permit && named && self.is_about_everything()
    }

    /// Every action on everything at its targets, without a condition.
    fn is_about_everything(&self) -> bool {
        let whole = match self.policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::In(id) => Types::get().is_some_and(|types| *id.type_name() == types.target),
            ResourceConstraint::Is(_) | ResourceConstraint::Eq(_) | ResourceConstraint::IsIn(..) => false,
        };
        whole && self.policy.action_constraint() == ActionConstraint::Any && !self.policy.has_non_scope_constraint()
    }

    /// The same, that forbids, and follows from nothing but `reason`: for who does not know what follows from it. Without its conditions where they speak
    /// of what such a reader does not know either.
    #[must_use]
    pub fn forbidding(&self, reason: &str) -> Option<Self> {
        let mut json = self.policy.to_json().ok()?;
        let fields = json.as_object_mut()?;
        fields.insert("effect".to_owned(), "forbid".into());
        if !self.is_of_level_4 {
            fields.insert("conditions".to_owned(), serde_json::json!([]));
        }
        fields.insert("annotations".to_owned(), serde_json::json!({ "reason": reason }));
        let policy = cedar_policy::Policy::from_json(Some(PolicyId::new("policy")), json).ok()?;
        Self::parse(&policy.to_string()).ok()
    }

    /// Speaks of nothing that members and gateways of feature level 4 do not know.
    #[must_use]
    pub const fn is_of_level_4(&self) -> bool {
        self.is_of_level_4
    }

    fn action_constraint(&self) -> ActionConstraint {
        self.policy.action_constraint()
    }

    /// Of which circumstances it may make use.
    const fn asks(&self) -> Asks {
        self.asks
    }

    fn with_id(&self, id: usize) -> cedar_policy::Policy {
        self.policy.new_id(PolicyId::new(id.to_string()))
    }
}

/// Against the schema, strictly. One that can never apply is a mistake too: somebody believes in it.
fn validate(policy: &cedar_policy::Policy) -> Result<(), InvalidRule> {
    let validator = VALIDATOR.as_ref().ok_or_else(|| InvalidRule::new("there is no schema to check it against"))?;
    let set = PolicySet::from_policies([policy.clone()]).map_err(InvalidRule::new)?;
    let found = validator.validate(&set, ValidationMode::Strict);
    let errors = found.validation_errors().map(ToString::to_string);
    let warnings = found.validation_warnings().map(ToString::to_string);
    let all: Vec<String> = errors.chain(warnings).map(|text| text.replace("for policy `policy`, ", "")).collect();
    if all.is_empty() { Ok(()) } else { Err(InvalidRule(all.join("; "))) }
}

/// How deep brackets are nested in `text`, those in strings and comments as well: more than there is does no harm.
fn depth(text: &str) -> usize {
    let (mut deep, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => deep = deep.saturating_add(1),
            b')' | b']' | b'}' => deep = deep.saturating_sub(1),
            // Each takes one step down, too.
            b'!' | b'-' => deepest = deepest.max(deep.saturating_add(1)),
            _ => {}
        }
        deepest = deepest.max(deep);
    }
    deepest
}

/// Whether the policy's syntax tree asks for an attribute that came with feature level 5. Not by its words: they may stand in a reason, too. Nor by whether
/// it would be valid without: what asks by `has` whether an attribute is there is, and misses it.
fn asks_for_newer(tree: &serde_json::Value) -> bool {
    use serde_json::Value;
    let attribute = |node: &Value| node.get("attr").and_then(Value::as_str).is_some_and(|name| NEWER.contains(name));
    match tree {
        Value::Object(fields) => fields
            .iter()
            .any(|(key, node)| (matches!(key.as_str(), "has" | ".") && attribute(node)) || asks_for_newer(node)),
        Value::Array(nodes) => nodes.iter().any(asks_for_newer),
        _ => false,
    }
}

fn start(text: &str) -> String {
    text.chars().take(80).collect()
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Rule {}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rule").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests;

//! The policies in Cedar among those of a slice, ready to be asked about one principal on one target.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression,
};

use super::answer::Answer;
use super::entities::{Types, groups_of};
use crate::action::{Action, Calls, Verb};
use crate::name::Name;
use crate::policy::{Circumstances, Granted, Policy};
use crate::principal::Principal;

/// Of which circumstances rules may make use: what they do not ask for need not be found out, nor told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    pub(crate) time: bool,
    pub(crate) columns: bool,
    pub(crate) limit: bool,
    pub(crate) estimate: bool,
    pub(crate) calls: bool,
}

impl Asks {
    /// As far as the word of a rule's text tells. In doubt it asks: that costs an evaluation or a look at the target, and nothing else.
    pub(super) fn of(text: &str) -> Self {
        let whole_context = text.match_indices("context").any(|(place, word)| {
            let after = text.get(place.saturating_add(word.len())..).unwrap_or_default().trim_start();
            !(after.starts_with('.') || after.starts_with("has "))
        });
        // By an escape any word can be written.
        let any = whole_context || text.contains('\\');
        let asks = |word: &str| any || text.contains(word);
        Self {
            time: ["now", "weekday", "hour", "minute"].into_iter().any(asks),
            columns: asks("columns"),
            limit: asks("limit"),
            estimate: asks("estimatedRows"),
            calls: asks("callsVolatile") || asks("callsDefiner"),
        }
    }

    /// Of either.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            time: self.time || other.time,
            columns: self.columns || other.columns,
            limit: self.limit || other.limit,
            estimate: self.estimate || other.estimate,
            calls: self.calls || other.calls,
        }
    }
}

/// As they stand in a slice: what they answer names them by their place there.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    set: PolicySet,
    principal: Entity,
    target: Entity,
    name: Name,
    asks: Asks,
    /// What the heads of those that ask for an estimate say of actions.
    estimated: Vec<ActionConstraint>,
}

impl Rules {
    /// Those of `policies`; `Ok(None)` when none of them is in Cedar.
    ///
    /// # Errors
    /// When `principal` or the target cannot be told in Cedar: then nothing may be decided without them (I3).
    pub(crate) fn of(
        policies: &[(Name, Arc<Policy>)],
        principal: &Principal,
        target: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Result<Option<Arc<Self>>, Broken> {
        let rules = policies.iter().enumerate();
        let rules: Vec<_> = rules.filter_map(|(place, (_, policy))| Some((place, policy.cedar.as_deref()?))).collect();
        if rules.is_empty() {
            return Ok(None);
        }
        let types = Types::get().ok_or(Broken)?;
        let estimated = rules.iter().filter(|(_, rule)| rule.asks().estimate);
        let estimated = estimated.map(|(_, rule)| rule.action_constraint()).collect();
        let asks = rules.iter().fold(Asks::default(), |asks, (_, rule)| asks.and(rule.asks()));
        let set = PolicySet::from_policies(rules.into_iter().map(|(place, rule)| rule.with_id(place)));
        Ok(Some(Arc::new(Self {
            set: set.map_err(|_| Broken)?,
            principal: types.principal_entity(principal).ok_or(Broken)?,
            target: types.target_entity(target, labels).ok_or(Broken)?,
            name: target.clone(),
            asks,
            estimated,
        })))
    }

    /// Whether the time may change what they answer.
    pub(super) const fn is_timed(&self) -> bool {
        self.asks.time
    }

    /// Of what they make use.
    pub(super) const fn asks(&self) -> Asks {
        self.asks
    }

    /// Whether how many rows the target expects may decide on any of `actions`.
    pub(crate) fn ask_for_estimate(&self, actions: &[Action]) -> bool {
        let speaks = |id: &EntityUid, verb: Verb| {
            let name = id.id().unescaped();
            name == verb.as_str() || groups_of(verb).contains(&name)
        };
        let of = |head: &ActionConstraint, verb: Verb| match head {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(id) => speaks(id, verb),
            ActionConstraint::In(ids) => ids.iter().any(|id| speaks(id, verb)),
        };
        self.estimated.iter().any(|head| actions.iter().any(|action| of(head, action.verb)))
    }

    /// Without what no rule asks for: what differs in that alone is answered alike.
    pub(super) fn as_asked<'a>(&self, action: &'a Action) -> Cow<'a, Action> {
        let drops = (action.columns.is_some() && !self.asks.columns)
            || (action.limit.is_some() && !self.asks.limit)
            || (action.calls.is_some() && !self.asks.calls);
        if !drops {
            return Cow::Borrowed(action);
        }
        let columns = action.columns.clone().filter(|_| self.asks.columns);
        let limit = action.limit.filter(|_| self.asks.limit);
        let calls = action.calls.filter(|_| self.asks.calls);
        Cow::Owned(Action { columns, limit, calls, ..action.clone() })
    }

    /// Which apply to `action`, one of those of an operation that reads only or not.
    pub(super) fn on_action(&self, action: &Action, read_only: bool, at: &Circumstances, granted: &Granted) -> Answer {
        let ask = || {
            let types = Types::get()?;
            let resource = types.resource_entity(&self.name, &action.object)?;
            let own = types.action(action.verb.as_str());
            let groups = groups_of(action.verb).iter().map(|group| types.action(group)).collect();
            let what = Entity::new_no_attrs(own, groups);
            self.ask(what, Some(resource), context_of_statement(read_only, action, at, granted)?)
        };
        ask().unwrap_or(Answer::BROKEN)
    }

    /// Which apply to the session as a whole.
    pub(crate) fn on_session(&self, at: &Circumstances, granted: &Granted) -> Answer {
        let ask = || self.ask(Entity::with_uid(Types::get()?.action("session:open")), None, context(at, granted, [])?);
        ask().unwrap_or(Answer::BROKEN)
    }

    fn ask(&self, action: Entity, resource: Option<Entity>, context: Context) -> Option<Answer> {
        let uid = |entity: &Entity| -> EntityUid { entity.uid() };
        let on = resource.as_ref().map_or_else(|| uid(&self.target), uid);
        let request = Request::new(uid(&self.principal), uid(&action), on, context, None).ok()?;
        let known = [self.principal.clone(), self.target.clone(), action];
        let entities = Entities::from_entities(known.into_iter().chain(resource), None).ok()?;
        let response = Authorizer::new().is_authorized(&request, &self.set, &entities);
        Some(Answer::of(&response))
    }
}

/// What the schema calls a statement.
pub(super) fn context_of_statement(
    read_only: bool,
    action: &Action,
    at: &Circumstances,
    granted: &Granted,
) -> Option<Context> {
    let is = |key, value: Option<bool>| value.map(|value| (key, RestrictedExpression::new_bool(value)));
    let columns = action.columns.iter().map(|columns| ("columns", set(columns.iter().map(|column| &**column))));
    let limit = action.limit.map(|limit| ("limit", long(limit)));
    let estimated = at.estimated_rows.map(|rows| ("estimatedRows", long(rows)));
    let calls = action.calls.unwrap_or(Calls::ANY);
    let more = [
        is("readOnly", Some(read_only)),
        is("inTransaction", at.in_transaction),
        is("bounded", action.bounded),
        is("callsVolatile", Some(calls.volatile)),
        is("callsDefiner", Some(calls.definer)),
    ];
    context(at, granted, more.into_iter().flatten().chain(columns).chain(limit).chain(estimated))
}

fn long(number: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX))
}

fn set<'a>(of: impl Iterator<Item = &'a str>) -> RestrictedExpression {
    RestrictedExpression::new_set(of.map(|text| RestrictedExpression::new_string(text.to_owned())))
}

/// Principal or target cannot be told in Cedar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

fn context<'a>(
    at: &Circumstances,
    granted: &Granted,
    more: impl IntoIterator<Item = (&'a str, RestrictedExpression)>,
) -> Option<Context> {
    let minutes = at.now.secs() / 60;
    // The first day of the epoch was a Thursday.
    let weekday = (minutes / 1_440).saturating_add(3) % 7 + 1;
    let source = at.source.map(|source| ("source", RestrictedExpression::new_ip(source.to_canonical().to_string())));
    let said = granted.justification();
    let justification = said.map(|said| ("justification", RestrictedExpression::new_string(said.to_owned())));
    let pairs = [
        ("now", RestrictedExpression::new_datetime(at.now.to_string())),
        ("weekday", long(weekday)),
        ("hour", long(minutes / 60 % 24)),
        ("minute", long(minutes % 60)),
        ("granted", set(granted.policies().map(Name::as_str))),
    ];
    let all = pairs.into_iter().chain(source).chain(justification).chain(more);
    Context::from_pairs(all.map(|(key, value)| (key.to_owned(), value))).ok()
}

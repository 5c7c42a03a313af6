//! The policies in Cedar among those of a slice, ready to be asked about one principal on one target.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::{Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression};

use super::answer::Answer;
use super::entities::{Types, groups_of};
use crate::action::Action;
use crate::name::Name;
use crate::policy::{Circumstances, Policy};
use crate::principal::Principal;

/// As they stand in a slice: what they answer names them by their place there.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    set: PolicySet,
    principal: Entity,
    target: Entity,
    name: Name,
    timed: bool,
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
        let timed = rules.iter().any(|(_, rule)| rule.is_timed());
        let set = PolicySet::from_policies(rules.into_iter().map(|(place, rule)| rule.with_id(place)));
        Ok(Some(Arc::new(Self {
            set: set.map_err(|_| Broken)?,
            principal: types.principal_entity(principal).ok_or(Broken)?,
            target: types.target_entity(target, labels).ok_or(Broken)?,
            name: target.clone(),
            timed,
        })))
    }

    /// Whether the time may change what they answer.
    pub(super) const fn is_timed(&self) -> bool {
        self.timed
    }

    /// Which apply to `action`, one of those of an operation that reads only or not.
    pub(super) fn on_action(&self, action: &Action, read_only: bool, at: &Circumstances) -> Answer {
        let ask = || {
            let types = Types::get()?;
            let resource = types.resource_entity(&self.name, &action.object)?;
            let own = types.action(action.verb.as_str());
            let groups = groups_of(action.verb).iter().map(|group| types.action(group)).collect();
            let what = Entity::new_no_attrs(own, groups);
            self.ask(what, Some(resource), context_of_statement(read_only, action.bounded, at)?)
        };
        ask().unwrap_or(Answer::BROKEN)
    }

    /// Which apply to the session as a whole.
    pub(crate) fn on_session(&self, at: &Circumstances) -> Answer {
        let ask = || self.ask(Entity::with_uid(Types::get()?.action("session:open")), None, context(at, [])?);
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
pub(super) fn context_of_statement(read_only: bool, bounded: Option<bool>, at: &Circumstances) -> Option<Context> {
    let is = |key, value: Option<bool>| value.map(|value| (key, RestrictedExpression::new_bool(value)));
    let more = [is("readOnly", Some(read_only)), is("inTransaction", at.in_transaction), is("bounded", bounded)];
    context(at, more.into_iter().flatten())
}

/// Principal or target cannot be told in Cedar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

fn context<'a>(at: &Circumstances, more: impl IntoIterator<Item = (&'a str, RestrictedExpression)>) -> Option<Context> {
    let long = |number: u64| RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
    let minutes = at.now.secs() / 60;
    // The first day of the epoch was a Thursday.
    let weekday = (minutes / 1_440).saturating_add(3) % 7 + 1;
    let source = at.source.map(|source| ("source", RestrictedExpression::new_ip(source.to_canonical().to_string())));
    let pairs = [
        ("now", RestrictedExpression::new_datetime(at.now.to_string())),
        ("weekday", long(weekday)),
        ("hour", long(minutes / 60 % 24)),
        ("minute", long(minutes % 60)),
    ];
    let all = pairs.into_iter().chain(source).chain(more).map(|(key, value)| (key.to_owned(), value));
    Context::from_pairs(all).ok()
}

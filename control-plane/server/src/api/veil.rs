//! What of a held operation each one may see: values of masked columns are hidden from whom masks hold for (I4).

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_core::Name;
use postern_core::approval::Approval;
use postern_core::background::{Background, veiled};
use postern_core::masking::{MaskSlice, MaskingRule};
use postern_core::principal::{Principal, PrincipalId};
use postern_core::review::ReviewItem;
use postern_core::snapshot::Snapshot;
use postern_core::wire::identity::approval_to_proto;
use postern_core::wire::review::item_to_proto;
use postern_proto::resource::v1 as pb;

use super::access::Caller;
use crate::feed::Policy;

/// What masks say now.
pub(crate) struct Veils(Arc<Policy>);

impl Veils {
    pub(crate) const fn new(policy: Arc<Policy>) -> Self {
        Self(policy)
    }

    /// As `caller` may see it. Who asks for an operation knows what is in it.
    pub(super) fn shown(&self, caller: &Caller, approval: &Approval) -> pb::Approval {
        if caller.is(&approval.requester) {
            return without_uses(approval_to_proto(approval));
        }
        shown(&self.0.snapshot, caller.maybe_principal(), approval)
    }

    /// A review after the fact, likewise.
    pub(super) fn shown_review(&self, caller: &Caller, item: &ReviewItem) -> pb::ReviewItem {
        if caller.is(&item.principal) {
            return item_without_uses(item);
        }
        shown_review(&self.0.snapshot, caller.maybe_principal(), item)
    }

    /// As one may see it for whom every mask holds.
    pub(crate) fn review_for_anybody(&self, item: &ReviewItem) -> pb::ReviewItem {
        shown_review(&self.0.snapshot, None, item)
    }

    /// As one may see it for whom every mask holds.
    pub(crate) fn shown_to_anybody(&self, approval: &Approval) -> pb::Approval {
        shown(&self.0.snapshot, None, approval)
    }
}

fn shown(snapshot: &Snapshot, viewer: Option<&Principal>, approval: &Approval) -> pb::Approval {
    let mut out = without_uses(approval_to_proto(approval));
    let Some(background) = &approval.background else { return out };
    let masks = masks(snapshot, viewer, &approval.target);
    if let Some((text, parameters)) = veiled(&approval.text, &approval.parameters, background, &masks) {
        (out.text, out.parameters) = (text, parameters);
        if let Some(background) = &mut out.background {
            background.veiled = true;
        }
    }
    out
}

fn shown_review(snapshot: &Snapshot, viewer: Option<&Principal>, item: &ReviewItem) -> pb::ReviewItem {
    let mut out = item_without_uses(item);
    let masks = masks(snapshot, viewer, &item.target);
    let uses = Background { relations: item.relations.clone(), values: item.values.clone(), ..Background::default() };
    if let Some((text, parameters)) = veiled(&item.text, &item.parameters, &uses, &masks) {
        (out.text, out.parameters, out.veiled) = (text, parameters, true);
    }
    out
}

fn item_without_uses(item: &ReviewItem) -> pb::ReviewItem {
    pb::ReviewItem { relations: Vec::new(), values: Vec::new(), ..item_to_proto(item) }
}

/// What values are set against is for the above, and says nothing to people.
fn without_uses(mut approval: pb::Approval) -> pb::Approval {
    if let Some(background) = &mut approval.background {
        background.relations.clear();
        background.values.clear();
    }
    approval
}

fn masks(snapshot: &Snapshot, viewer: Option<&Principal>, target: &Name) -> MaskSlice {
    let nobody = viewer.is_none().then(nobody).flatten();
    let Some(viewer) = viewer.or(nobody.as_ref()) else { return MaskSlice::default() };
    if snapshot.targets.get(target).is_some() {
        // What policies say of the viewer is not what they say of who asks.
        return snapshot.mask_slice(viewer, target, &snapshot.masks_by_policy());
    }
    // Its labels went with the target: any rule may have held.
    let rules: Vec<(&Name, MaskingRule)> = (&snapshot.masking)
        .into_iter()
        .map(|(name, rule)| {
            let mut rule = rule.clone();
            rule.targets.names = vec![target.to_string()];
            rule.targets.labels = BTreeMap::new();
            (name, rule)
        })
        .collect();
    let (rules, asked) = (rules.iter().map(|(name, rule)| (*name, rule)), snapshot.masks_by_policy());
    MaskSlice::with(rules, &asked, viewer, target, &BTreeMap::new())
}

/// A certificate of the cluster, say: no principal, and in no group.
fn nobody() -> Option<Principal> {
    Some(Principal {
        id: PrincipalId { issuer: "nobody".parse().ok()?, subject: "".into() },
        groups: Default::default(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    })
}

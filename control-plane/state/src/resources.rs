//! Declared objects, by kind and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_core::Name;
use postern_core::resource::{Kind, Resource};

use crate::tree::Tree;

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources(BTreeMap<Kind, Tree<Name, Arc<Resource>>>);

impl Resources {
    pub(crate) fn get(&self, kind: Kind, name: &Name) -> Option<&Arc<Resource>> {
        self.0.get(&kind)?.get(name)
    }

    pub(crate) fn insert(&mut self, resource: Arc<Resource>) {
        let of_kind = self.0.entry(resource.spec.kind()).or_default();
        of_kind.insert(resource.metadata.name.clone(), resource);
    }

    pub(crate) fn remove(&mut self, kind: Kind, name: &Name) {
        if let Some(of_kind) = self.0.get_mut(&kind) {
            of_kind.remove(name);
        }
    }

    /// Those of a kind, by name.
    pub(crate) fn of(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Arc<Resource>> {
        self.0.get(&kind).into_iter().flat_map(Tree::values)
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.0.get(&kind).map_or(0, Tree::len)
    }

    /// All, by kind and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.values().flat_map(Tree::values)
    }
}

//! The relations of a target's database, as names and masks are resolved by them.
use std::sync::Arc;

/// A snapshot of a database's relations.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    user: Arc<str>,
    search_path: Vec<Arc<str>>,
}

impl Catalog {
    /// The role that it was read as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The search path after login.
    #[must_use]
    pub fn search_path(&self) -> &[Arc<str>] {
        &self.search_path
    }
}

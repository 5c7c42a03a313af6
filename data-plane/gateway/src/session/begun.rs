//! What a session begins with: how its texts are read, by the startup, the target's own words and the catalog.

use std::sync::Arc;

use bytes::Bytes;
use postern_core::Code;
use postern_protocols::postgres::analyze::AnalyzeContext;
use postern_protocols::postgres::catalog::Catalog;
use postern_protocols::postgres::handshake::Startup;
use postern_protocols::postgres::session::{BEGUN, Begun};

use crate::estimate::simple;
use crate::upstream::Upstream;

/// What the startup, and the target, said of how texts are read.
#[derive(Debug)]
pub(super) struct Beginning {
    /// The search path, where the target said it or the startup gave one.
    pub(super) search_path: Option<String>,
    /// What the session was asked, where the database's own code runs at its login.
    pub(super) begun: Option<Begun>,
    /// It says nothing else that bears on what names mean.
    pub(super) keeps_names: bool,
    pub(super) max_statement: usize,
}

impl Beginning {
    /// By what the client asked for, and what the target said to it.
    pub(super) fn of(
        startup: &Startup,
        reported: &[(String, String)],
        catalog: &Catalog,
        begun: Option<Begun>,
        max_statement: usize,
    ) -> Self {
        let untold = catalog.has_login_triggers() && begun.is_none();
        // What the session was asked goes before all. From 18 on the server reports the path, whatever the one had that read the catalog; the
        // startup's is in it.
        let path = begun.as_ref().map(|begun| &*begun.reset_path);
        let path = path.or_else(|| reported.iter().find(|(name, _)| name == "search_path").map(|(_, path)| &**path));
        let path = path.or_else(|| startup.beyond.search_path()).or_else(|| catalog.declared_path());
        Self {
            // Of those that come later, ALTER ROLE ... SET may change it; not of this one.
            search_path: path.map(str::to_owned),
            begun,
            keeps_names: startup.beyond.keeps_names() && !untold,
            max_statement,
        }
    }

    /// What names mean by this catalog, and whether that is all there is to say.
    pub(super) fn context(&self, database: &str, catalog: &Arc<Catalog>) -> (Arc<AnalyzeContext>, bool) {
        let context = AnalyzeContext::new(database, Arc::clone(catalog), self.max_statement);
        let begun = self.search_path.as_ref().map(|path| context.clone().beginning_with(path));
        match begun {
            None => (Arc::new(context), self.keeps_names),
            Some(Some(context)) => (Arc::new(context), self.keeps_names),
            Some(None) => (Arc::new(context), false),
        }
    }
}

/// What the session has begun with, where that may be other than the catalog tells. Where everything is granted nothing is asked of the target but what the
/// client asks: there it stays in doubt.
pub(super) async fn ask_begun(
    upstream: &mut Upstream,
    catalog: &Catalog,
    open: bool,
) -> Result<Option<Begun>, (Code, String, Option<Bytes>)> {
    if !catalog.has_login_triggers() || open {
        return Ok(None);
    }
    let rows = simple(upstream, BEGUN).await.map_err(|e| (Code::TargetRefused, e.to_string(), None))?;
    let begun = rows.first().and_then(|row| Begun::read(row));
    begun.map(Some).ok_or_else(|| (Code::TargetRefused, "it does not say what search path it has".into(), None))
}

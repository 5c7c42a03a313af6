//! `postern dev token`.

use std::path::Path;

use super::args::DevTokenArgs;
use super::issuer::{Claims, IssuerKey};
use super::layout::Layout;
use crate::failure::Failure;
use crate::output;

/// Prints the token and nothing else.
pub(super) fn run(args: &DevTokenArgs, data_dir: &Path) -> Result<(), Failure> {
    let layout = Layout::existing(data_dir);
    let Some(endpoints) = layout.last() else {
        return Err(Failure::failed(format!(
            "{} has no development issuer: has `postern dev` run there?",
            data_dir.display()
        )));
    };
    let issuer = endpoints.issuer_url();
    let key = IssuerKey::load(&layout.issuer_key())?;
    let now = postern_runtime::clock::now();
    let ago = args.issued_ago.unwrap_or_default();
    let issued_at = postern_core::Timestamp::from_secs(now.secs().saturating_sub(ago.as_secs()));
    let claims = Claims {
        issuer: args.issuer_claim.as_deref().unwrap_or(&issuer),
        subject: &args.subject,
        audience: &args.audience,
        groups: &args.groups,
        issued_at,
        not_before: args.not_before_in.map_or(issued_at, |wait| now.plus(wait)),
        ttl: args.ttl,
    };
    output::line(key.sign(&claims)?)
}

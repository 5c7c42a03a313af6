//! `postern logout`.

use crate::args::ConnectionArgs;
use crate::client::Settings;
use crate::credentials::Store;
use crate::failure::Failure;
use crate::{login, output, reach};

/// Forgets the login here, whatever the others answer, and has them forget it.
pub(crate) async fn run(connection: &ConnectionArgs) -> Result<(), Failure> {
    let settings = Settings::resolve(connection)?;
    let store = Store::of(&settings)?;
    // One that cannot be read is removed as well.
    let kept = store.load();
    if !store.remove().await? {
        output::note("Nobody is logged in.");
        return Ok(());
    }
    if let Err(failure) = &kept {
        output::note(format!("what was there could not be read: {failure}"));
    }
    let Ok(Some(kept)) = kept else { return Ok(()) };
    let mut left = Vec::new();
    if let Some(renewal) = &kept.renewal {
        match login::give_back(renewal).await {
            Ok(true) => {}
            Ok(false) => left.push(
                "the identity provider takes no tokens back: the refresh token is good until its end there".to_owned(),
            ),
            Err(failure) => left.push(format!("the refresh token is good until its end: {failure}")),
        }
    }
    if let Err(failure) = reach::revoke(&Settings { token: None, credential: None, ..settings }, &kept.token).await {
        left.push(format!("the session token is good until its end: {failure}"));
    }
    output::note(format!("{} is logged out.", output::printable(&kept.principal)));
    for one in left {
        output::note(format!("But {one}."));
    }
    Ok(())
}

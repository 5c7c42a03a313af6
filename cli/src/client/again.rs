//! Asking again, at one member after the other, while a control plane is away or changes its leader.

use std::time::Duration;

use postern_runtime::backoff::Backoff;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Client, Settings, refused};
use crate::args::ConnectionArgs;
use crate::failure::Failure;

/// The pause before the second try.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest pause.
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(2);
/// For so long a control plane that is away is asked again.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(60);

/// Asks one member after the other until one answers, or it is clear that all would answer the same.
pub(crate) async fn again_and_again<T>(
    connection: &ConnectionArgs,
    most: Duration,
    ask: impl AsyncFn(Client) -> Result<T, Status>,
) -> Result<T, Failure> {
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let (began, mut place, mut asked) = (Instant::now(), 0_usize, false);
    loop {
        // Each time anew: a token file may have a newer token by now.
        let settings = Settings::acting(connection).await?;
        let failure = match Client::connect_to(&settings, place).await {
            Ok(client) => {
                asked = true;
                match ask(client).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) if !passes(&status) => return Err(refused(status)),
                    Err(status) => refused(status),
                }
            }
            Err(failure @ Failure::Usage(_)) => return Err(failure),
            Err(failure) => failure,
        };
        place = place.saturating_add(1);
        // Where nobody is at all it is said at once.
        let nobody = !asked && place >= settings.servers().len();
        if nobody || began.elapsed() > most {
            return Err(failure);
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether it may be another time, or elsewhere: a member that stops, knows no leader or has too much to do, a connection that broke.
pub(crate) fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded
    )
}

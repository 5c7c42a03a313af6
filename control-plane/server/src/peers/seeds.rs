//! Looks for members where the operator says that some are: for when all that members knew of each other is out of date.

use std::sync::Arc;
use std::time::Duration;

use postern_runtime::backoff::Backoff;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Shared;
use super::book::PeerEntry;

const RETRY_BASE: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Asks at each of `addresses` who is there, again and again while there is a member without a link.
pub(super) async fn look(shared: Arc<Shared>, mut addresses: Vec<String>, stop: CancellationToken) {
    let mut links = shared.links.subscribe();
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
    while !addresses.is_empty() {
        let mut own = Vec::new();
        let round = async {
            let missed = links.wait_for(|links| links.values().any(|link| !link.connected)).await.is_ok();
            for address in &addresses {
                if missed && ask(&shared, address).await {
                    own.push(address.clone());
                }
            }
            missed
        };
        let missed = tokio::select! {
            () = stop.cancelled() => return,
            missed = round => missed,
        };
        if !missed {
            return;
        }
        // The same list may be in every member's configuration.
        addresses.retain(|address| !own.contains(address));
        if links.borrow_and_update().values().all(|link| link.connected) {
            backoff.reset();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Whether it is this node itself that answers there.
async fn ask(shared: &Shared, address: &str) -> bool {
    let name = match shared.dialer.identify(address).await {
        Ok(name) => name,
        Err(error) => {
            debug!(address, %error, "nobody where a member should be");
            return false;
        }
    };
    if name == shared.config.name {
        return true;
    }
    let Some(id) = shared.book.id_of(&name) else {
        debug!(address, %name, "a member that this node does not know");
        return false;
    };
    let linked = shared.links.borrow().get(&id).is_some_and(|link| link.connected);
    if !linked && shared.book.get(id).is_none_or(|known| known.address != address) {
        info!(address, %name, "found a member");
        shared.book.reached(id, &PeerEntry { name, address: address.to_owned() });
    }
    false
}

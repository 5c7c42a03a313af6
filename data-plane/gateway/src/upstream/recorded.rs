//! The beginning of a session's recording, as its login waits for it: both are under way at once.

use tokio::sync::watch;

/// It could not be made durable, or was given up.
#[derive(Debug, thiserror::Error)]
#[error("its recording could not begin")]
pub(crate) struct NotRecorded;

/// Whether the recording has begun, durably.
#[derive(Clone, Debug)]
pub(crate) struct Recorded(Option<watch::Receiver<bool>>);

/// Says so. Dropped without, it never will.
#[derive(Debug)]
pub(crate) struct Begins(watch::Sender<bool>);

impl Recorded {
    /// To be said by the other one.
    pub(crate) fn soon() -> (Begins, Self) {
        let (begins, recorded) = watch::channel(false);
        (Begins(begins), Self(Some(recorded)))
    }

    /// There is nothing to record: no client is behind this login.
    pub(crate) const fn needless() -> Self {
        Self(None)
    }

    pub(super) async fn wait(&self) -> Result<(), NotRecorded> {
        match self.0.clone() {
            Some(mut recorded) => recorded.wait_for(|begun| *begun).await.map(drop).map_err(|_| NotRecorded),
            None => Ok(()),
        }
    }
}

impl Begins {
    /// It is durable.
    pub(crate) fn begun(self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn waits_for_the_disk_and_not_for_what_was_given_up() {
        let (begins, recorded) = Recorded::soon();
        assert!(recorded.wait().now_or_never().is_none());
        begins.begun();
        recorded.wait().await.unwrap();
        recorded.wait().await.unwrap();
        let (begins, recorded) = Recorded::soon();
        drop(begins);
        recorded.wait().await.unwrap_err();
        Recorded::needless().wait().await.unwrap();
    }
}

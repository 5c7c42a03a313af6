//! Sessions that are logged in to a target before anybody asks: beginning one is most of what a client waits for, and it is the target's own work.
//!
//! One actor has them all. A spare session serves one client, once: nothing was ever asked in it, and whoever takes it asked for exactly what it was
//! logged in with, the target as it is declared, the account, the database and every setting. One that says anything, or ends, while it waits is thrown
//! away, and so is one whose target or password is another now.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use postern_core::Name;
use postern_protocols::postgres::codec::write::terminate;
use postern_runtime::clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Destination, Dialer, Recorded, Upstream, UpstreamError};
use crate::credentials::Account;
use crate::metrics;
use crate::policy_feed::{Current, Feed};

/// How long one waits to be taken. Nobody came for longer: then the next to come begins anew.
const LIFE: Duration = Duration::from_secs(30);
/// How often those that ended by themselves are looked for. The others are asked when they are taken.
const SWEEP: Duration = Duration::from_secs(2);
/// How long a farewell to the target may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// Requests that wait for the actor. Who finds it full logs in by itself.
const MAILBOX: usize = 256;
/// Spare sessions at a gateway, over all targets (I11).
const MOST: usize = 512;

/// What a session is logged in with: two that are alike cannot be told apart.
#[derive(Debug)]
pub(super) struct Like {
    to: Destination,
    account: Account,
    settings: Vec<(String, String)>,
}

impl Like {
    pub(super) fn new(to: &Destination, account: Account, settings: &[(String, String)]) -> Arc<Self> {
        Arc::new(Self { to: to.clone(), account, settings: settings.to_vec() })
    }

    fn is(&self, other: &Self) -> bool {
        let (this, that) = (&self.to, &other.to);
        this.name == that.name
            && this.database == that.database
            && this.sent == that.sent
            && (Arc::ptr_eq(&this.target, &that.target) || this.target == that.target)
            && self.account.username == other.account.username
            && self.account.proof == other.account.proof
            && self.settings == other.settings
    }

    /// Whether the policy still has the target, and its password, as they were.
    fn stands(&self, current: Option<&Current>) -> bool {
        let Some(snapshot) = current.map(|current| &current.snapshot) else { return false };
        let target = snapshot.targets.get(&self.to.name);
        target.is_some_and(|known| !known.value.disabled && known.value == *self.to.target)
            && snapshot.credentials.get(&self.to.name) == self.to.sent.as_ref()
    }
}

enum Message {
    Take(Arc<Like>, oneshot::Sender<Option<Upstream>>),
    /// A session like that was begun for a client: there will be more.
    Opened(Arc<Like>),
}

/// Asks for spare sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Spares(mpsc::Sender<Message>);

impl Spares {
    /// With the actor that has them, which the caller runs.
    pub(super) fn new(
        dialer: Dialer,
        feed: watch::Receiver<Feed>,
        limit: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (to, mailbox) = mpsc::channel(MAILBOX);
        let keeper = Keeper {
            dialer,
            limit,
            feed,
            targets: BTreeMap::new(),
            logins: FuturesUnordered::new(),
            farewells: FuturesUnordered::new(),
        };
        (Self(to), keeper.run(mailbox, stop))
    }

    /// A session like `like`, or none where one had to be begun. Waits for one that is being logged in already: it is there sooner.
    pub(super) async fn take(&self, like: &Arc<Like>) -> Option<Upstream> {
        let (give, given) = oneshot::channel();
        self.0.try_send(Message::Take(Arc::clone(like), give)).ok()?;
        let taken = given.await.ok().flatten();
        metrics::spare_wanted(taken.is_some());
        taken
    }

    /// A session like `like` was begun for a client.
    pub(super) fn opened(&self, like: Arc<Like>) {
        // A full mailbox has requests enough to go by.
        let _ = self.0.try_send(Message::Opened(like));
    }
}

type LoggedIn = (Arc<Like>, Result<Upstream, UpstreamError>);

async fn login(dialer: Dialer, limit: Duration, like: Arc<Like>) -> LoggedIn {
    // For the agent's log; whoever takes the session says so in the gateway's.
    let to = Destination { session: clock::session_id(), ..like.to.clone() };
    // Nobody is behind it yet: whoever takes it waits for a recording of its own.
    let recorded = Recorded::needless();
    let login = dialer.login_as(&to, &like.account, &like.settings, &recorded);
    let upstream = tokio::time::timeout(limit, login).await.unwrap_or(Err(UpstreamError::TimedOut));
    (like, upstream)
}

struct Keeper {
    dialer: Dialer,
    /// How long a login may take.
    limit: Duration,
    feed: watch::Receiver<Feed>,
    targets: BTreeMap<Name, OfTarget>,
    logins: FuturesUnordered<BoxFuture<'static, LoggedIn>>,
    farewells: FuturesUnordered<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct OfTarget {
    ready: VecDeque<Spare>,
    /// Being logged in.
    underway: Vec<Arc<Like>>,
    /// In order, for those that are being logged in.
    waiting: VecDeque<(Arc<Like>, oneshot::Sender<Option<Upstream>>)>,
    /// When the last sessions began, no more than are kept ready: what stands unused is not replaced.
    begun: VecDeque<Instant>,
}

struct Spare {
    like: Arc<Like>,
    upstream: Upstream,
    until: Instant,
}

impl Keeper {
    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>, stop: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                message = mailbox.recv() => match message {
                    Some(Message::Take(like, give)) => self.take(like, give),
                    Some(Message::Opened(like)) => self.opened(&like),
                    None => break,
                },
                Some((like, upstream)) = self.logins.next() => self.logged_in(like, upstream),
                Some(()) = self.farewells.next() => {}
                Ok(()) = self.feed.changed() => {
                    let current = self.feed.borrow_and_update().current.clone();
                    self.drop_where(|spare| !spare.like.stands(current.as_deref()));
                }
                _ = sweep.tick() => {
                    let now = Instant::now();
                    self.drop_where(|spare| spare.until <= now || !is_silent(&mut spare.upstream));
                }
            }
        }
        self.drop_where(|_| true);
        while self.farewells.next().await.is_some() {}
    }

    fn take(&mut self, like: Arc<Like>, give: oneshot::Sender<Option<Upstream>>) {
        let Some(of) = self.targets.get_mut(&like.to.name) else {
            // Whoever wanted it has begun another by then: that is no error here, nor below.
            let _ = give.send(None);
            return;
        };
        while let Some(mut spare) =
            of.ready.iter().position(|spare| spare.like.is(&like)).and_then(|at| of.ready.remove(at))
        {
            if !is_silent(&mut spare.upstream) {
                continue;
            }
            match give.send(Some(spare.upstream)) {
                Err(Some(upstream)) => of.ready.push_front(Spare { upstream, ..spare }),
                _ => self.opened(&like),
            }
            return;
        }
        if of.comes(&like) {
            of.waiting.push_back((like, give));
        } else {
            let _ = give.send(None);
        }
    }

    /// A session like `like` begins: more are expected, as many as came of late.
    fn opened(&mut self, like: &Arc<Like>) {
        let most = usize::from(like.to.target.spare_sessions);
        let now = Instant::now();
        let of = self.targets.entry(like.to.name.clone()).or_default();
        of.begun.push_back(now);
        while of.begun.len() > most || of.begun.front().is_some_and(|at| now.duration_since(*at) > LIFE) {
            of.begun.pop_front();
        }
        let wanted = of.begun.len();
        let alike = of.ready.iter().map(|spare| &spare.like).chain(&of.underway).filter(|known| known.is(like)).count();
        for _ in alike..wanted {
            self.begin(like, most);
        }
    }

    /// Logs one more in, in the place of the oldest where there are as many as may be.
    fn begin(&mut self, like: &Arc<Like>, most: usize) {
        let of_all = self.targets.values().map(OfTarget::len).fold(0, usize::saturating_add);
        let Some(of) = self.targets.get_mut(&like.to.name) else { return };
        if of.len() >= most || of_all >= MOST {
            let Some(at) = of.ready.iter().position(|spare| !spare.like.is(like)) else { return };
            if let Some(oldest) = of.ready.remove(at) {
                self.farewells.push(farewell(oldest.upstream).boxed());
            }
        }
        of.underway.push(Arc::clone(like));
        self.logins.push(login(self.dialer.clone(), self.limit, Arc::clone(like)).boxed());
    }

    fn logged_in(&mut self, like: Arc<Like>, upstream: Result<Upstream, UpstreamError>) {
        let Some(of) = self.targets.get_mut(&like.to.name) else { return };
        if let Some(at) = of.underway.iter().position(|known| Arc::ptr_eq(known, &like)) {
            of.underway.swap_remove(at);
        }
        let mut upstream = upstream.inspect_err(|error| {
            // Whoever comes next is told, by a login of its own.
            tracing::debug!(target = %like.to.name, %error, "no spare session");
        });
        while let Some((waits, give)) =
            of.waiting.iter().position(|(waits, _)| waits.is(&like)).and_then(|at| of.waiting.remove(at))
        {
            match upstream {
                Ok(session) => match give.send(Some(session)) {
                    Ok(()) => return self.opened(&waits),
                    Err(Some(session)) => upstream = Ok(session),
                    Err(None) => return,
                },
                // The others' may come still.
                Err(_) => {
                    let _ = give.send(None);
                    return;
                }
            }
        }
        let stands = like.stands(self.feed.borrow().current.as_deref());
        if let Ok(upstream) = upstream
            && stands
        {
            of.ready.push_back(Spare { like, upstream, until: Instant::now() + LIFE });
        }
        self.tell();
    }

    fn drop_where(&mut self, mut is_over: impl FnMut(&mut Spare) -> bool) {
        for of in self.targets.values_mut() {
            for mut spare in std::mem::take(&mut of.ready) {
                if is_over(&mut spare) {
                    self.farewells.push(farewell(spare.upstream).boxed());
                } else {
                    of.ready.push_back(spare);
                }
            }
        }
        let now = Instant::now();
        self.targets.retain(|_, of| of.len() > 0 || of.begun.back().is_some_and(|at| now.duration_since(*at) <= LIFE));
        self.tell();
    }

    fn tell(&self) {
        metrics::spare_sessions(self.targets.values().map(|of| of.ready.len()).fold(0, usize::saturating_add));
    }
}

impl OfTarget {
    fn len(&self) -> usize {
        self.ready.len().saturating_add(self.underway.len())
    }

    /// Whether one like that is being logged in for which nobody waits.
    fn comes(&self, like: &Like) -> bool {
        let underway = self.underway.iter().filter(|known| known.is(like)).count();
        underway > self.waiting.iter().filter(|(known, _)| known.is(like)).count()
    }
}

/// Whether the target has said nothing since the login, and not ended it either.
fn is_silent(upstream: &mut Upstream) -> bool {
    let Upstream { stream, received, .. } = upstream;
    received.is_empty() && tokio::task::unconstrained(stream.read_buf(received)).now_or_never().is_none()
}

/// A courtesy: the target would notice the end anyway.
async fn farewell(mut upstream: Upstream) {
    let told = async {
        upstream.stream.write_all(&terminate()).await?;
        upstream.stream.shutdown().await
    };
    let _ = tokio::time::timeout(FAREWELL, told).await;
}

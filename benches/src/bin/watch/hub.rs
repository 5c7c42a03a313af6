//! Subscribers of the hub, in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use postern_benches::{memory_kb, progress};
use postern_core::Timestamp;
use postern_core::masking::{MaskFunction, MaskingRule};
use postern_core::policy::Pattern;
use postern_core::resource::{ANY_REVISION, Metadata, Resource, Spec};
use postern_core::secret::Sealed;
use postern_core::target::TargetSelector;
use postern_server::raft::Observer as _;
use postern_server::watch::{HubWriter, WatchHub};
use postern_state::{Cluster, Command, Entry, State, commands};
use tokio::task::JoinSet;

use crate::Subscribers;

struct Writer {
    state: State,
    hub: HubWriter,
}

impl Writer {
    /// Applies a command as the driver does; how long the hub took.
    fn apply(&mut self, command: Command) -> Result<Duration> {
        let proposed_at = Timestamp::from_millis(1_000);
        let index = self.state.index() + 1;
        let entry = Entry { proposed_at, request_id: None, command, audit: None };
        let applied = self.state.apply(index, &entry.encode())?;
        ensure!(applied.outcome.is_ok(), "{:?}", applied.outcome);
        let started = Instant::now();
        self.hub.applied(&self.state, index, &applied.effects);
        Ok(started.elapsed())
    }
}

fn cluster() -> Cluster {
    let sealed = || Sealed { kek_id: "k".into(), wrapped_key: vec![1], nonce: vec![2], ciphertext: vec![3] };
    Cluster {
        id: "bench".into(),
        incarnation: "1".into(),
        ca_pem: "none".into(),
        ca_key: sealed(),
        session_token_jwks: r#"{"keys":[]}"#.into(),
        signing_keys: Vec::new(),
        recording_keys: Vec::new(),
        session_token_key: sealed(),
        mask_key: sealed(),
    }
}

fn rule(place: usize) -> Result<Resource> {
    let rule = MaskingRule {
        targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
        columns: vec![Pattern::parse("public.people.email")?],
        mask: MaskFunction::Null,
        exempt_groups: vec![format!("group-{place}")],
        ..Default::default()
    };
    let (name, at) = ("bench".parse()?, Timestamp::default());
    let metadata = Metadata { name, labels: [].into(), revision: ANY_REVISION, created_at: at, updated_at: at };
    Ok(Resource { metadata, spec: Spec::MaskingRule(rule) })
}

pub(crate) fn measure(count: usize, changes: usize) -> Result<Subscribers> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (writer, hub, relay) = WatchHub::new();
        let mut relays = JoinSet::new();
        relays.spawn(relay);
        let mut writer = Writer { state: State::default(), hub: writer };
        writer.hub.restored(&writer.state);
        writer.apply(commands::InitCluster(cluster()).into())?;
        let from = writer.state.index();
        let before = memory_kb(std::process::id())?;
        // One place for each change: how many have it, and when the last one had.
        let (received, done) = tokio::sync::mpsc::channel(changes.max(1));
        let mut done = done;
        let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..changes).map(|_| AtomicUsize::new(0)).collect());
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (mut following, counts, received) = (hub.subscribe(from), Arc::clone(&counts), received.clone());
            tasks.spawn(async move {
                let mut last = from;
                for seen in counts.iter() {
                    let Ok(set) = following.next().await else { return false };
                    // Exactly once, and in order.
                    if set.revision != last + 1 {
                        return false;
                    }
                    last = set.revision;
                    if seen.fetch_add(1, Ordering::Relaxed) + 1 == count {
                        let _ = received.try_send(Instant::now());
                    }
                }
                true
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        #[allow(clippy::cast_precision_loss)] // a figure for people
        let bytes = (memory_kb(std::process::id())? - before).max(0.0) * 1024.0 / count.max(1) as f64;
        let (mut last, mut held) = (Vec::new(), Vec::new());
        for place in 0..changes {
            let command = commands::PutResources { resources: vec![rule(place)?] }.into();
            let started = Instant::now();
            held.push(writer.apply(command)?.as_secs_f64() * 1e6);
            let at = tokio::time::timeout(Duration::from_secs(10), done.recv()).await?.context("subscribers ended")?;
            last.push(at.saturating_duration_since(started).as_secs_f64() * 1e3);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while let Some(good) = tasks.join_next().await {
            ensure!(good?, "a subscriber missed a change, or had one twice");
        }
        progress(&format!("{count} subscribers, {changes} changes: each had each once and in order"));
        Ok(Subscribers { count, last, writer: held, bytes })
    })
}

//! Real streams: connections of their own with mutual TLS, to a member that is a process of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postern_benches::{memory_kb, processor_seconds, progress};
use postern_chaos::live::cluster::{ClusterOptions, LiveCluster, tls_of};
use postern_proto::admin::v1::ApplyRequest;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::gateway::v1::policy_feed_service_client::PolicyFeedServiceClient;
use postern_proto::gateway::v1::watch_response::Policy as Answer;
use postern_proto::gateway::v1::{Delta, WatchRequest};
use postern_proto::resource::v1::mask::Function;
use postern_proto::resource::v1::resource::Spec;
use postern_proto::resource::v1::{Mask, MaskingRuleSpec, Metadata, NullMask, Resource, TargetSelector};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::Streams;

/// Connections that are made at a time.
const AT_ONCE: usize = 32;
/// Between two changes.
const PACE: Duration = Duration::from_millis(200);
/// Nothing changes for this long, to see what idle watchers cost.
const IDLE: Duration = Duration::from_secs(12);
const LIMIT: Duration = Duration::from_secs(30);

/// When each watcher had each revision.
#[derive(Default)]
struct Receipts(Mutex<BTreeMap<u64, Vec<Instant>>>);

impl Receipts {
    fn note(&self, revision: u64) {
        let now = Instant::now();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(revision).or_default().push(now);
    }

    fn count(&self, revision: u64) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&revision).map_or(0, Vec::len)
    }

    fn take(&self, revision: u64) -> Vec<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&revision).unwrap_or_default()
    }
}

pub(crate) fn measure(watchers: usize, changes: usize, members: usize) -> Result<Streams> {
    let mut cluster = LiveCluster::start(ClusterOptions { members, ..Default::default() })?;
    let leader = cluster.leader()?;
    let serving = (0..members).find(|member| *member != leader).unwrap_or(leader);
    let folder = cluster.folder().join("gateway");
    let out = folder.display().to_string();
    cluster.cli().cli(["certs", "issue", "--role", "gateway", "--name", "bench", "--out", &out])?.ok()?;
    let (api, admin) = (cluster.addresses(), cluster.admin());
    let process = cluster.member(serving)?.process()?.id();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let address = api.get(serving).context("an address")?.clone();
    let writing = api.get(leader).context("an address")?.clone();
    runtime.block_on(async { run(&address, &writing, &folder, &admin, process, watchers, changes, members).await })
}

#[allow(clippy::too_many_arguments)] // one caller, above
async fn run(
    address: &str,
    writing: &str,
    gateway: &Path,
    admin: &Path,
    process: u32,
    watchers: usize,
    changes: usize,
    members: usize,
) -> Result<Streams> {
    let mut admin = ResourceServiceClient::new(channel(writing, &tls_of(admin)?)?);
    put(&mut admin, 0).await?;
    let tls = tls_of(gateway)?;
    let before = memory_kb(process)?;
    let receipts = Arc::new(Receipts::default());
    let (ready, mut readies) = mpsc::channel(watchers.max(1));
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        let channel = channel(address, &tls)?;
        let (receipts, ready, gate) = (Arc::clone(&receipts), ready.clone(), Arc::clone(&gate));
        tasks.spawn(async move { watch(channel, &receipts, &ready, &gate).await });
    }
    for _ in 0..watchers {
        tokio::select! {
            known = tokio::time::timeout(LIMIT, readies.recv()) => drop(known.context("watchers do not begin")?),
            ended = tasks.join_next() => bail!("a watcher ended: {ended:?}"),
        }
    }
    progress(&format!("{watchers} watchers"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    #[allow(clippy::cast_precision_loss)] // figures for people
    let (count, steps) = (watchers.max(1) as f64, changes.max(1) as f64);
    let memory = (memory_kb(process)? - before) / count;
    let used = processor_seconds(process)?;
    tokio::time::sleep(IDLE).await;
    let idle = (processor_seconds(process)? - used) / IDLE.as_secs_f64() / count * 1e6;

    let (mut since_acknowledged, mut since_asked, mut each) = (Vec::new(), Vec::new(), Vec::new());
    let used = processor_seconds(process)?;
    let began = Instant::now();
    for place in 1..=changes {
        let asked = Instant::now();
        let revision = put(&mut admin, place).await?;
        let acknowledged = Instant::now();
        while receipts.count(revision) < watchers {
            ensure!(
                acknowledged.elapsed() < LIMIT,
                "{} of {watchers} have revision {revision}",
                receipts.count(revision)
            );
            if let Some(ended) = tasks.try_join_next() {
                bail!("a watcher ended: {ended:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let all = receipts.take(revision);
        let last = all.iter().max().copied().unwrap_or(acknowledged);
        let millis = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        since_acknowledged.push(millis(acknowledged, last));
        since_asked.push(millis(asked, last));
        each.extend(all.iter().map(|at| millis(asked, *at)));
        tokio::time::sleep(PACE.saturating_sub(asked.elapsed())).await;
    }
    let idle_part = idle * began.elapsed().as_secs_f64() / steps;
    let change = (processor_seconds(process)? - used) / count / steps * 1e6 - idle_part;
    progress(&format!("{changes} changes: each watcher had each once and in order"));
    Ok(Streams {
        watchers,
        changes,
        members,
        since_acknowledged,
        since_asked,
        each,
        memory_kb: memory,
        idle_us: idle,
        change_us: change.max(0.0),
    })
}

/// As a gateway's connection.
fn channel(address: &str, tls: &ClientTlsConfig) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls.clone())?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10));
    Ok(endpoint.connect_lazy())
}

/// Follows for ever; checks that each change follows the last.
async fn watch(channel: Channel, receipts: &Receipts, ready: &mpsc::Sender<()>, gate: &Semaphore) -> Result<()> {
    let permit = gate.acquire().await?;
    let mut stream = PolicyFeedServiceClient::new(channel).watch(WatchRequest::default()).await?.into_inner();
    let mut at = None;
    let mut permit = Some(permit);
    while let Some(answer) = stream.message().await? {
        match answer.policy {
            Some(Answer::Whole(_)) => {
                at = Some(0);
                drop(permit.take());
                ready.send(()).await?;
            }
            Some(Answer::Delta(signed)) => {
                let delta = Delta::decode(signed.payload)?;
                ensure!(at.is_some_and(|at| at == 0 || at == delta.from_revision), "{at:?}, then {delta:?}");
                at = Some(delta.revision);
                receipts.note(delta.revision);
            }
            _ => {}
        }
    }
    bail!("the stream ended")
}

/// One durable change; its revision.
async fn put(admin: &mut ResourceServiceClient<Channel>, place: usize) -> Result<u64> {
    let spec = MaskingRuleSpec {
        targets: Some(TargetSelector { names: vec!["*".into()], ..Default::default() }),
        columns: vec![format!("public.people.column_{place}")],
        mask: Some(Mask { function: Some(Function::Null(NullMask {})) }),
        ..Default::default()
    };
    let metadata = Metadata { name: "bench".into(), ..Default::default() };
    let resource = Resource { metadata: Some(metadata), spec: Some(Spec::MaskingRule(spec)) };
    let request = ApplyRequest { resources: vec![resource], ..Default::default() };
    Ok(admin.apply(request).await?.into_inner().revision)
}

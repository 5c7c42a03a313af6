//! A cluster of control-plane processes on real disks, formed as an operator forms it, and what may befall it.

mod caller;
mod client;
mod gateway;
mod history;
mod load;
mod member;
mod net;
mod recovery;
mod watcher;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use postern_proto::admin::v1::cluster_service_client::ClusterServiceClient;
use postern_proto::admin::v1::{GetClusterStatusRequest, GetClusterStatusResponse, MemberPart, MemberStatus};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::cli::Cli;
use super::process::wait_until;

pub use caller::Caller;
pub use client::{ClientOptions, ClusterClient, Failure, Members, channels, tls_of};
pub use gateway::Gateway;
pub use history::{Answer, Asked, Operation, Violation, check};
pub use load::{Load, LoadOptions, Summary};
pub use member::{Member, faked_clock};
pub use net::{Cut, Network};

/// How long a cluster may take to form, or to agree again once nothing is in its way.
pub const AGREE_LIMIT: Duration = Duration::from_secs(60);

/// How long a member may take to say how the cluster stands.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Members.
    pub members: usize,
    /// Each member in a network namespace of its own, so that it can be cut off. Needs root.
    pub namespaces: bool,
    /// Further lines of each member's `[control]` section.
    pub control: String,
    /// Each member with a clock of its own, to be set by [`Member::set_clock`]. Needs libfaketime.
    pub clocks: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { members: 3, namespaces: false, control: String::new(), clocks: false }
    }
}

/// A running cluster. Dropping it kills its members.
#[derive(Debug)]
pub struct LiveCluster {
    members: Vec<Member>,
    network: Option<Network>,
    options: ClusterOptions,
    /// Asks for the status.
    runtime: Runtime,
    folder: TempDir,
}

impl LiveCluster {
    /// Forms a cluster: `control init` on the first member, a join token for each further one, all of them voters.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("postern-cluster-").tempdir()?;
        let network = if options.namespaces { Some(Network::new(options.members)?) } else { None };
        let mut this = Self { members: Vec::new(), network, options, runtime: Runtime::new()?, folder };
        let first = this.new_member(0, "")?;
        let token = first.init()?;
        this.members.push(first);
        this.member(0)?.start()?;
        this.redeem(&token)?;
        for _ in 1..this.options.members {
            this.add_member()?;
        }
        if this.options.members > 1 {
            this.wait_healthy()?;
        }
        Ok(this)
    }

    /// A further member, joined and started; its number. It may not vote yet.
    ///
    /// # Errors
    /// When it is not let in.
    pub fn add_member(&mut self) -> Result<usize> {
        let number = self.members.len();
        self.add_member_as(number, "")
    }

    /// The same, where the number `place` stood before in the network and with something after its name, for a member whose disk is lost.
    ///
    /// # Errors
    /// When it is not let in.
    pub fn add_member_as(&mut self, place: usize, suffix: &str) -> Result<usize> {
        let token = self.join_token(&["--role", "control"])?;
        let member = self.new_member(place, suffix)?;
        member.join(&token, &self.peers()?)?.ok()?;
        self.members.push(member);
        let number = self.members.len() - 1;
        self.member(number)?.start()?;
        Ok(number)
    }

    /// A member that is neither joined nor started, and not part of this.
    ///
    /// # Errors
    /// When there is no port, or its folder cannot be made.
    pub fn new_member(&self, place: usize, suffix: &str) -> Result<Member> {
        let number = place + 1;
        let network = self.network.as_ref().map(|network| (network.address(place), network.namespace(place)));
        let name = format!("control-{number}{suffix}");
        let mut member = Member::new(&name, self.folder.path(), network, &self.kek(), &self.options.control)?;
        if self.options.clocks {
            member.own_clock()?;
        }
        Ok(member)
    }

    /// The text of a new join token.
    ///
    /// # Errors
    /// When none is given.
    pub fn join_token(&self, arguments: &[&str]) -> Result<String> {
        let all = ["cluster", "token", "create"].iter().chain(arguments);
        let out = self.cli().cli(all)?.ok()?;
        let token = out.lines().map(str::trim).find(|line| !line.is_empty() && !line.contains(' '));
        token.map(str::to_owned).with_context(|| format!("no token in {out}"))
    }

    fn redeem(&mut self, token: &Path) -> Result<()> {
        let server = format!("https://{}", self.member(0)?.api());
        let (token, out) = (token.display().to_string(), self.admin().display().to_string());
        let arguments = ["--token-file", &token, "--server", &server, "--name", "root", "--out", &out];
        Cli::new(Vec::new()).cli(["cluster", "redeem"].iter().chain(&arguments))?.ok()?;
        Ok(())
    }

    /// A member.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn member(&mut self, number: usize) -> Result<&mut Member> {
        self.members.get_mut(number).with_context(|| format!("no member {number}"))
    }

    /// How many members were ever made.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where clients reach each member.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(Member::api).collect()
    }

    /// Where members reach those that run.
    ///
    /// # Errors
    /// When none runs.
    pub fn peers(&self) -> Result<Vec<String>> {
        let running: Vec<String> = self.members.iter().filter(|member| member.is_started()).map(Member::api).collect();
        ensure!(!running.is_empty(), "no member runs");
        Ok(running)
    }

    /// Folder of the administrator's credential.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.folder.path().join("admin")
    }

    /// Folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The key-encryption key's file, the same for all members.
    #[must_use]
    pub fn kek(&self) -> PathBuf {
        self.folder.path().join("kek")
    }

    /// The network, when members are in namespaces.
    ///
    /// # Errors
    /// When they are not.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("this cluster has no namespaces")
    }

    /// A client of all members. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the credential cannot be read.
    pub fn client(&self) -> Result<ClusterClient> {
        ClusterClient::new(&self.addresses(), &self.admin(), ClientOptions::default())
    }

    /// Load by clients of all members.
    ///
    /// # Errors
    /// When there is no client.
    pub fn load(&self, options: LoadOptions) -> Result<Load> {
        Load::start(options, || self.client())
    }

    /// The command line as the administrator, to the first member that runs.
    #[must_use]
    pub fn cli(&self) -> Cli {
        let running = self.members.iter().find(|member| member.is_started()).or_else(|| self.members.first());
        self.cli_at(running.map(Member::api).unwrap_or_default())
    }

    /// The command line as the administrator, to one member.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn cli_of(&self, number: usize) -> Result<Cli> {
        Ok(self.cli_at(self.members.get(number).with_context(|| format!("no member {number}"))?.api()))
    }

    /// The command line as the administrator, to these members, the first one first.
    ///
    /// # Errors
    /// When there is none of such a number.
    pub fn cli_of_all(&self, numbers: &[usize]) -> Result<Cli> {
        let api = |number: &usize| self.members.get(*number).map(Member::api);
        let all: Option<Vec<String>> = numbers.iter().map(api).collect();
        Ok(self.cli_at(all.context("a member of that number")?.join(",https://")))
    }

    fn cli_at(&self, api: String) -> Cli {
        let admin = self.admin();
        Cli::new(vec![
            ("POSTERN_SERVER".to_owned(), format!("https://{api}")),
            ("POSTERN_CREDENTIAL".to_owned(), admin.display().to_string()),
            ("POSTERN_CA".to_owned(), admin.join("ca.crt").display().to_string()),
        ])
    }

    /// How the cluster stands, by the first member that runs and answers.
    ///
    /// # Errors
    /// When none answers.
    pub fn status(&self) -> Result<GetClusterStatusResponse> {
        let _guard = self.runtime.enter();
        let tls = tls_of(&self.admin())?;
        let mut last = anyhow!("no member runs");
        for member in self.members.iter().filter(|member| member.is_started()) {
            let channel = channels(&member.api(), Some(&tls), 1)?.pop().context("a connection")?;
            let mut service = ClusterServiceClient::new(channel);
            let asked = service.get_cluster_status(GetClusterStatusRequest {});
            match self.runtime.block_on(async { tokio::time::timeout(STATUS_LIMIT, asked).await }) {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => last = anyhow!("{}: {status}", member.name()),
                Err(_) => last = anyhow!("{}: nothing within {STATUS_LIMIT:?}", member.name()),
            }
        }
        Err(last)
    }

    /// The number of the member that leads, once all that run agree about it.
    ///
    /// # Errors
    /// When none leads in time.
    pub fn leader(&self) -> Result<usize> {
        let mut leader = None;
        wait_until(AGREE_LIMIT, "a leader", || {
            let Ok(status) = self.status() else { return Ok(false) };
            leader = status
                .members
                .iter()
                .find(|member| member.leader)
                .and_then(|member| self.number_of(name_of(member)))
                .filter(|number| self.members.get(*number).is_some_and(Member::is_started));
            Ok(leader.is_some())
        })
        .with_context(|| self.logs())?;
        leader.context("a leader")
    }

    /// A member that runs and does not lead.
    ///
    /// # Errors
    /// When there is none.
    pub fn follower(&self) -> Result<usize> {
        let leader = self.leader()?;
        let running = |number: &usize| self.members.get(*number).is_some_and(Member::is_started);
        (0..self.members.len()).filter(running).find(|number| *number != leader).context("a follower")
    }

    fn number_of(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name() == name)
    }

    /// Waits until the cluster says of itself that it is healthy: a leader, and every voter answers; all members vote.
    ///
    /// # Errors
    /// When it does not in time; with what it says instead, and the logs.
    pub fn wait_healthy(&self) -> Result<()> {
        let mut last = String::new();
        wait_until(AGREE_LIMIT, "a healthy cluster", || {
            let status = match self.status() {
                Ok(status) => status,
                Err(error) => {
                    last = format!("{error:#}");
                    return Ok(false);
                }
            };
            let voters = status.members.iter().filter(|member| member.part() == MemberPart::Voter).count();
            let started = self.members.iter().filter(|member| member.is_started()).count();
            last = format!("{status:#?}");
            Ok(status.healthy && voters == status.members.len() && voters >= started)
        })
        .with_context(|| format!("{last}\n{}", self.logs()))
    }

    /// Waits until all members have applied the same entries, and checks that they then have the same state.
    ///
    /// # Errors
    /// When they do not in time, or differ.
    pub fn wait_same_state(&self) -> Result<()> {
        let mut last = String::new();
        wait_until(AGREE_LIMIT, "the same state everywhere", || {
            let Ok(status) = self.status() else { return Ok(false) };
            last = format!("{status:#?}");
            let mut states: Vec<_> =
                status.members.iter().map(|member| (member.state_index, member.state_hash.clone())).collect();
            states.sort();
            states.dedup();
            let different = states.windows(2).any(|two| matches!(two, [a, b] if a.0 == b.0));
            ensure!(!different, "two members differ at one index: {states:?}");
            Ok(states.len() == 1)
        })
        .with_context(|| last.clone())
    }

    /// All that the members logged.
    #[must_use]
    pub fn logs(&self) -> String {
        self.members.iter().map(|member| format!("== {}\n{}\n", member.name(), member.log())).collect()
    }
}

fn name_of(member: &MemberStatus) -> &str {
    member.node.as_ref().map_or("", |node| node.name.as_str())
}

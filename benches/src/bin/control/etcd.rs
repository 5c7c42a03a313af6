//! A cluster of etcd on this machine, and the two calls of its API that are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postern_chaos::live::cluster::{ClientOptions, Failure, Members};
use postern_chaos::live::{Process, free_port, wait_until};
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// `etcdserverpb.PutRequest`: only what is sent.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// `etcdserverpb.PutResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

/// `etcdserverpb.StatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "5")]
    raft_index: u64,
}

/// Three members.
pub(crate) struct Etcd {
    members: Vec<Member>,
    tls: bool,
    folder: TempDir,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Process>,
}

/// A client of it.
#[derive(Clone)]
pub(crate) struct EtcdClient(Members);

impl Etcd {
    /// Starts it; with `tls` both clients and members show certificates, as Postern's do.
    pub(crate) fn start(tls: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("etcd-bench-").tempdir()?;
        make_certificates(folder.path())?;
        let member = || Ok(Member { client: free_port()?, peer: free_port()?, process: None });
        let members = (0..3).map(|_| member()).collect::<Result<_>>()?;
        let mut this = Self { members, tls, folder };
        for number in 0..3 {
            this.start_member(number)?;
        }
        this.leader()?;
        Ok(this)
    }

    /// Starts a member; it may not yet have caught up.
    pub(crate) fn start_member(&mut self, number: usize) -> Result<()> {
        let scheme = if self.tls { "https" } else { "http" };
        let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let members: Vec<String> =
            self.members.iter().enumerate().map(|(number, it)| format!("m{number}={}", url(it.peer))).collect();
        let member = self.members.get(number).context("a member")?;
        let folder = self.folder.path();
        let data = folder.join(format!("data-{number}"));
        let mut arguments: Vec<String> = Vec::new();
        let mut set = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
        set("name", format!("m{number}"));
        set("data-dir", data.display().to_string());
        set("listen-client-urls", url(member.client));
        set("advertise-client-urls", url(member.client));
        set("listen-peer-urls", url(member.peer));
        set("initial-advertise-peer-urls", url(member.peer));
        set("initial-cluster", members.join(","));
        set("initial-cluster-state", "new".to_owned());
        set("log-level", "error".to_owned());
        if self.tls {
            for side in ["", "peer-"] {
                set(&format!("{side}cert-file"), file(folder, "node.crt"));
                set(&format!("{side}key-file"), file(folder, "node.key"));
                set(&format!("{side}trusted-ca-file"), file(folder, "ca.crt"));
                set(&format!("{side}client-cert-auth"), "true".to_owned());
            }
        }
        let program = program()?;
        let process = Process::start(&format!("etcd-{number}"), &program, &arguments, &[], None, folder)?;
        self.members.get_mut(number).context("a member")?.process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        let process = self.members.get_mut(number).and_then(|member| member.process.take());
        process.context("a member that runs")?.kill9()
    }

    /// Process ids of the members that run.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.process.as_ref()).map(Process::id).collect()
    }

    /// A client of all members. Within a Tokio runtime.
    pub(crate) fn client(&self, options: ClientOptions) -> Result<EtcdClient> {
        let addresses: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect();
        let tls = if self.tls { Some(tls(self.folder.path())?) } else { None };
        Ok(EtcdClient(Members::new(&addresses, tls.as_ref(), options)?))
    }

    /// The number of the member that leads, once all that run agree and have caught up.
    pub(crate) fn leader(&self) -> Result<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _guard = runtime.enter();
        let options = ClientOptions {
            attempt: Duration::from_millis(500),
            limit: Duration::from_millis(500),
            ..Default::default()
        };
        let client = self.client(options)?;
        let mut leader = None;
        wait_until(Duration::from_secs(60), "a leader of etcd", || {
            let (mut said, mut own) = (Vec::new(), Vec::new());
            for (number, member) in self.members.iter().enumerate() {
                if member.process.is_none() {
                    continue;
                }
                let Ok(status) = runtime.block_on(client.status(number)) else { return Ok(false) };
                own.push((number, status.header.unwrap_or_default().member_id));
                said.push((status.leader, status.raft_index));
            }
            let Some((first, newest)) = said.iter().copied().max_by_key(|(_, index)| *index) else { return Ok(false) };
            if said.iter().any(|(one, index)| *one != first || *one == 0 || index + 100 < newest) {
                return Ok(false);
            }
            leader = own.iter().find(|(_, id)| *id == first).map(|(number, _)| *number);
            Ok(leader.is_some())
        })?;
        leader.context("a leader")
    }
}

impl EtcdClient {
    /// This member alone.
    pub(crate) fn only(&self, number: usize) -> Self {
        Self(self.0.only(number))
    }

    /// `KV.Put`.
    pub(crate) async fn put(&self, key: &str, value: &str) -> Result<(), Failure> {
        let request = PutRequest { key: key.as_bytes().to_vec(), value: value.as_bytes().to_vec() };
        let call = |channel| call(channel, "/etcdserverpb.KV/Put", request.clone());
        let _: PutResponse = self.0.ask(call).await?;
        Ok(())
    }

    async fn status(&self, number: usize) -> Result<StatusResponse, Failure> {
        self.0.only(number).ask(|channel| call(channel, "/etcdserverpb.Maintenance/Status", StatusRequest {})).await
    }
}

async fn call<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<Response<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await
}

/// What it is called and which version.
pub(crate) fn version() -> String {
    let said = program().map(|path| postern_benches::output_of(&path.display().to_string(), &["--version"]));
    said.unwrap_or_default().lines().next().unwrap_or_default().replace(" Version:", "")
}

fn program() -> Result<PathBuf> {
    let program = PathBuf::from("/usr/bin/etcd");
    ensure!(program.exists(), "etcd is not installed: run `scripts/bootstrap.sh bench`");
    Ok(program)
}

fn file(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

fn tls(folder: &Path) -> Result<ClientTlsConfig> {
    let read = |name: &str| fs::read_to_string(folder.join(name));
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("node.crt")?, read("node.key")?)))
}

/// One authority, and one certificate for all: ECDSA P-256, as Postern's authority makes them.
fn make_certificates(folder: &Path) -> Result<()> {
    let ca_key = rcgen::KeyPair::generate()?;
    let mut ca = rcgen::CertificateParams::new(Vec::new())?;
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "etcd");
    fs::write(folder.join("ca.crt"), ca.self_signed(&ca_key)?.pem())?;
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate()?;
    let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    leaf.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    fs::write(folder.join("node.crt"), leaf.signed_by(&key, &issuer)?.pem())?;
    fs::write(folder.join("node.key"), key.serialize_pem())?;
    Ok(())
}

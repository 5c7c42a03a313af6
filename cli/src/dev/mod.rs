//! `postern dev`: the control plane, a gateway, an agent and an issuer in one process, each as it runs in earnest: they meet over
//! mutual TLS and QUIC on loopback, with certificates of the cluster's own authority.

mod args;
mod issuer;
mod layout;
mod nodes;
mod ports;
mod token;

use std::path::Path;
use std::time::Duration;

use postern_proto::admin::v1::{ApplyRequest, ExchangeTokenRequest, GetRequest};
use postern_proto::resource::v1 as pb;
use postern_runtime::pki::NodeCredential;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::telemetry::{LogFormat, TelemetryConfig};
use tokio::net::TcpListener;

use self::args::DevOptions;
pub(crate) use self::args::{DevArgs, DevCommand};
use crate::args::ConnectionArgs;
use crate::client::{Client, Profile, Settings, refused};
use crate::failure::Failure;
use crate::{output, roles};
use issuer::{Claims, IssuerKey};
use layout::{Endpoints, Layout, write_json};

/// Name of the Issuer that stands for the development issuer, and of gateway, agent and pool.
const NAME: &str = "dev";
/// The audience of its tokens.
const AUDIENCE: &str = "postern";
const START_LIMIT: Duration = Duration::from_secs(60);
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(25);

pub(crate) async fn run(args: &DevArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let Some(data_dir) = &connection.data_dir else {
        return Err(Failure::usage("where to keep the data? give --data-dir, or set POSTERN_DATA_DIR"));
    };
    match &args.command {
        Some(DevCommand::Token(args)) => token::run(args, data_dir),
        None => serve(&args.options, data_dir).await,
    }
}

async fn serve(options: &DevOptions, data_dir: &Path) -> Result<(), Failure> {
    if !options.issuer_listen.ip().is_loopback() {
        return Err(Failure::usage(
            "the development issuer makes anybody of anyone: --issuer-listen must be on loopback",
        ));
    }
    roles::for_own_eyes();
    let layout = Layout::create(data_dir)?;
    let _lock = layout.lock()?;
    layout.retract();
    let telemetry = TelemetryConfig { log: options.log.clone(), format: LogFormat::Auto, ..Default::default() };
    let _guard = roles::init("dev", &telemetry)?;
    let endpoints = ports::choose(options, layout.last().as_ref())?;

    let supervisors = Supervisors { control: Supervisor::new(), data: Supervisor::new() };
    supervisors.data.heed_signals();
    let started = tokio::select! {
        started = tokio::time::timeout(START_LIMIT, start(options, &layout, &endpoints, &supervisors)) => {
            started.unwrap_or_else(|_| Err(Failure::failed("not everything was up in a minute: see the log")))
        }
        () = supervisors.until_shutdown() => Ok(()),
    };
    let up = started.and_then(|()| if supervisors.stopping() { Ok(()) } else { announce(&layout, &endpoints) });
    if up.is_err() {
        supervisors.data.request_shutdown("the start failed");
    }
    supervisors.until_shutdown().await;
    layout.retract();
    // The data plane first: its last recordings go to a control plane that still stands.
    let data = roles::end(&supervisors.data, DRAIN_LIMIT).await;
    let control = roles::end(&supervisors.control, DRAIN_LIMIT).await;
    up.and(data).and(control)
}

/// Control plane and issuer; gateway and agent. They end one after the other.
struct Supervisors {
    control: Supervisor,
    data: Supervisor,
}

impl Supervisors {
    /// A signal, or a part that cannot go on.
    async fn until_shutdown(&self) {
        tokio::select! {
            () = self.control.until_shutdown() => {}
            () = self.data.until_shutdown() => {}
        }
    }

    fn stopping(&self) -> bool {
        self.control.shutdown_token().is_cancelled() || self.data.shutdown_token().is_cancelled()
    }
}

async fn start(
    options: &DevOptions,
    layout: &Layout,
    endpoints: &Endpoints,
    supervisors: &Supervisors,
) -> Result<(), Failure> {
    let key = std::sync::Arc::new(IssuerKey::load_or_create(&layout.issuer_key())?);
    let listener = TcpListener::bind(endpoints.issuer).await.map_err(|error| {
        Failure::failed(format!("cannot listen on {} (--issuer-listen): {error}", endpoints.issuer))
    })?;
    let url = endpoints.issuer_url();
    let (serving, shutdown, served_url) = (key.clone(), supervisors.control.shutdown_token(), url.clone());
    supervisors.control.spawn("dev-issuer", OnEnd::StopNode, async move {
        serving.serve(listener, &served_url, shutdown).await;
    });

    let nodes = nodes::start(options, layout, endpoints, supervisors).await?;
    let credential_dir = &nodes.admin_credential;
    let profile = Profile {
        server: format!("https://{}", endpoints.admin),
        credential: relative(layout, credential_dir),
        ca: relative(layout, &credential_dir.join("ca.crt")),
    };
    write_json(&Profile::path(layout.root()), &profile)?;
    layout.remember(endpoints)?;

    let credential = NodeCredential::load(credential_dir).map_err(|error| Failure::failed(error.to_string()))?;
    let settings = Settings {
        server: profile.server,
        ca_pem: credential.ca_pem.clone(),
        token: None,
        key: None,
        credential: Some(credential),
        logged_in: false,
    };
    let client = Client::connect(&settings).await?;
    declare_issuer(&client, &url).await?;
    trusted(&client, &key, &url).await?;
    while !nodes.ready() {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The Issuer `dev` at `url`. Whatever else has been changed in it stays.
async fn declare_issuer(client: &Client, url: &str) -> Result<(), Failure> {
    let request = GetRequest { kind: pb::Kind::Issuer.into(), name: NAME.to_owned() };
    let mut resource = match client.resources().get(request).await {
        Ok(answer) => answer.into_inner().resource.unwrap_or_default(),
        Err(status) if status.code() == tonic::Code::NotFound => pb::Resource {
            metadata: Some(pb::Metadata { name: NAME.to_owned(), ..Default::default() }),
            spec: Some(pb::resource::Spec::Issuer(pb::IssuerSpec {
                audiences: vec![AUDIENCE.to_owned()],
                ..Default::default()
            })),
        },
        Err(status) => return Err(refused(status)),
    };
    match &mut resource.spec {
        Some(pb::resource::Spec::Issuer(spec)) if spec.url != url => url.clone_into(&mut spec.url),
        _ => return Ok(()),
    }
    let request = ApplyRequest {
        resources: vec![resource],
        request_id: postern_runtime::clock::request_id().to_string(),
        dry_run: false,
    };
    client.resources().apply(request).await.map_err(refused)?;
    Ok(())
}

/// Waits until a token of the development issuer is good: its keys have been fetched.
async fn trusted(client: &Client, key: &IssuerKey, url: &str) -> Result<(), Failure> {
    loop {
        let now = postern_runtime::clock::now();
        let subject_token = key.sign(&Claims {
            issuer: url,
            subject: "postern-dev-start",
            audience: AUDIENCE,
            groups: &[],
            issued_at: now,
            not_before: now,
            ttl: Duration::from_secs(60),
        })?;
        let request = ExchangeTokenRequest { subject_token, ttl_seconds: 60, ..Default::default() };
        match client.tokens().exchange_token(request).await {
            Ok(_) => return Ok(()),
            Err(status)
                if matches!(
                    status.code(),
                    tonic::Code::Unauthenticated | tonic::Code::InvalidArgument | tonic::Code::Unavailable
                ) =>
            {
                tokio::time::sleep(POLL).await;
            }
            Err(status) => return Err(refused(status)),
        }
    }
}

fn relative(layout: &Layout, path: &Path) -> std::path::PathBuf {
    path.strip_prefix(layout.root()).unwrap_or(path).to_owned()
}

/// Tells scripts and people that everything is up.
fn announce(layout: &Layout, endpoints: &Endpoints) -> Result<(), Failure> {
    layout.announce(endpoints)?;
    let dir = layout.root().display();
    let (host, port) = (endpoints.postgres.ip(), endpoints.postgres.port());
    let greeting = format!(
        "\
postern dev is ready.

  clients of PostgreSQL  {host}:{port}
  public API             https://{}
  development issuer     {}
  health and metrics     http://{}

In another shell:

  export POSTERN_DATA_DIR={dir}
  postern apply -f FILE.yaml
  export PGPASSWORD=$(postern dev token --subject alice --group analysts)
  psql \"host={host} port={port} user=TARGET dbname=DATABASE\"

Ctrl-C stops it; what it knows stays in {dir}.",
        endpoints.admin,
        endpoints.issuer_url(),
        endpoints.ops,
    );
    // Whoever does not read it does not need it.
    let _ = output::line(greeting);
    Ok(())
}

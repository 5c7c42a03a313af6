//! What the command line takes about session tokens.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use postern_core::Name;
use postern_core::policy::{ActionPattern, Pattern};
use postern_core::scope::{Network, Scope};
use postern_core::token::MAX_DEPTH;
use postern_proto::resource::v1::NewJob;

use crate::args::OutputArgs;
use crate::manifest::parse_duration;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: Option<TokenCommand>,
    /// For this service account, by its key: no other token is needed.
    #[arg(long, value_name = "NAME", requires = "key")]
    pub(crate) service_account: Option<Name>,
    /// The service account's private key (PKCS#8, PEM; Ed25519 or P-256).
    #[arg(long, value_name = "FILE", requires = "service_account")]
    pub(crate) key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) new: NewTokenArgs,
    #[command(flatten)]
    pub(crate) tied: TiedArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a narrower child of the token in POSTERN_TOKEN or --token-file, by the delegation key that this one names, and prints it.
    /// Nobody is asked.
    Child {
        /// The private key, as --delegate wrote it (PKCS#8, PEM).
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[command(flatten)]
        new: Box<NewTokenArgs>,
    },
    /// Shows what the token in POSTERN_TOKEN or --token-file says, without asking whether it is believed.
    Show {
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// How a new token is narrower than what it is made from, and who has it.
#[derive(Debug, Args)]
pub(crate) struct NarrowArgs {
    /// Good for this target only; may be given again. Default: all that policy permits.
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Vec<Name>,
    /// Good for this only, "sql:select" or "sql:*"; may be given again.
    #[arg(long, value_name = "ACTION", value_parser = parse_action)]
    pub(crate) action: Vec<ActionPattern>,
    /// Good for what is done to this only, as policies name it: "public.orders"; may be given again.
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern)]
    pub(crate) resource: Vec<Pattern>,
    /// Good only from this address or network, "10.0.0.0/8"; may be given again.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Vec<Network>,
    /// Carries this role of the control plane, where whoever it is made from has it or more; may be given again. Default: none, once it is narrowed or
    /// handed on.
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Vec<Name>,
    /// Good for so many sessions, counted over all gateways, with those of all that is made of it. Default: any number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: Option<u32>,
    /// Who is handed it: the name is in every record of what is done by it. Default: whoever has the token that it is made from.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) actor: Option<String>,
}

/// What a new token is to be good for.
#[derive(Debug, Args)]
pub(crate) struct NewTokenArgs {
    #[command(flatten)]
    pub(crate) narrow: NarrowArgs,
    /// How long it is good for: 15m, 1h. At most as long as the token that it is made from. Default: as is usual of its issuer, 15m where nothing is.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Good only for who shows this client certificate (PEM) in TLS. Default: bound as the token that it is made from, if that is.
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
    /// Makes a delegation key, and writes the private one to this new file (0600): who has both makes children with `token child`. The token
    /// itself is shown to nobody then, only its children.
    #[arg(long, value_name = "FILE")]
    pub(crate) delegate: Option<PathBuf>,
    /// How often it may be handed on so.
    #[arg(long, requires = "delegate", default_value_t = MAX_DEPTH, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_DEPTH)))]
    pub(crate) depth: u8,
}

/// What a token is tied to.
#[derive(Debug, Args)]
pub(crate) struct TiedArgs {
    /// Ties the token to a job of this name: it ends with `postern job end`, or when no `postern job beat` comes in time.
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<String>,
    /// How long the job may go unheard of: 5s to 1h.
    #[arg(long, requires = "job", default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) heartbeat: Duration,
}

impl TiedArgs {
    pub(crate) fn to_proto(&self) -> Option<NewJob> {
        self.job.as_ref().map(|name| new_job(name, self.heartbeat))
    }
}

/// The server says what a name and a heartbeat may be.
pub(crate) fn new_job(name: &str, heartbeat: Duration) -> NewJob {
    // Zero would be the server's own choice.
    let heartbeat_seconds = u32::try_from(heartbeat.as_secs()).unwrap_or(u32::MAX).max(1);
    NewJob { name: name.to_owned(), heartbeat_seconds }
}

impl NarrowArgs {
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            targets: self.target.iter().cloned().collect(),
            actions: self.action.clone(),
            resources: self.resource.clone(),
            networks: self.network.clone(),
            roles: self.role.iter().map(|role| role.as_str().into()).collect(),
            uses: self.uses,
        }
    }
}

fn parse_action(text: &str) -> Result<ActionPattern, String> {
    ActionPattern::parse(text).ok_or_else(|| "not an action: say \"sql:select\", or \"sql:*\"".to_owned())
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| error.to_string())
}
/// A login.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The Issuer to log in at. Default: the only one that people log in at.
    #[arg(long, value_name = "ISSUER", conflicts_with = "saml")]
    pub(crate) issuer: Option<Name>,
    /// An Issuer of SAML assertions to log in at.
    #[arg(long, value_name = "ISSUER")]
    pub(crate) saml: Option<Name>,
    /// Shows a code to enter on another device, where there is no browser here.
    #[arg(long, conflicts_with = "saml")]
    pub(crate) device: bool,
    /// Shows where to log in, and opens no browser.
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// The port on 127.0.0.1 that the browser comes back to, for an identity provider that wants to know it. Default: any.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) port: u16,
    /// How the identity provider shall have made sure who it is (`acr`), as a policy demands it; may be given again, the best first.
    #[arg(long, value_name = "ACR")]
    pub(crate) acr: Vec<String>,
    /// Asks for a login at the identity provider that is not longer ago than this: 5m; 0s for one now.
    #[arg(long, value_name = "AGE", value_parser = parse_duration)]
    pub(crate) max_age: Option<Duration>,
    /// How long to wait for the login.
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Where browsers reach the control plane, https://HOST[:PORT], when it is not as the control plane says (--saml).
    #[arg(long, env = "POSTERN_WEB", value_name = "URL")]
    pub(crate) web: Option<String>,
    /// Good for this target only; may be given again. Default: all that policy permits.
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Vec<String>,
    /// How long a token is good for: 15m, 1h. At most as long as what the identity provider gave. It is renewed by itself where the provider gave a
    /// refresh token. Default: as is usual of the issuer, 1h where nothing is.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Prints the session token, and keeps nothing: for `$(...)`.
    #[arg(long)]
    pub(crate) print: bool,
}

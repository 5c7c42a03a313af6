//! What the command line takes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use postern_core::resource::Kind;

use crate::access_args::AccessCommand;
use crate::approval_args::{ApprovalsCommand, WebhooksCommand};
use crate::client_args::{EnvArgs, ExecArgs, ProxyArgs};
use crate::cluster_args::{ClusterCommand, ControlArgs, FleetCommand};
use crate::dev::DevArgs;
use crate::job_args::JobCommand;
use crate::log_args::{LogCommand, VerifyArgs};
use crate::manifest::parse_duration;
use crate::policy_args::PolicyCommand;
use crate::review_args::ReviewCommand;
use crate::revoke_args::{RevocationsCommand, RevokeCommand};
use crate::session_args::SessionsCommand;
use crate::token_args::{LoginArgs, TokenArgs};

/// Postern: an identity-aware gateway that decides, masks, holds and records every operation.
#[derive(Debug, Parser)]
#[command(name = "postern", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the control plane. Tokens come from POSTERN_TOKEN or a file, never from an argument: arguments are for all to see.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// The control plane, https://HOST:PORT; or several members with commas between: the first that answers is asked.
    #[arg(long, global = true, env = "POSTERN_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The cluster's certificate authority, a PEM file.
    #[arg(long, global = true, env = "POSTERN_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// A folder with an administrator's certificate: node.crt, node.key, ca.crt.
    #[arg(long, global = true, env = "POSTERN_CREDENTIAL", value_name = "DIR")]
    pub(crate) credential: Option<PathBuf>,
    /// A file with a token to act by; otherwise POSTERN_TOKEN, otherwise the login's. A token goes before a certificate.
    #[arg(long, global = true, env = "POSTERN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The private key (PKCS#8, PEM; Ed25519 or P-256) that the token is bound to, or a new one is to be: each call is proven by it (DPoP).
    #[arg(long, global = true, env = "POSTERN_DPOP_KEY", value_name = "FILE")]
    pub(crate) dpop_key: Option<PathBuf>,
    /// The folder of a `postern dev`: tells server, authority and certificate.
    #[arg(long, global = true, env = "POSTERN_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process, to try and to develop with: control plane, gateway, agent and an issuer.
    Dev(Box<DevArgs>),
    /// Runs a control-plane node; or founds a cluster, joins one, saves and restores one.
    Control(ControlArgs),
    /// Runs a gateway.
    Gateway(RoleArgs),
    /// Runs an agent.
    Agent(RoleArgs),
    /// Creates or changes the objects of files, all or none.
    Apply(ApplyArgs),
    /// Lists objects of a kind, or shows one.
    Get {
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        name: Option<String>,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Shows all of an object.
    Describe {
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Deletes an object.
    Delete {
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        name: String,
        /// Only if it is still at this revision.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        revision: u64,
    },
    /// Held operations: list, show, approve, deny.
    #[command(subcommand)]
    Approvals(ApprovalsCommand),
    /// Reviews after the fact, of what was done in an emergency: list, show, close.
    #[command(subcommand)]
    Review(ReviewCommand),
    /// Webhooks: how deliveries to them go. They are declared by `apply`.
    #[command(subcommand)]
    Webhooks(WebhooksCommand),
    /// Access on request, for a while: request, list, show, approve, deny, end.
    #[command(subcommand)]
    Access(AccessCommand),
    /// The log of who administered what: list, export, verify.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Policies: validate, test, explain, diff against what was recorded.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Recorded sessions: list, show, replay, verify, export.
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// The log of recordings, which proves that none was changed or left out: its head, key, proofs; export of all between two heads.
    #[command(subcommand)]
    Log(LogCommand),
    /// Verifies exported recordings, and exports of the log, offline: public keys are enough.
    Verify(VerifyArgs),
    /// Exchanges the token in POSTERN_TOKEN or --token-file, or the login's, for a session token, and prints it.
    Token(TokenArgs),
    /// Logs you in at an identity provider, in a browser or on another device. All commands act by that login then.
    Login(LoginArgs),
    /// Ends the login: forgets it here, and has the identity provider forget it.
    Logout,
    /// Ends tokens before their time, on every gateway and for open sessions, too.
    #[command(subcommand)]
    Revoke(RevokeCommand),
    /// Tokens that are revoked: list.
    #[command(subcommand)]
    Revocations(RevocationsCommand),
    /// Prints how to connect to a target, for programs that read it from their environment or from a service file: with a fresh token.
    Env(EnvArgs),
    /// Runs a command with a fresh token for a target in its environment, and revokes it when the command ends: exec shop -- psql
    Exec(ExecArgs),
    /// Jobs, whose tokens end with them: run, start, beat, end, list, show.
    #[command(subcommand)]
    Job(JobCommand),
    /// Listens on this machine for clients of a target, and gives each of their connections a fresh token.
    Proxy(ProxyArgs),
    /// Whom the control plane takes you for.
    Whoami {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Certificates of nodes.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// The control plane's members, and who is let in.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Gateways and agents, as they are connected now.
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// What secrets are sealed under.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Prints completions for a shell.
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// The role's configuration, TOML.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A file, a folder of .yaml files, or - for standard input; may be given again.
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Checks everything, also at the control plane, and changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which objects, and in which order.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only objects with such labels: env=prod,tier!=db,owner,!legacy,region in (eu,us).
    #[arg(short = 'l', long = "selector", default_value = "", hide_default_value = true, value_name = "SELECTOR")]
    pub(crate) selector: String,
    /// By name, created or updated; with " desc" the other way round.
    #[arg(long, default_value = "name", value_name = "FIELD")]
    pub(crate) sort: String,
    /// Goes on with every change, until it is stopped.
    #[arg(short = 'w', long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// The newest records.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        filter: AuditFilter,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Saves all records that are kept, one line of JSON each, oldest first.
    Export {
        /// The file; - for standard output.
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: PathBuf,
    },
    /// Proves that no record is missing or was changed: of an export, or of what the control plane has now.
    Verify {
        /// An export; nothing is asked of the control plane then.
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Default, Args)]
pub(crate) struct AuditFilter {
    /// Only calls of this principal, ISSUER/SUBJECT.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) principal: String,
    /// Only calls with this certificate, NAME.ROLE.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) certificate: String,
    /// Only this method: Apply, or ResourceService/Apply.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) method: String,
    /// Only calls about this object, Target/db, or kind of object.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) object: String,
    /// Only calls that ended so: OK, PERMISSION_DENIED; !OK for all that were refused.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) code: String,
    /// Only of the last 1h, 7d.
    #[arg(long, value_parser = parse_duration, value_name = "AGE")]
    pub(crate) since: Option<std::time::Duration>,
    /// Only before that: 10m ago.
    #[arg(long, value_parser = parse_duration, value_name = "AGE")]
    pub(crate) until: Option<std::time::Duration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// How to print.
    #[arg(short = 'o', long = "output", value_enum)]
    pub(crate) format: Option<Format>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Puts the data keys of all secrets under the current key-encryption key, while all goes on.
    RotateKek {
        /// Only tells which keys secrets are under.
        #[arg(long)]
        status: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Makes a key here, has its certificate signed, and writes both into a folder. The key never leaves this machine.
    Issue {
        #[arg(long, value_enum)]
        role: CertRole,
        #[arg(long)]
        name: String,
        /// For an agent: the pool that it serves.
        #[arg(long)]
        pool: Option<String>,
        /// A further DNS name or IP address in the certificate; may be given again.
        #[arg(long = "alt-name", value_name = "NAME")]
        alt_names: Vec<String>,
        /// The folder for node.crt, node.key and ca.crt.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Prints the cluster's certificate authority.
    Ca,
    /// Certificates that have not ended by themselves.
    List {
        /// Only of this role.
        #[arg(long, value_enum)]
        role: Option<CertRole>,
        /// Only of this name.
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Ends certificates at once, and closes what is open by them.
    Revoke {
        /// Serial numbers; or all of a node by --role and --name.
        serials: Vec<String>,
        #[arg(long, value_enum, requires = "name")]
        role: Option<CertRole>,
        #[arg(long, requires = "role")]
        name: Option<String>,
        /// Why; kept with the certificate.
        #[arg(long, default_value = "")]
        because: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CertRole {
    Control,
    Gateway,
    Agent,
    Admin,
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let plain: String = text.to_ascii_lowercase().chars().filter(|c| !matches!(c, '-' | '_')).collect();
    match plain.as_str() {
        "issuer" | "issuers" => Ok(Kind::Issuer),
        "target" | "targets" => Ok(Kind::Target),
        "policy" | "policies" => Ok(Kind::Policy),
        "maskingrule" | "maskingrules" => Ok(Kind::MaskingRule),
        "secret" | "secrets" => Ok(Kind::Secret),
        "role" | "roles" => Ok(Kind::Role),
        "rolebinding" | "rolebindings" => Ok(Kind::RoleBinding),
        "serviceaccount" | "serviceaccounts" => Ok(Kind::ServiceAccount),
        "webhook" | "webhooks" => Ok(Kind::Webhook),
        _ => Err("expected issuer, target, policy, maskingrule, secret, role, rolebinding, serviceaccount or webhook"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::DevCommand;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_parse() {
        for line in [
            "postern dev --data-dir /tmp/x --postgres-listen 127.0.0.1:0",
            "postern dev token --subject alice --group a,b --group c",
            "postern --data-dir /tmp/x dev token --subject alice",
            "postern control --config c.toml",
            "postern apply -f a.yaml -f dir -f - --dry-run",
            "postern get masking-rules -o yaml",
            "postern get Target db -o json",
            "postern get targets -l env=prod,!old --sort updated -w",
            "postern audit list --code !OK --since 1h",
            "postern audit verify",
            "postern describe policy p",
            "postern delete policy p --revision 7",
            "postern approvals approve apr_x --comment ok",
            "postern review list --overdue",
            "postern review close rev_x --verdict concern --comment why",
            "postern access request --target db --reason x --for 30m --wait",
            "postern job run -- make test",
            "postern job run shop --heartbeat 10s --name nightly --target other --action sql:select --as ci --ttl 8h -- psql -c x",
            "postern job start --name x --heartbeat 1m",
            "postern job end tok_x --because done",
            "postern token --job x --heartbeat 10s --target db",
            "postern access request --target db --policy p --reason x --wait=10m -o json",
            "postern access list --mine --pending",
            "postern access show acc_x --wait=1m",
            "postern access end acc_x --because done",
            "postern sessions verify file.rec --ca ca.crt",
            "postern sessions export ses_x -o out.rec",
            "postern token --target db --ttl 5m",
            "postern token --dpop-key k --certificate c.crt",
            "postern token --service-account nightly --key k --target db",
            "postern certs issue --role agent --name a1 --pool lab --out dir",
            "postern completions bash",
            "postern control run --config c.toml",
            "postern control init --config c.toml --token-out t",
            "postern control join --config c.toml --token-file t --peer a:1 --peer b:2",
            "postern control backup --out f",
            "postern control restore --config c.toml --in f",
            "postern cluster token create --role gateway --serves env=prod --ttl 1h --uses 2",
            "postern cluster remove c2 --force",
            "postern cluster transfer-leader",
            "postern fleet agents --pool lab --gateway g1 -o json",
            "postern certs revoke --role gateway --name g1 --because lost",
            "postern login",
            "postern login --issuer corp --device --ttl 8h",
            "postern login --saml corp --print",
            "postern login --acr gold --max-age 0s --no-browser --port 8400",
            "postern logout",
            "postern env shop --format fish --passfile",
            "postern env shop --write --gateway a:1,b:2",
            "postern exec shop --ttl 2h --as job -- psql -c SELECT",
            "postern proxy shop --port 0 --socket /tmp/x",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|error| error.to_string()));
        }
        for line in [
            "postern",
            "postern get nonsense",
            "postern apply",
            "postern token --ttl 5",
            "postern --token x whoami",
            "postern token --service-account nightly",
            "postern token --key k",
            "postern exec shop",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn groups_add_up() {
        let Command::Dev(dev) = parse("postern dev token --subject s --group a,b --group c").unwrap().command else {
            panic!("dev")
        };
        let Some(DevCommand::Token(token)) = dev.command else { panic!("token") };
        assert_eq!(token.groups, ["a", "b", "c"]);
    }
}

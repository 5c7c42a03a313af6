//! `postern cluster`.

use std::path::Path;

use postern_core::wire::cluster::role_from_proto;
use postern_proto::admin::v1::{
    CreateJoinTokenRequest, DeleteJoinTokenRequest, ListJoinTokensRequest, PromoteMemberRequest, RemoveMemberRequest,
    TransferLeaderRequest,
};
use postern_proto::resource::v1 as pb;
use postern_runtime::clock;
use postern_runtime::pki::NodeCredential;
use postern_server::cluster::{Applicant, JoiningKey, redeem};
use serde_json::json;

use super::certs::node_role;
use super::{cluster_status, control, signing, when};
use crate::args::{ConnectionArgs, Format};
use crate::client::{connect, refused, servers};
use crate::cluster_args::{ClusterCommand, CreateTokenArgs, TokenCommand};
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(command: &ClusterCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        ClusterCommand::Token(TokenCommand::Create(args)) => create_token(args, connection).await,
        ClusterCommand::Token(TokenCommand::List { output }) => list_tokens(output.format, connection).await,
        ClusterCommand::Token(TokenCommand::Delete { id }) => {
            let request = DeleteJoinTokenRequest { id: id.clone(), request_id: clock::request_id().to_string() };
            connect(connection).await?.cluster().delete_join_token(request).await.map_err(refused)?;
            output::line(format!("join token {id} is taken back"))
        }
        ClusterCommand::Redeem { name, alt_names, out } => redeem_token(name, alt_names, out, connection).await,
        ClusterCommand::Status { output } => cluster_status::status(output.format, connection).await,
        ClusterCommand::RotateSigningKey(args) => signing::rotate(args, connection).await,
        ClusterCommand::Members { output } => cluster_status::members(output.format, connection).await,
        ClusterCommand::Remove { member, force } => {
            if *force {
                output::note(
                    "--force: if those that stay are no majority, the cluster stands still until they come back",
                );
            }
            let request = RemoveMemberRequest {
                member: member.clone(),
                force: *force,
                request_id: clock::request_id().to_string(),
            };
            let answer = connect(connection).await?.cluster().remove_member(request).await.map_err(refused)?;
            let id = answer.into_inner().id;
            output::line(format!("member {id} is out for good: it stops, and its certificates are revoked"))
        }
        ClusterCommand::Promote { member } => {
            let request = PromoteMemberRequest { member: member.clone(), request_id: clock::request_id().to_string() };
            let answer = connect(connection).await?.cluster().promote_member(request).await.map_err(refused)?;
            output::line(format!("member {} votes", answer.into_inner().id))
        }
        ClusterCommand::TransferLeader { member } => {
            let request = TransferLeaderRequest { member: member.clone().unwrap_or_default() };
            let answer = connect(connection).await?.cluster().transfer_leader(request).await.map_err(refused)?;
            output::line(format!("member {} leads", answer.into_inner().leader_id))
        }
    }
}

pub(super) fn role_name(role: i32) -> String {
    role_from_proto(role).map(|role| role.as_str().to_owned()).unwrap_or_default()
}

/// Prints the token and nothing else: it is meant for a file.
async fn create_token(args: &CreateTokenArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let serves = if args.serves.is_empty() {
        None
    } else {
        let label = |text: &String| {
            let parts = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            parts.ok_or_else(|| Failure::usage(format!("--serves takes KEY=VALUE, not {text:?}")))
        };
        let labels = args.serves.iter().map(label).collect::<Result<_, _>>()?;
        Some(pb::TargetSelector { labels, ..Default::default() })
    };
    let request = CreateJoinTokenRequest {
        role: node_role(args.role).into(),
        ttl_seconds: u32::try_from(args.ttl.as_secs()).unwrap_or(u32::MAX),
        uses: args.uses,
        name: args.name.clone(),
        agent_pool: args.pool.clone(),
        serves,
        learner: args.learner,
        request_id: clock::request_id().to_string(),
    };
    let answer = connect(connection).await?.cluster().create_join_token(request).await.map_err(refused)?.into_inner();
    if let Some(token) = &answer.join_token {
        output::note(format!("join token {}: good until {}", token.id, when(token.expires_at.as_ref())));
    }
    output::line(answer.token)
}

async fn list_tokens(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListJoinTokensRequest { page_size: 0, page_token };
        let answer = client.cluster().list_join_tokens(request).await.map_err(refused)?.into_inner();
        all.extend(answer.join_tokens);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match format.unwrap_or_default() {
        Format::Table => {
            let row = |token: &pb::JoinToken| {
                let only = if token.name.is_empty() { "any".to_owned() } else { token.name.clone() };
                let until = when(token.expires_at.as_ref());
                let (role, uses) = (role_name(token.role), token.uses_left.to_string());
                vec![token.id.clone(), role, only, uses, until, token.created_by.clone()]
            };
            let rows: Vec<_> = all.iter().map(row).collect();
            output::table(&["ID", "ROLE", "NAME", "USES LEFT", "UNTIL", "MADE BY"], &rows)
        }
        format => {
            let value = |token: &pb::JoinToken| {
                let serves = token.serves.as_ref().map(|serves| json!(serves.labels));
                json!({
                    "id": token.id, "role": role_name(token.role), "name": token.name, "agentPool": token.agent_pool,
                    "usesLeft": token.uses_left, "expiresAt": when(token.expires_at.as_ref()),
                    "createdAt": when(token.created_at.as_ref()), "createdBy": token.created_by,
                    "serves": serves, "learner": token.learner,
                })
            };
            let values: Vec<_> = all.iter().map(value).collect();
            if format == Format::Yaml { output::yaml(&values) } else { output::json(&json!(values)) }
        }
    }
}

async fn redeem_token(
    name: &str,
    alt_names: &[String],
    out: &Path,
    connection: &ConnectionArgs,
) -> Result<(), Failure> {
    let token = control::join_token(connection)?;
    // Half of a credential is left by who was interrupted, and has the key to go on by.
    if NodeCredential::exists(out) || (out.join("node.key").exists() && !JoiningKey::is_kept(out)) {
        return Err(Failure::failed(format!("{} already holds a key", out.display())));
    }
    let Some(server) = &connection.server else {
        return Err(Failure::usage("which control plane? give --server https://HOST:PORT"));
    };
    let address = |server: &str| server.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let addresses: Vec<String> = servers(server).into_iter().map(address).collect();
    let key = JoiningKey::Kept(out.to_owned());
    let applicant = Applicant { name: name.to_owned(), alt_names: alt_names.to_vec(), key, node: None };
    let admitted =
        redeem(&addresses, &token, applicant, |_| Ok(())).await.map_err(|error| Failure::failed(error.to_string()))?;
    admitted.credential.save(out).map_err(|error| Failure::failed(format!("{}: {error}", out.display())))?;
    JoiningKey::done(out);
    let identity = admitted.credential.identity().map(|identity| identity.to_string()).unwrap_or_default();
    let until = when(admitted.answer.not_after.as_ref());
    output::line(format!("{}: node.crt, node.key and ca.crt of {identity} written; good until {until}", out.display()))
}

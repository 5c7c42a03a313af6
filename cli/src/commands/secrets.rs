//! `postern secrets`.

use postern_proto::admin::v1::{GetKekStatusRequest, GetKekStatusResponse, RotateKekRequest, RotateKekResponse};
use serde_json::json;

use crate::args::{ConnectionArgs, Format, SecretsCommand};
use crate::client::{connect, refused};
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(command: &SecretsCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        SecretsCommand::RotateKek { status: true, output } => status(output.format, connection).await,
        SecretsCommand::RotateKek { status: false, output } => rotate(output.format, connection).await,
    }
}

async fn status(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let status = client.secrets().get_kek_status(GetKekStatusRequest {}).await.map_err(refused)?.into_inner();
    let value = as_json(&status);
    match format.unwrap_or_default() {
        Format::Json => return output::json(&value),
        Format::Yaml => return output::yaml(&[value]),
        Format::Table => {}
    }
    let rows: Vec<Vec<String>> = status
        .uses
        .iter()
        .map(|one| {
            let mut note = Vec::new();
            if one.kek_id == status.current_kek_id && one.key_version == status.current_key_version {
                note.push("current");
            }
            if !one.known {
                note.push("not configured here");
            }
            vec![one.kek_id.clone(), version(one.key_version), one.count.to_string(), note.join(", ")]
        })
        .collect();
    output::table(&["KEY", "VERSION", "SEALED", ""], &rows)?;
    if !status.members.is_empty() {
        let rows: Vec<Vec<String>> =
            status.members.iter().map(|member| vec![member.node.clone(), member.kek_ids.join(", ")]).collect();
        output::line("")?;
        output::table(&["MEMBER", "OPENS WITH"], &rows)?;
    }
    if !status.fault.is_empty() {
        output::note(format!("the current key cannot be used now: {}", status.fault));
    }
    output::note(match status.left {
        0 => "all are under the current key".to_owned(),
        left => format!("{left} are not under the current key: postern secrets rotate-kek"),
    });
    Ok(())
}

fn version(number: u32) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

fn as_json(status: &GetKekStatusResponse) -> serde_json::Value {
    let uses = status
        .uses
        .iter()
        .map(|one| json!({"key": one.kek_id, "version": one.key_version, "sealed": one.count, "known": one.known}));
    let members = status.members.iter().map(|one| json!({"node": one.node, "keys": one.kek_ids}));
    json!({
        "current": status.current_kek_id, "version": status.current_key_version, "left": status.left, "fault": status.fault,
        "uses": uses.collect::<Vec<_>>(), "members": members.collect::<Vec<_>>(),
    })
}

async fn rotate(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let mut answers = client.secrets().rotate_kek(RotateKekRequest {}).await.map_err(refused)?.into_inner();
    let mut last: Option<RotateKekResponse> = None;
    while let Some(answer) = answers.message().await.map_err(|status| {
        let done = last.as_ref().map_or(0, |last| last.changed);
        output::note(format!("broken off after {done}; what is done stays done: run it again"));
        refused(status)
    })? {
        if !answer.done {
            output::note(format!("{} done, {} left", answer.changed, answer.left));
        }
        last = Some(answer);
    }
    let last = last
        .filter(|last| last.done)
        .ok_or_else(|| Failure::failed("the answer ended early; what is done stays done: run it again"))?;
    let faults = last.faults.iter().map(|fault| json!({"of": fault.of, "message": fault.message}));
    let value = json!({
        "key": last.kek_id, "changed": last.changed, "left": last.left, "faults": faults.collect::<Vec<_>>(),
    });
    match format.unwrap_or_default() {
        Format::Json => output::json(&value)?,
        Format::Yaml => output::yaml(&[value])?,
        Format::Table => {
            output::line(format!("{} put under {}, {} left", last.changed, last.kek_id, last.left))?;
            for fault in &last.faults {
                output::note(format!("{}: {}", fault.of, fault.message));
            }
        }
    }
    if last.left > 0 { Err(Failure::failed("some are not under the current key")) } else { Ok(()) }
}

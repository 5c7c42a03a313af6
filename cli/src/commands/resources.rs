//! `postern get`, `describe` and `delete`.

use postern_core::resource::Kind;
use postern_core::wire::resource::kind_to_proto;
use postern_proto::admin::v1::{DeleteRequest, GetRequest, ListRequest};
use postern_proto::resource::v1 as pb;

use super::watch::watch;
use super::{summary, when};
use crate::args::{ConnectionArgs, Format, ListArgs};
use crate::client::{connect, every_page, refused};
use crate::failure::Failure;
use crate::manifest::render;
use crate::output;

pub(crate) async fn get(
    kind: Kind,
    name: Option<&str>,
    list: &ListArgs,
    format: Option<Format>,
    connection: &ConnectionArgs,
) -> Result<(), Failure> {
    if list.watch {
        return watch(connection, kind, name.unwrap_or(""), &list.selector, format.unwrap_or_default()).await;
    }
    let client = connect(connection).await?;
    let (resources, alone) = match name {
        Some(name) => (vec![fetch(&client, kind, name).await?], true),
        None => {
            let request = ListRequest {
                kind: kind_to_proto(kind).into(),
                label_selector: list.selector.clone(),
                order_by: list.sort.clone(),
                ..Default::default()
            };
            (all(&client, request).await?, false)
        }
    };
    match format.unwrap_or_default() {
        Format::Table => table(kind, &resources),
        Format::Json => match resources.as_slice() {
            [one] if alone => output::json(&render(one)),
            all => output::json(&all.iter().map(render).collect()),
        },
        Format::Yaml => output::yaml(&resources.iter().map(render).collect::<Vec<_>>()),
    }
}

pub(crate) async fn describe(
    kind: Kind,
    name: &str,
    format: Option<Format>,
    connection: &ConnectionArgs,
) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let shown = render(&fetch(&client, kind, name).await?);
    match format {
        Some(Format::Json) => output::json(&shown),
        _ => output::yaml(&[shown]),
    }
}

pub(crate) async fn delete(
    kind: Kind,
    name: &str,
    expected_revision: u64,
    connection: &ConnectionArgs,
) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let request = DeleteRequest {
        kind: kind_to_proto(kind).into(),
        name: name.to_owned(),
        expected_revision,
        request_id: postern_runtime::clock::request_id().to_string(),
        dry_run: false,
    };
    client.resources().delete(request).await.map_err(refused)?;
    output::line(format!("{}/{name} deleted", kind.as_str().to_ascii_lowercase()))
}

/// Every page of a list.
pub(crate) async fn all(client: &crate::client::Client, request: ListRequest) -> Result<Vec<pb::Resource>, Failure> {
    let all = every_page(async |page_token| {
        let page = client.resources().list(ListRequest { page_token, ..request.clone() }).await?.into_inner();
        Ok((page.resources, page.next_page_token))
    });
    all.await
}

async fn fetch(client: &crate::client::Client, kind: Kind, name: &str) -> Result<pb::Resource, Failure> {
    let request = GetRequest { kind: kind_to_proto(kind).into(), name: name.to_owned() };
    let answer = client.resources().get(request).await.map_err(refused)?.into_inner();
    answer.resource.ok_or_else(|| Failure::failed("the control plane answered without the object"))
}

fn table(kind: Kind, resources: &[pb::Resource]) -> Result<(), Failure> {
    let columns = summary::columns(kind);
    let heading: Vec<&str> =
        ["NAME"].into_iter().chain(columns.iter().copied()).chain(["REVISION", "UPDATED"]).collect();
    let row = |resource: &pb::Resource| {
        let metadata = resource.metadata.clone().unwrap_or_default();
        let mut row = vec![metadata.name];
        row.extend(summary::cells(resource));
        row.push(metadata.revision.to_string());
        row.push(when(metadata.updated_at.as_ref()));
        row
    };
    if resources.is_empty() {
        output::note(format!("no {} is declared", kind.as_str()));
        return Ok(());
    }
    output::table(&heading, &resources.iter().map(row).collect::<Vec<_>>())
}

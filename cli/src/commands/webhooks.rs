//! `postern webhooks`.

use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1::ListWebhookStatusesRequest;
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::when;
use crate::approval_args::WebhooksCommand;
use crate::args::{ConnectionArgs, Format};
use crate::client::{connect, refused};
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(command: &WebhooksCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let answer = client.webhooks().list_webhook_statuses(ListWebhookStatusesRequest {}).await.map_err(refused)?;
    let statuses = answer.into_inner().statuses;
    match command {
        WebhooksCommand::List { output } => list(&statuses, output.format),
        WebhooksCommand::Show { name, output } => {
            let found: Vec<_> = statuses.into_iter().filter(|status| status.name == *name).collect();
            if found.is_empty() {
                return Err(Failure::usage(format!("there is no Webhook {name}")));
            }
            list(&found, output.format)
        }
    }
}

fn list(statuses: &[pb::WebhookStatus], format: Option<Format>) -> Result<(), Failure> {
    let row = |status: &pb::WebhookStatus| {
        let failure = match (&*status.failure, status.failed_at.as_ref()) {
            ("", _) | (_, None) => String::new(),
            (failure, at) => format!("{}: {failure}", when(at)),
        };
        vec![
            status.name.clone(),
            status.waiting.to_string(),
            status.delivered.to_string(),
            status.dropped.to_string(),
            status.delivered_at.as_ref().map(|at| when(Some(at))).unwrap_or_default(),
            failure,
        ]
    };
    let heading = ["NAME", "WAITING", "DELIVERED", "DROPPED", "LAST DELIVERY", "FAILURE"];
    output::list(statuses, format, value, (&heading, row), "there are no webhooks")
}

fn value(status: &pb::WebhookStatus) -> Value {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| timestamp_from_proto(time).to_string());
    json!({
        "name": status.name, "waiting": status.waiting, "delivered": status.delivered, "dropped": status.dropped,
        "deliveredAt": time(status.delivered_at.as_ref()), "failure": status.failure,
        "failedAt": time(status.failed_at.as_ref()),
    })
}

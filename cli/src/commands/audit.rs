//! `postern audit`: who administered what.

use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use postern_core::Timestamp;
use postern_core::wire::{timestamp_from_proto, timestamp_to_proto};
use postern_proto::admin::v1::ListAuditRecordsRequest;
use postern_proto::resource::v1 as pb;
use postern_runtime::clock;
use prost::Message as _;
use serde_json::{Value, json};

use super::{principal, when};
use crate::args::{AuditCommand, AuditFilter, ConnectionArgs, Format};
use crate::client::{Client, connect, refused};
use crate::failure::Failure;
use crate::output;

/// Records of one page.
const PAGE: u32 = 1_000;
/// The longest line of an export.
const MAX_EXPORT: u64 = 1 << 30;

pub(crate) async fn run(command: &AuditCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        AuditCommand::List { limit, filter, output } => {
            let client = connect(connection).await?;
            let (records, _) = fetch(&client, filter, usize::try_from(*limit).unwrap_or(usize::MAX)).await?;
            list(&records, output.format)
        }
        AuditCommand::Export { output } => {
            let client = connect(connection).await?;
            let (mut records, _) = fetch(&client, &AuditFilter::default(), usize::MAX).await?;
            records.reverse();
            export(&records, output)
        }
        AuditCommand::Verify { file: Some(file) } => told(&verify(&read(file)?, None)?),
        AuditCommand::Verify { file: None } => {
            let client = connect(connection).await?;
            let (mut records, head) = fetch(&client, &AuditFilter::default(), usize::MAX).await?;
            records.reverse();
            told(&verify(&records, head.as_ref())?)
        }
    }
}

/// What the newest record is, as the control plane tells apart from the records.
struct Head {
    sequence: u64,
    hash: Vec<u8>,
}

/// Newest first, and the log's head when the first page was given out.
async fn fetch(
    client: &Client,
    filter: &AuditFilter,
    most: usize,
) -> Result<(Vec<pb::AuditRecord>, Option<Head>), Failure> {
    let ago = |age: Option<std::time::Duration>| {
        age.map(|age| {
            timestamp_to_proto(Timestamp::from_millis(
                clock::now().since(Timestamp::default().plus(age)).as_millis().try_into().unwrap_or(0),
            ))
        })
    };
    let mut request = ListAuditRecordsRequest {
        page_size: u32::try_from(most).unwrap_or(PAGE).min(PAGE),
        page_token: String::new(),
        principal: filter.principal.clone(),
        certificate: filter.certificate.clone(),
        method: filter.method.clone(),
        object: filter.object.clone(),
        code: filter.code.clone(),
        since: ago(filter.since),
        until: ago(filter.until),
    };
    let (mut records, mut head) = (Vec::new(), None);
    loop {
        let page = client.audit().list_audit_records(request.clone()).await.map_err(refused)?.into_inner();
        head.get_or_insert(Head { sequence: page.head_sequence, hash: page.head_hash });
        records.extend(page.records);
        if page.next_page_token.is_empty() || records.len() >= most {
            records.truncate(most);
            return Ok((records, head));
        }
        request.page_token = page.next_page_token;
    }
}

fn list(records: &[pb::AuditRecord], format: Option<Format>) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        Format::Json => output::json(&records.iter().map(value).collect()),
        Format::Yaml => output::yaml(&records.iter().map(value).collect::<Vec<_>>()),
        Format::Table if records.is_empty() => {
            output::note("there are no such records");
            Ok(())
        }
        Format::Table => {
            let row = |record: &pb::AuditRecord| {
                let method = record.method.strip_prefix("/postern.admin.v1.").unwrap_or(&record.method).to_owned();
                let times =
                    if record.count > 1 { format!("{} x{}", record.code, record.count) } else { record.code.clone() };
                let objects = if record.dry_run { "(dry run) " } else { "" }.to_owned() + &record.objects.join(",");
                vec![
                    record.sequence.to_string(),
                    when(record.at.as_ref()),
                    who(record),
                    method,
                    objects,
                    times,
                    record.reason.clone(),
                ]
            };
            let heading = ["NO.", "AT", "WHO", "METHOD", "OBJECTS", "CODE", "REASON"];
            output::table(&heading, &records.iter().map(row).collect::<Vec<_>>())
        }
    }
}

fn who(record: &pb::AuditRecord) -> String {
    match (&record.principal, record.certificate.as_str()) {
        (Some(_), _) => principal(record.principal.as_ref()),
        (None, "") => format!("nobody at {}", record.client_address),
        (None, certificate) => certificate.to_owned(),
    }
}

fn value(record: &pb::AuditRecord) -> Value {
    json!({
        "sequence": record.sequence, "at": record.at.as_ref().map(|at| timestamp_from_proto(at).to_string()), "who": who(record),
        "groups": record.principal.as_ref().map(|one| one.groups.clone()).unwrap_or_default(),
        "certificate": record.certificate, "clientAddress": record.client_address, "node": record.node,
        "method": record.method, "objects": record.objects, "code": record.code, "reason": record.reason,
        "requestId": record.request_id, "dryRun": record.dry_run, "count": record.count, "hash": hex(&record.hash),
    })
}

/// One line a record, oldest first: what it says, for people and programs, and the record itself, for verification.
fn export(records: &[pb::AuditRecord], to: &Path) -> Result<(), Failure> {
    let mut text = String::new();
    for record in records {
        let mut line = value(record);
        if let Some(fields) = line.as_object_mut() {
            fields.insert("record".to_owned(), Value::String(hex(&record.encode_to_vec())));
        }
        text.push_str(&line.to_string());
        text.push('\n');
    }
    if to == Path::new("-") {
        return output::raw(text.as_bytes());
    }
    std::fs::write(to, text).map_err(|error| Failure::failed(format!("cannot write {}: {error}", to.display())))?;
    output::note(format!("{} records in {}", records.len(), to.display()));
    Ok(())
}

fn read(file: &Path) -> Result<Vec<pb::AuditRecord>, Failure> {
    let cannot = |why: String| Failure::failed(format!("{}: {why}", file.display()));
    let length = std::fs::metadata(file).map_err(|error| cannot(error.to_string()))?.len();
    if length > MAX_EXPORT {
        return Err(cannot("it is larger than 1 GiB".to_owned()));
    }
    let text = std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
    let mut records = Vec::new();
    for (place, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |why: &str| cannot(format!("line {}: {why}", place.saturating_add(1)));
        let shown: Value = serde_json::from_str(line).map_err(|_| at("it is no JSON"))?;
        let bytes =
            shown.get("record").and_then(Value::as_str).and_then(unhex).ok_or_else(|| at("it holds no record"))?;
        let record = pb::AuditRecord::decode(bytes.as_slice()).map_err(|_| at("its record cannot be read"))?;
        // What people read must be what is verified.
        let mut told = value(&record);
        if let Some(fields) = told.as_object_mut() {
            fields.insert("record".to_owned(), shown.get("record").cloned().unwrap_or_default());
        }
        if told != shown {
            return Err(at(&format!("record {} was changed: its text is not what it holds", record.sequence)));
        }
        records.push(record);
    }
    Ok(records)
}

/// What was found to be whole.
#[derive(Debug, PartialEq, Eq)]
struct Verified {
    records: usize,
    first: u64,
    last: u64,
    head: String,
}

/// Follows the chain: each record's hash is SHA-256 over the hash before it and the record without its own. The first record's own hash is
/// taken on trust unless it is the log's first: what came before it is no longer kept.
fn verify(records: &[pb::AuditRecord], head: Option<&Head>) -> Result<Verified, Failure> {
    let Some(first) = records.first() else { return Err(Failure::failed("there are no records to verify")) };
    let mut previous: Option<&pb::AuditRecord> = None;
    let mut faults = Vec::new();
    for record in records {
        let before = match previous {
            Some(previous) if record.sequence != previous.sequence.saturating_add(1) => {
                let missing =
                    format!("{} to {}", previous.sequence.saturating_add(1), record.sequence.saturating_sub(1));
                faults.push(format!("records {missing} are missing, or out of order"));
                None
            }
            Some(previous) => Some(previous.hash.as_slice()),
            None => (record.sequence == 1).then_some(&[0_u8; 32][..]),
        };
        if let Some(before) = before
            && chained(before, record) != record.hash
        {
            faults.push(format!("record {} was changed", record.sequence));
        }
        previous = Some(record);
    }
    let last = previous.unwrap_or(first);
    if let Some(head) = head
        && (head.sequence == last.sequence && head.hash != last.hash || last.sequence < head.sequence)
    {
        faults.push(format!("the log ends at record {}, the control plane is at {}", last.sequence, head.sequence));
    }
    if faults.is_empty() {
        Ok(Verified { records: records.len(), first: first.sequence, last: last.sequence, head: hex(&last.hash) })
    } else {
        Err(Failure::Many(faults))
    }
}

fn told(verified: &Verified) -> Result<(), Failure> {
    let Verified { records, first, last, head } = verified;
    output::line(format!("{records} records, {first} to {last}: the chain is unbroken; it ends in {head}"))
}

fn chained(previous: &[u8], record: &pb::AuditRecord) -> Vec<u8> {
    let bare = pb::AuditRecord { hash: Vec::new(), ..record.clone() };
    let mut context = Context::new(&SHA256);
    context.update(previous);
    context.update(&bare.encode_to_vec());
    context.finish().as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: u64) -> Vec<pb::AuditRecord> {
        let mut records: Vec<pb::AuditRecord> = Vec::new();
        for sequence in 1..=count {
            let mut record = pb::AuditRecord { sequence, method: "m".into(), count: 1, ..Default::default() };
            let previous = records.last().map_or(vec![0; 32], |record| record.hash.clone());
            record.hash = chained(&previous, &record);
            records.push(record);
        }
        records
    }

    #[test]
    fn a_whole_chain_is_whole_and_every_edit_shows() {
        let whole = chain(5);
        let verified = verify(&whole, None).unwrap();
        assert_eq!((verified.records, verified.first, verified.last), (5, 1, 5));
        // The oldest are no longer kept.
        assert!(verify(&whole[2..], None).is_ok());
        let mut edited = whole.clone();
        edited[2].code = "OK".into();
        assert!(verify(&edited, None).unwrap_err().to_string().contains("record 3 was changed"));
        let mut first = whole.clone();
        first[0].method = "other".into();
        assert!(verify(&first, None).unwrap_err().to_string().contains("record 1 was changed"));
        let mut gone = whole.clone();
        gone.remove(2);
        assert!(verify(&gone, None).unwrap_err().to_string().contains("records 3 to 3 are missing"));
        let mut swapped = whole.clone();
        swapped.swap(1, 2);
        assert!(verify(&swapped, None).is_err());
        let head = |sequence, hash: &[u8]| Head { sequence, hash: hash.to_vec() };
        assert!(verify(&whole, Some(&head(5, &whole[4].hash))).is_ok());
        assert!(verify(&whole[..4], Some(&head(5, &whole[4].hash))).is_err(), "the end was cut off");
        assert!(verify(&whole, Some(&head(5, &[1; 32]))).is_err());
    }

    #[test]
    fn an_export_reads_back_and_its_text_is_bound() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jsonl");
        export(&chain(3), &file).unwrap();
        assert_eq!(read(&file).unwrap(), chain(3));
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"method\":\"m\"", "\"method\":\"n\"")).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("was changed"));
    }
}

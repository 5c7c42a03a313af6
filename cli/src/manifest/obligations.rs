//! What a Policy asks of what it permits.

use postern_proto::resource::v1 as pb;

use super::object::Object;

pub(super) fn read(spec: &mut Object<'_>) -> Option<pb::Obligations> {
    let mut asked = spec.object("obligations")?;
    let row_limit: Option<u64> = asked.number("rowLimit");
    if row_limit == Some(0) {
        asked.fault("rowLimit", "must be at least 1; leave it out for no limit");
    }
    let timeout = asked.seconds("statementTimeout");
    if timeout == Some(0) {
        asked.fault("statementTimeout", "must be at least 1s; leave it out for no limit");
    }
    let read = pb::Obligations {
        row_limit: row_limit.unwrap_or_default(),
        statement_timeout_seconds: timeout.unwrap_or_default(),
        read_only: asked.bool("readOnly").unwrap_or_default(),
        masks: asked.strings("masks"),
    };
    asked.finish();
    Some(read)
}

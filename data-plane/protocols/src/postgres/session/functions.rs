//! FunctionCall: large objects, as libpq reaches them. A call is decided as the same call in SQL would be.

use bytes::Bytes;
use postern_core::recording::{ColumnInfo, Value};

use super::flight::Expected;
use super::{ProtocolError, ResultEvent, Session};
use crate::postgres::codec::frontend::FunctionCall;
use crate::postgres::codec::{CodecError, Frame, Reader};

pub(super) const UNKNOWN: &str = "the function call message is supported for large objects only";

/// The functions on which libpq's large objects stand, by the OIDs that they have had since PostgreSQL 9.3 and before (`pg_proc.dat`).
pub(super) const fn known(function: u32) -> Option<&'static str> {
    Some(match function {
        715 => "lo_create",
        764 => "lo_import",
        765 => "lo_export",
        767 => "lo_import",
        952 => "lo_open",
        953 => "lo_close",
        954 => "loread",
        955 => "lowrite",
        956 => "lo_lseek",
        957 => "lo_creat",
        958 => "lo_tell",
        964 => "lo_unlink",
        1004 => "lo_truncate",
        3170 => "lo_lseek64",
        3171 => "lo_tell64",
        3172 => "lo_truncate64",
        _ => return None,
    })
}

/// The call as a statement.
pub(super) fn text_of(call: &FunctionCall) -> Bytes {
    let Some(name) = known(call.function) else {
        return Bytes::from(format!("function call of OID {}", call.function));
    };
    let arguments: Vec<String> = (1..=call.arguments.len()).map(|place| format!("${place}")).collect();
    Bytes::from(format!("SELECT pg_catalog.{name}({})", arguments.join(", ")))
}

impl Session {
    /// FunctionCallResponse: one value, as a row of one column.
    pub(super) fn function_result(&mut self, frame: &Frame, out: &mut Vec<ResultEvent>) -> Result<(), ProtocolError> {
        let mut body = Reader::new(frame.tag(), frame.body());
        let value = body.value().map_err(ProtocolError::Server)?;
        body.end().map_err(ProtocolError::Server)?;
        let head = self.flight.head();
        let Some(Expected::Query { operation, statement }) = head else {
            return Err(ProtocolError::Unexpected(frame.tag()));
        };
        // Only what is called this way is answered so, and it is never laid under a mask.
        if !self.masking.is_empty() && !statement.facts.reads.is_empty() {
            return Err(ProtocolError::Server(CodecError::UnknownTag { tag: frame.tag() }));
        }
        let operation = *operation;
        let size = value.as_ref().map_or(0, Bytes::len);
        if let Some(running) = self.running.get_mut(&operation) {
            if !running.columns_told {
                running.columns_told = true;
                let column = ColumnInfo { name: "result".into(), mask: None };
                out.push(ResultEvent::Columns { operation, columns: vec![column] });
            }
            if running.takes(size, &self.limits) {
                let values = vec![Value::from_wire(value.as_deref(), true)];
                out.push(ResultEvent::Row { operation, values });
            } else {
                running.omit(frame.raw(), &self.limits);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_as_a_statement() {
        let call = |function| FunctionCall { function, arguments: vec![] };
        assert_eq!(text_of(&call(957)), "SELECT pg_catalog.lo_creat()");
        assert_eq!(text_of(&call(1610)), "function call of OID 1610");
    }
}

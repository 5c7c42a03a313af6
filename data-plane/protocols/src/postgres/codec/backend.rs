//! Messages from servers (section "Message Formats", those marked B).

use bytes::Bytes;

use super::{CodecError, Frame, Reader};

/// Authentication*.
pub const AUTHENTICATION: u8 = b'R';
/// BackendKeyData.
pub const BACKEND_KEY_DATA: u8 = b'K';
/// BindComplete.
pub const BIND_COMPLETE: u8 = b'2';
/// CloseComplete.
pub const CLOSE_COMPLETE: u8 = b'3';
/// CommandComplete.
pub const COMMAND_COMPLETE: u8 = b'C';
/// CopyInResponse.
pub const COPY_IN_RESPONSE: u8 = b'G';
/// CopyOutResponse.
pub const COPY_OUT_RESPONSE: u8 = b'H';
/// CopyBothResponse: replication only.
pub const COPY_BOTH_RESPONSE: u8 = b'W';
/// CopyData.
pub const COPY_DATA: u8 = b'd';
/// CopyDone.
pub const COPY_DONE: u8 = b'c';
/// DataRow.
pub const DATA_ROW: u8 = b'D';
/// EmptyQueryResponse.
pub const EMPTY_QUERY: u8 = b'I';
/// ErrorResponse.
pub const ERROR: u8 = b'E';
/// FunctionCallResponse.
pub const FUNCTION_RESULT: u8 = b'V';
/// NegotiateProtocolVersion.
pub const NEGOTIATE_VERSION: u8 = b'v';
/// NoData.
pub const NO_DATA: u8 = b'n';
/// NoticeResponse.
pub const NOTICE: u8 = b'N';
/// NotificationResponse.
pub const NOTIFICATION: u8 = b'A';
/// ParameterDescription.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// ParameterStatus.
pub const PARAMETER_STATUS: u8 = b'S';
/// ParseComplete.
pub const PARSE_COMPLETE: u8 = b'1';
/// PortalSuspended.
pub const PORTAL_SUSPENDED: u8 = b's';
/// ReadyForQuery.
pub const READY_FOR_QUERY: u8 = b'Z';
/// RowDescription.
pub const ROW_DESCRIPTION: u8 = b'T';

/// What ReadyForQuery says of the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionStatus {
    /// None is open.
    #[default]
    Idle,
    /// One is open.
    Open,
    /// One is open and has failed.
    Failed,
}

impl TransactionStatus {
    /// From ReadyForQuery's byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// ReadyForQuery's byte.
    #[must_use]
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

/// One column of a RowDescription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDescription {
    /// As the server names it.
    pub name: Bytes,
    /// OID of its table; 0 for an expression.
    pub table: u32,
    /// Its attribute number there; 0 for an expression.
    pub column: i16,
    /// OID of its type.
    pub type_oid: u32,
    /// Whether values come in the binary format. Of a statement's description: always text.
    pub binary: bool,
}

/// Fields of an ErrorResponse or NoticeResponse: code and value, as they came (section "Error and Notice Message Fields").
pub type Fields = Vec<(u8, Vec<u8>)>;

/// The columns of a RowDescription.
///
/// # Errors
/// When the body is malformed.
pub fn row_description(frame: &Frame) -> Result<Vec<FieldDescription>, CodecError> {
    let mut body = Reader::new(frame.tag(), frame.body());
    // A zero and 18 bytes at least.
    let count = body.count(19)?;
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        let name = body.text()?;
        let (table, column, type_oid) = (body.uint32()?, body.int16()?, body.uint32()?);
        let (_length, _modifier) = (body.int16()?, body.int32()?);
        let binary = match body.int16()? {
            0 => false,
            1 => true,
            _ => return Err(body.fault("it announces an unknown format")),
        };
        fields.push(FieldDescription { name, table, column, type_oid, binary });
    }
    body.end()?;
    Ok(fields)
}

/// The values of a DataRow; NULL is `None`.
///
/// # Errors
/// When the body is malformed.
pub fn data_row(frame: &Frame) -> Result<Vec<Option<Bytes>>, CodecError> {
    data_row_body(frame.body())
}

pub(crate) fn data_row_body(body: Bytes) -> Result<Vec<Option<Bytes>>, CodecError> {
    let mut body = Reader::new(DATA_ROW, body);
    let count = body.count(4)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(body.value()?);
    }
    body.end()?;
    Ok(values)
}

/// The tag of a CommandComplete (`SELECT 3`).
///
/// # Errors
/// When the body is malformed.
pub fn command_tag(frame: &Frame) -> Result<Bytes, CodecError> {
    let mut body = Reader::new(frame.tag(), frame.body());
    let text = body.text()?;
    body.end()?;
    Ok(text)
}

/// The transaction's status of a ReadyForQuery.
///
/// # Errors
/// When the body is malformed.
pub fn ready_for_query(frame: &Frame) -> Result<TransactionStatus, CodecError> {
    let mut body = Reader::new(frame.tag(), frame.body());
    let status = TransactionStatus::from_byte(body.byte()?).ok_or_else(|| body.fault("unknown transaction status"))?;
    body.end()?;
    Ok(status)
}

/// Name and value of a ParameterStatus.
///
/// # Errors
/// When the body is malformed.
pub fn parameter_status(frame: &Frame) -> Result<(Bytes, Bytes), CodecError> {
    let mut body = Reader::new(frame.tag(), frame.body());
    let pair = (body.text()?, body.text()?);
    body.end()?;
    Ok(pair)
}

/// The sender and channel of a NotificationResponse; its payload is not returned.
///
/// # Errors
/// When the body is malformed.
pub fn notification(frame: &Frame) -> Result<(u32, Bytes), CodecError> {
    let mut body = Reader::new(frame.tag(), frame.body());
    let (pid, channel, _payload) = (body.uint32()?, body.text()?, body.text()?);
    body.end()?;
    Ok((pid, channel))
}

/// Process id and secret of a BackendKeyData. The secret is 4 bytes in protocol 3.0.
///
/// # Errors
/// When the body is malformed.
pub fn backend_key(frame: &Frame) -> Result<(u32, Bytes), CodecError> {
    let mut body = Reader::new(frame.tag(), frame.body());
    let pid = body.uint32()?;
    if !(4..=256).contains(&body.remaining()) {
        return Err(body.fault("the secret's length is impossible"));
    }
    Ok((pid, body.rest()))
}

/// The fields of an ErrorResponse or NoticeResponse.
///
/// # Errors
/// When the body is malformed.
pub fn message_fields(frame: &Frame) -> Result<Fields, CodecError> {
    let mut body = Reader::new(frame.tag(), frame.body());
    let mut fields = Vec::new();
    loop {
        match body.byte()? {
            0 => break,
            code => fields.push((code, body.text()?.to_vec())),
        }
    }
    body.end()?;
    Ok(fields)
}

/// The value of field `code`, as text; empty when absent or no UTF-8.
#[must_use]
pub fn field(fields: &Fields, code: u8) -> &str {
    fields.iter().find(|(known, _)| *known == code).and_then(|(_, value)| std::str::from_utf8(value).ok()).unwrap_or("")
}

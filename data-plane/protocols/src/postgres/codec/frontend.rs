//! Messages from clients (section "Message Formats", those marked F).

use bytes::Bytes;
use postern_core::operation::Parameter;

use super::{CodecError, Frame, Reader};

/// Bind.
pub const BIND: u8 = b'B';
/// Close.
pub const CLOSE: u8 = b'C';
/// CopyData, either way.
pub const COPY_DATA: u8 = b'd';
/// CopyDone, either way.
pub const COPY_DONE: u8 = b'c';
/// CopyFail.
pub const COPY_FAIL: u8 = b'f';
/// Describe.
pub const DESCRIBE: u8 = b'D';
/// Execute.
pub const EXECUTE: u8 = b'E';
/// Flush.
pub const FLUSH: u8 = b'H';
/// FunctionCall.
pub const FUNCTION_CALL: u8 = b'F';
/// Parse.
pub const PARSE: u8 = b'P';
/// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse: which one, the state tells.
pub const PASSWORD: u8 = b'p';
/// Query.
pub const QUERY: u8 = b'Q';
/// Sync.
pub const SYNC: u8 = b'S';
/// Terminate.
pub const TERMINATE: u8 = b'X';

/// What Describe and Close name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A prepared statement.
    Statement(Bytes),
    /// A portal.
    Portal(Bytes),
}

/// A message after the handshake. Names and texts are without their final zero, names as long as the server knows them.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    /// A text of any number of statements.
    Query(Bytes),
    /// Prepares a statement.
    Parse(Parse),
    /// Makes a portal of a prepared statement.
    Bind(Bind),
    /// Asks for the shape of a statement or portal.
    Describe(Named),
    /// Runs a portal.
    Execute(Execute),
    /// Forgets a statement or portal.
    Close(Named),
    /// Ends a group of extended messages.
    Sync,
    /// Asks for what the server holds back.
    Flush,
    /// Rows of COPY FROM STDIN.
    CopyData,
    /// Their end.
    CopyDone,
    /// Their end, as a failure.
    CopyFail,
    /// Calls a function by OID.
    FunctionCall(FunctionCall),
    /// Ends the session.
    Terminate,
}

/// Parse.
#[derive(Clone, PartialEq, Eq)]
pub struct Parse {
    /// The statement's name; empty for the unnamed one.
    pub name: Bytes,
    /// Its text.
    pub text: Bytes,
    /// OIDs of its parameters' types, as the client gives them, four bytes each; 0 and what is missing is for the server to find.
    pub types: Bytes,
}

/// Bind.
#[derive(Clone, PartialEq, Eq)]
pub struct Bind {
    /// The portal's name; empty for the unnamed one.
    pub portal: Bytes,
    /// The statement's name.
    pub statement: Bytes,
    /// Values, with their formats.
    pub parameters: Vec<Parameter>,
    /// Formats of the result.
    pub formats: ResultFormats,
}

/// FunctionCall.
#[derive(Clone, PartialEq, Eq)]
pub struct FunctionCall {
    /// Which, by its OID.
    pub function: u32,
    /// Values, with their formats.
    pub arguments: Vec<Parameter>,
}

/// Execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    /// The portal's name.
    pub portal: Bytes,
    /// Most rows to return; 0 for all.
    pub max_rows: i32,
}

/// Formats that Bind asks of a result: none is all text, one is for all columns, else one for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultFormats(Vec<bool>);

impl ResultFormats {
    /// Whether column `index`, from 0, comes in the binary format.
    #[must_use]
    pub fn is_binary(&self, index: usize) -> bool {
        match self.0.as_slice() {
            [] => false,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(false),
        }
    }
}

impl Message {
    /// Reads `frame`.
    ///
    /// # Errors
    /// When its tag is not of this phase of the protocol, or its body is not as its tag says.
    pub fn parse(frame: &Frame) -> Result<Self, CodecError> {
        let tag = frame.tag();
        let mut body = Reader::new(tag, frame.body());
        let message = match tag {
            QUERY => Self::Query(body.text()?),
            PARSE => Self::Parse(parse(&mut body)?),
            BIND => Self::Bind(bind(&mut body)?),
            DESCRIBE => Self::Describe(named(&mut body)?),
            CLOSE => Self::Close(named(&mut body)?),
            EXECUTE => Self::Execute(Execute { portal: body.name()?, max_rows: body.int32()? }),
            SYNC => Self::Sync,
            FLUSH => Self::Flush,
            COPY_DONE => Self::CopyDone,
            TERMINATE => Self::Terminate,
            COPY_DATA => return Ok(Self::CopyData),
            COPY_FAIL => {
                body.text()?;
                Self::CopyFail
            }
            FUNCTION_CALL => Self::FunctionCall(function_call(&mut body)?),
            _ => return Err(CodecError::UnknownTag { tag }),
        };
        body.end()?;
        Ok(message)
    }
}

fn named(body: &mut Reader) -> Result<Named, CodecError> {
    match body.byte()? {
        b'S' => Ok(Named::Statement(body.name()?)),
        b'P' => Ok(Named::Portal(body.name()?)),
        _ => Err(body.fault("it names neither a statement nor a portal")),
    }
}

fn parse(body: &mut Reader) -> Result<Parse, CodecError> {
    let (name, text) = (body.name()?, body.text()?);
    let types = body.count(4)?;
    let types = body.bytes(types.saturating_mul(4))?;
    Ok(Parse { name, text, types })
}

fn function_call(body: &mut Reader) -> Result<FunctionCall, CodecError> {
    let function = body.uint32()?;
    let arguments = values(body)?;
    if !matches!(body.int16()?, 0 | 1) {
        return Err(body.fault("it asks for an unknown format"));
    }
    Ok(FunctionCall { function, arguments })
}

fn bind(body: &mut Reader) -> Result<Bind, CodecError> {
    let (portal, statement) = (body.name()?, body.name()?);
    let parameters = values(body)?;
    let formats = ResultFormats(formats(body)?);
    Ok(Bind { portal, statement, parameters, formats })
}

/// Formats and values: none is all text, one is for all, else one for each.
fn values(body: &mut Reader) -> Result<Vec<Parameter>, CodecError> {
    let given = formats(body)?;
    let count = body.count(4)?;
    if given.len() > 1 && given.len() != count {
        return Err(body.fault("it has another number of formats than of parameters"));
    }
    let given = ResultFormats(given);
    let mut parameters = Vec::with_capacity(count);
    for index in 0..count {
        parameters.push(Parameter { binary: given.is_binary(index), value: body.value()? });
    }
    Ok(parameters)
}

fn formats(body: &mut Reader) -> Result<Vec<bool>, CodecError> {
    let count = body.count(2)?;
    let mut formats = Vec::with_capacity(count);
    for _ in 0..count {
        formats.push(match body.int16()? {
            0 => false,
            1 => true,
            _ => return Err(body.fault("it asks for an unknown format")),
        });
    }
    Ok(formats)
}

//! A session between a client's bytes and the model, with a gateway that decides by text.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use postern_core::Timestamp;
use postern_core::id::OperationId;
use postern_core::policy::Obliged;
use postern_core::recording::{Completed, OperationOutcome};

use super::model::{Model, refusal};
use crate::postgres::analyze::AnalyzeContext;
use crate::postgres::codec::{frontend, write};
use crate::postgres::mask::Masking;
use crate::postgres::session::*;

pub(super) struct Rig {
    pub(super) session: Session,
    pub(super) server: Model,
    pub(super) from_client: BytesMut,
    pub(super) from_server: BytesMut,
    pub(super) to_client: BytesMut,
    pub(super) events: Vec<ResultEvent>,
    pub(super) decided: Vec<String>,
    /// Of each, what it does; none when in doubt.
    pub(super) actions: Vec<String>,
    pub(super) permitted: BTreeSet<OperationId>,
    /// What binds whatever is permitted.
    pub(super) obliged: Obliged,
    /// How often the server was asked to cancel.
    pub(super) cancels: u32,
    pending: Option<(Box<Pending>, bool)>,
    made: u128,
}

pub(super) fn context() -> Arc<AnalyzeContext> {
    Arc::new(AnalyzeContext {
        database: "shop".into(),
        user: "app".into(),
        search_path: vec!["public".into()],
        catalog: None,
        max_statement: 1 << 20,
        texts: Arc::default(),
    })
}

impl Rig {
    pub(super) fn new(limits: Limits) -> Self {
        Self::with(limits, context(), Arc::new(Masking::default()))
    }

    pub(super) fn with(limits: Limits, context: Arc<AnalyzeContext>, masking: Arc<Masking>) -> Self {
        Self {
            session: Session::new(limits, context, masking, 7),
            server: Model::default(),
            from_client: BytesMut::new(),
            from_server: BytesMut::new(),
            to_client: BytesMut::new(),
            events: Vec::new(),
            decided: Vec::new(),
            actions: Vec::new(),
            permitted: BTreeSet::new(),
            obliged: Obliged::default(),
            cancels: 0,
            pending: None,
            made: 0,
        }
    }

    /// One step of the client's side; false when it can do nothing now.
    pub(super) fn client_step(&mut self) -> bool {
        if let Some((pending, prepares)) = self.pending.take() {
            self.decide(pending, prepares);
            return true;
        }
        match self.session.next_client(&mut self.from_client).unwrap() {
            ClientStep::NeedMore | ClientStep::Wait => return false,
            ClientStep::Forward(bytes) | ClientStep::Terminate(bytes) => self.server.feed(&bytes),
            ClientStep::Decide(pending) => self.pending = Some((pending, false)),
            ClientStep::Prepare(pending) => self.pending = Some((pending, true)),
        }
        true
    }

    fn decide(&mut self, pending: Box<Pending>, prepares: bool) {
        let text = String::from_utf8(pending.text().to_vec()).unwrap();
        let denied = text.contains("deny") || (!prepares && text.contains("hold")) || pending.actions().is_err();
        self.decided.push(text);
        let actions = pending.actions().unwrap_or_default().iter().map(ToString::to_string);
        self.actions.push(actions.collect::<Vec<_>>().join(", "));
        if denied {
            let refused = self.session.refuse(pending, &refusal());
            self.to_client.extend_from_slice(&refused.to_client);
            self.server.feed(&refused.to_server);
            return;
        }
        self.made += 1;
        let operation = OperationId::new(Timestamp::from_millis(1), self.made);
        if !prepares {
            self.permitted.insert(operation);
        }
        let bytes = self.session.permit(pending, operation, self.obliged.clone());
        self.server.feed(&bytes);
    }

    /// Moves up to `count` bytes from the server to the client; false when there were none.
    pub(super) fn server_step(&mut self, count: usize) -> bool {
        let count = count.min(self.server.output.len());
        let bytes = self.server.output.split_to(count);
        self.from_server.extend_from_slice(&bytes);
        loop {
            let before = self.to_client.len();
            // What waits for the client is sent at once.
            let mut to_client = BytesMut::new();
            let progress = self.session.next_server(&mut self.from_server, &mut to_client, &mut self.events).unwrap();
            self.to_client.extend_from_slice(&to_client);
            if let Some(bytes) = self.session.take_to_server() {
                self.server.feed(&bytes);
            }
            if progress == ServerProgress::NeedMore {
                if self.session.wants_cancel() {
                    self.cancels += 1;
                    self.session.cancelled();
                }
                return count > 0 || self.to_client.len() > before;
            }
        }
    }

    /// Until nothing moves.
    pub(super) fn run(&mut self) {
        while self.client_step() || self.server_step(usize::MAX) {}
        // Events of the last step.
        self.server_step(0);
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        self.from_client.extend_from_slice(bytes);
        self.run();
        self
    }

    /// What the client got since the last call: the tags of its messages, with the SQLSTATE of errors.
    pub(super) fn got(&mut self) -> String {
        tags(&self.to_client.split())
    }

    pub(super) fn completed(&self) -> Vec<&Completed> {
        self.events
            .iter()
            .filter_map(|event| match event {
                ResultEvent::Completed(completed) => Some(completed.as_ref()),
                _ => None,
            })
            .collect()
    }

    /// Every outcome, briefly.
    pub(super) fn outcomes(&self) -> Vec<String> {
        let brief = |completed: &&Completed| match &completed.outcome {
            OperationOutcome::Done { tags } => tags.join("+"),
            OperationOutcome::Failed { sqlstate, .. } => sqlstate.clone(),
            OperationOutcome::NotRun { code } => code.to_string(),
            OperationOutcome::Unknown => "unknown".into(),
        };
        self.completed().iter().map(brief).collect()
    }
}

pub(super) fn tags(mut bytes: &[u8]) -> String {
    let mut out = String::new();
    while let Some((&tag, rest)) = bytes.split_first() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        out.push(tag as char);
        if tag == b'E' {
            let body = &rest[4..length];
            let at = body.windows(2).position(|w| w == b"\0C").unwrap() + 2;
            out.push_str(&format!("({})", std::str::from_utf8(&body[at..at + 5]).unwrap()));
        }
        if tag == b'Z' {
            out.push_str(&format!("{} ", rest[4] as char));
        }
        bytes = &rest[length..];
    }
    out.trim_end().to_owned()
}

/// Messages of a client.
#[derive(Default, Clone)]
pub(super) struct Client(pub(super) BytesMut);

impl Client {
    pub(super) fn query(mut self, text: &str) -> Self {
        write::query(&mut self.0, text.as_bytes());
        self
    }

    pub(super) fn parse(mut self, name: &str, text: &str) -> Self {
        write::frame(&mut self.0, frontend::PARSE, |out| {
            write::text(out, name.as_bytes());
            write::text(out, text.as_bytes());
            out.put_u16(0);
        });
        self
    }

    pub(super) fn bind(mut self, portal: &str, statement: &str) -> Self {
        write::frame(&mut self.0, frontend::BIND, |out| {
            write::text(out, portal.as_bytes());
            write::text(out, statement.as_bytes());
            out.put_bytes(0, 6);
        });
        self
    }

    fn named(mut self, tag: u8, kind: u8, name: &str) -> Self {
        write::frame(&mut self.0, tag, |out| {
            out.put_u8(kind);
            write::text(out, name.as_bytes());
        });
        self
    }

    pub(super) fn describe(self, kind: u8, name: &str) -> Self {
        self.named(frontend::DESCRIBE, kind, name)
    }

    pub(super) fn close(self, kind: u8, name: &str) -> Self {
        self.named(frontend::CLOSE, kind, name)
    }

    pub(super) fn execute(mut self, portal: &str, rows: i32) -> Self {
        write::frame(&mut self.0, frontend::EXECUTE, |out| {
            write::text(out, portal.as_bytes());
            out.put_i32(rows);
        });
        self
    }

    pub(super) fn bare(mut self, tag: u8) -> Self {
        write::frame(&mut self.0, tag, |_| {});
        self
    }

    pub(super) fn sync(self) -> Self {
        self.bare(frontend::SYNC)
    }

    pub(super) fn flush(self) -> Self {
        self.bare(frontend::FLUSH)
    }

    pub(super) fn data(mut self, rows: &[u8]) -> Self {
        write::frame(&mut self.0, frontend::COPY_DATA, |out| out.put_slice(rows));
        self
    }

    pub(super) fn done(self) -> Self {
        self.bare(frontend::COPY_DONE)
    }

    pub(super) fn copy_fail(mut self) -> Self {
        write::frame(&mut self.0, frontend::COPY_FAIL, |out| write::text(out, b"no"));
        self
    }

    /// Parse, Bind, Execute of an unnamed statement.
    pub(super) fn run(self, text: &str) -> Self {
        self.parse("", text).bind("", "").execute("", 0)
    }
}

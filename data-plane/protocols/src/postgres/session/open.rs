//! Sessions to whose principal everything is granted, and nothing masked: what cannot be classified passes there, as opaque (I3).
//!
//! A text that was not followed may have done anything to the names and settings by which later ones are read. That is remembered for as
//! long as the session lives: should less be granted later, all that it sends is in doubt.

use std::sync::Arc;

use bytes::Bytes;
use postern_core::action::{ObjectKind, Verb};

use super::names::Prepared;
use super::step::Message as Held;
use super::{ClientStep, ProtocolError, Session};
use crate::postgres::analyze::{self, SessionEffect, Statement, StatementKind, Unclassifiable, is_lasting};
use crate::postgres::codec::Frame;
use crate::postgres::codec::backend;
use crate::postgres::codec::frontend::Execute;

/// What is granted, and what the session has lost sight of by it.
#[derive(Debug, Default)]
pub(super) struct Openness {
    granted: bool,
    /// Something ran that was not followed.
    lost: bool,
    /// Code of the database's own gave it names at the login that cannot be followed.
    begun_in_doubt: bool,
    /// The settings by which texts are read are others than the classifier's.
    encoding: bool,
    strings: bool,
}

impl Openness {
    /// # Errors
    /// When texts cannot be read as the server reads them.
    pub(super) fn followed(&self) -> Result<(), Unclassifiable> {
        if self.encoding {
            return Err(Unclassifiable::unsupported("client_encoding must be UTF8"));
        }
        if self.strings {
            return Err(Unclassifiable::unsupported("standard_conforming_strings must be on"));
        }
        if self.begun_in_doubt {
            return Err(Unclassifiable::doubt(
                "a login trigger of the database gave the session a role or temporary names that Postern does not follow",
            ));
        }
        if self.lost {
            return Err(Unclassifiable::doubt("the session has run what Postern could not follow: connect again"));
        }
        Ok(())
    }

    /// Names may mean anything from the beginning.
    pub(super) const fn begin_in_doubt(&mut self) {
        self.begun_in_doubt = true;
    }

    /// From now on names may mean anything.
    pub(super) const fn lose(&mut self) {
        self.lost = true;
    }

    /// Takes a ParameterStatus. Statements are classified as UTF-8 with standard strings.
    ///
    /// # Errors
    /// When the session leaves either, and not everything is granted: it cannot go on.
    pub(super) fn setting(&mut self, frame: &Frame, open: bool) -> Result<(), ProtocolError> {
        let (name, value) = backend::parameter_status(frame).map_err(ProtocolError::Server)?;
        self.reported(&name, &value);
        match name.as_ref() {
            b"client_encoding" if self.encoding && !open => Err(ProtocolError::Setting("client_encoding")),
            b"standard_conforming_strings" if self.strings && !open => {
                Err(ProtocolError::Setting("standard_conforming_strings"))
            }
            _ => Ok(()),
        }
    }

    fn reported(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"client_encoding" => self.encoding = value != b"UTF8",
            b"standard_conforming_strings" => self.strings = value != b"on",
            _ => {}
        }
    }
}

impl Session {
    /// Whether everything is granted, by the policy that holds now.
    pub fn set_open(&mut self, granted: bool) {
        if self.openness.granted == granted {
            return;
        }
        self.openness.granted = granted;
        self.names_changed();
        if !granted && (self.openness.lost || self.openness.begun_in_doubt) {
            // What they stand for may have been changed by what was not followed.
            self.forget_portals();
            self.statements.clear();
        }
    }

    /// Something is under way that was not followed.
    #[must_use]
    pub fn runs_unfollowed(&self) -> bool {
        self.running.values().any(|running| running.statement.unfollowed.is_some())
    }

    /// Whether what cannot be classified passes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.openness.granted && self.masking.is_empty()
    }

    /// Settings as the server reported them at the login; `known` where no other of the startup bears on what names mean.
    pub fn begin_with<'a>(&mut self, reported: impl IntoIterator<Item = (&'a str, &'a str)>, known: bool) {
        self.openness.lost |= !known;
        for (name, value) in reported {
            self.openness.reported(name.as_bytes(), value.as_bytes());
        }
    }

    /// What could not be classified is opaque, where everything is granted; what can be told of it all the same is told.
    pub(super) fn pass_unfollowed(&self, text: &[u8], why: Unclassifiable) -> Result<Arc<Statement>, Unclassifiable> {
        if !self.is_open() {
            return Err(why);
        }
        let readable = !self.openness.encoding && !self.openness.strings;
        let guess = readable.then(|| analyze::analyze(text, &self.context, &self.names).ok()).flatten();
        let mut statement = Statement {
            kinds: vec![StatementKind::Utility],
            copy: guess.as_ref().and_then(|guess| guess.copy.clone()),
            actions: guess.map(|guess| guess.actions).unwrap_or_default(),
            effects: vec![SessionEffect::Unknown],
            changes_catalog: true,
            unfollowed: Some(Box::new(why)),
            ..Statement::default()
        };
        statement.act_on(Verb::SqlOpaque, ObjectKind::Database, [&*self.context.database]);
        debug_assert!(!is_lasting(&statement), "it would be cached");
        Ok(Arc::new(statement))
    }

    /// A prepared statement that the server may know and the session does not.
    pub(super) fn unknown_statement(&mut self, name: &Bytes) -> Prepared {
        let why = Unclassifiable::doubt("the prepared statement is not known here");
        let text = Bytes::from(format!("prepared statement \"{}\"", name.escape_ascii()));
        let statement = self.pass_unfollowed(b"", why).unwrap_or_default();
        Prepared {
            id: self.statements.next_id(),
            text,
            types: Bytes::new(),
            statement,
            generation: self.generation,
            columns: None,
            by_sql: true,
        }
    }

    /// Execute of a portal that the server may know and the session does not: an operation of its own.
    pub(super) fn execute_unknown(&mut self, execute: &Execute, frame: Frame) -> ClientStep {
        let why = Unclassifiable::doubt("the portal is not known here");
        let text = Bytes::from(format!("portal \"{}\"", execute.portal.escape_ascii()));
        let classified = self.pass_unfollowed(b"", why);
        let name = Bytes::copy_from_slice(&execute.portal);
        self.decide(text, Vec::new(), classified, Held::Execute { raw: frame.into_raw(), name })
    }
}

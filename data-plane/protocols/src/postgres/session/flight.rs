//! What the server will answer to, in the order in which it was asked.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use postern_core::id::OperationId;

use super::names::{Columns, Portal, Prepared};
use crate::postgres::analyze::{CopyDirection, Statement};
use crate::postgres::codec::frontend::Named;

/// Most messages in flight; past it the client waits (I11).
const MAX_MESSAGES: usize = 4_096;
/// Most bytes of statements that they hold.
const MAX_BYTES: usize = 8 << 20;

/// A message that was forwarded, and what its reply is read by.
pub(super) enum Expected {
    Query {
        operation: OperationId,
        statement: Arc<Statement>,
    },
    Parse {
        name: Bytes,
        prepared: Prepared,
    },
    Bind {
        name: Bytes,
        portal: Portal,
    },
    DescribeStatement {
        name: Bytes,
        id: u64,
    },
    /// `hidden`: the session's own; its reply is not the client's.
    DescribePortal {
        name: Bytes,
        hidden: bool,
    },
    /// With the columns of its result, where they were known when it was forwarded.
    Execute {
        name: Bytes,
        operation: OperationId,
        statement: Arc<Statement>,
        columns: Option<Columns>,
    },
    Close(Named),
    /// The message that always fails, in the place of a refused one; the client is sent this error instead of the server's.
    Denied {
        error: Bytes,
    },
    Sync,
    /// A reply to what the session sent itself: of this tag, and not the client's.
    Own(u8),
}

#[derive(Default)]
pub(super) struct Flight {
    /// With the group of each: what comes before one Sync or Query and after the one before.
    queue: VecDeque<(u64, Expected)>,
    group: u64,
    bytes: usize,
    effects: usize,
    copies_in: usize,
}

impl Expected {
    pub(super) fn statement(&self) -> Option<&Arc<Statement>> {
        match self {
            Self::Query { statement, .. } | Self::Execute { statement, .. } => Some(statement),
            Self::Parse { prepared, .. } => Some(&prepared.statement),
            Self::Bind { portal, .. } => Some(&portal.statement),
            Self::DescribeStatement { .. }
            | Self::DescribePortal { .. }
            | Self::Close(_)
            | Self::Denied { .. }
            | Self::Own(_)
            | Self::Sync => None,
        }
    }

    /// The operation whose fate hangs on the reply.
    pub(super) fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Query { operation, .. } | Self::Execute { operation, .. } => Some(*operation),
            Self::Bind { portal, .. } => Some(portal.operation),
            _ => None,
        }
    }

    /// What the reply runs.
    pub(super) fn runs(&self) -> Option<&Arc<Statement>> {
        match self {
            Self::Query { statement, .. } | Self::Execute { statement, .. } => Some(statement),
            _ => None,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Parse { prepared, .. } => prepared.text.len(),
            _ => 0,
        }
    }
}

impl Flight {
    pub(super) fn push(&mut self, expected: Expected) {
        self.bytes = self.bytes.saturating_add(expected.weight());
        self.effects = self.effects.saturating_add(usize::from(has_effects(&expected)));
        self.copies_in = self.copies_in.saturating_add(usize::from(copies_in(&expected)));
        let ends_group = matches!(expected, Expected::Sync | Expected::Query { .. });
        self.queue.push_back((self.group, expected));
        if ends_group {
            self.group = self.group.wrapping_add(1);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Expected> {
        let (_, expected) = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(expected.weight());
        self.effects = self.effects.saturating_sub(usize::from(has_effects(&expected)));
        self.copies_in = self.copies_in.saturating_sub(usize::from(copies_in(&expected)));
        Some(expected)
    }

    pub(super) fn head(&self) -> Option<&Expected> {
        self.queue.front().map(|(_, expected)| expected)
    }

    /// The server has told the columns of the portal that those who wait will run.
    pub(super) fn tell_columns(&mut self, portal: &Bytes, told: &Columns) {
        for (_, expected) in &mut self.queue {
            match expected {
                Expected::Execute { name, columns: unknown @ None, .. } if name == portal => {
                    *unknown = Some(Arc::clone(told));
                }
                // From here on another one has the name.
                Expected::Bind { name, .. } if name == portal => return,
                _ => {}
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_MESSAGES || self.bytes >= MAX_BYTES
    }

    /// Something runs that changes what later names mean.
    pub(super) fn has_effects(&self) -> bool {
        self.effects > 0
    }

    /// Something runs that is a COPY FROM STDIN.
    pub(super) fn copies_in(&self) -> bool {
        self.copies_in > 0
    }

    /// From the newest to the oldest, and whether it belongs to the group that is open.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = (bool, &Expected)> {
        self.queue.iter().rev().map(|(group, expected)| (*group == self.group, expected))
    }

    pub(super) fn operations(&self) -> impl Iterator<Item = OperationId> {
        self.queue.iter().filter_map(|(_, expected)| expected.operation())
    }

    /// Those that run something, oldest first.
    pub(super) fn runs(&self) -> impl Iterator<Item = OperationId> {
        let runs = self.queue.iter().filter(|(_, expected)| expected.runs().is_some());
        runs.filter_map(|(_, expected)| expected.operation())
    }

    /// Forgets every Sync that waits: the server swallowed them.
    pub(super) fn drop_syncs(&mut self) {
        self.queue.retain(|(_, expected)| !matches!(expected, Expected::Sync));
    }

    pub(super) fn clear(&mut self) {
        *self = Self { group: self.group, ..Self::default() };
    }
}

fn has_effects(expected: &Expected) -> bool {
    expected.runs().is_some_and(|statement| !statement.effects.is_empty())
}

fn copies_in(expected: &Expected) -> bool {
    // What could not be followed may be one.
    expected.runs().is_some_and(|statement| {
        statement.unfollowed.is_some()
            || statement.copy.as_ref().is_some_and(|copy| copy.direction == CopyDirection::In)
    })
}

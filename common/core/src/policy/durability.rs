//! What an operation's record must have survived before the operation is forwarded.

use serde::{Deserialize, Serialize};

/// The classes of durability, the strictest first (I2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// The loss of the gateway with its disk: a member of the control plane has it on its own.
    Quorum,
    /// The loss of the machine: it is flushed to the disk, with the events of all others that wait.
    #[default]
    Spooled,
    /// The loss of the process. It is flushed within milliseconds: these are lost with the machine.
    Buffered,
}

impl Durability {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Spooled => "spooled",
            Self::Buffered => "buffered",
        }
    }

    /// By its text form.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Quorum, Self::Spooled, Self::Buffered].into_iter().find(|class| class.as_str() == name)
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

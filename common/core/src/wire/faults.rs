//! Gathering the faults of one object.

use crate::resource::FieldFault;

/// Items of one list.
const MAX_LIST: usize = 1_000;
/// Bytes of one text.
pub(super) const MAX_TEXT: usize = 4_096;

/// Gathers every fault of an object, so that all are told at once.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<FieldFault>);

impl Faults {
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl std::fmt::Display) {
        self.0.push(FieldFault::new(path, message.to_string()));
    }

    pub(super) const fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_vec(self) -> Vec<FieldFault> {
        self.0
    }

    pub(super) fn bound(&mut self, path: &str, length: usize, most: usize) {
        if length > most {
            self.add(path, format!("is longer than {most}"));
        }
    }

    pub(super) fn bound_all(&mut self, path: &str, texts: &[String]) {
        self.bound(path, texts.len(), MAX_LIST);
        for (place, text) in texts.iter().enumerate() {
            if text.is_empty() {
                self.add(format!("{path}[{place}]"), "is empty");
            }
            self.bound(&format!("{path}[{place}]"), text.len(), MAX_TEXT);
        }
    }
}

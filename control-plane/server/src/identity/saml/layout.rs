//! Where in a message things may stand: what a signature covers must not be mistaken for what is read.

use std::collections::BTreeSet;

use super::SamlError;
use super::response::ASSERTION;
use super::signature::DSIG;
use super::xml::{Element, XML_NS};

/// Refuses a message in which anything that matters stands where it has no business, whatever the namespace that it claims; and one in which
/// two elements have one id.
pub(super) fn check_layout(root: &Element) -> Result<(), SamlError> {
    let mut ids = BTreeSet::new();
    let mut refusal = None;
    root.walk(&mut |element| {
        for attribute in &element.attributes {
            let names_id = attribute.local.eq_ignore_ascii_case("id") || attribute.local == "AssertionID";
            if names_id
                && (attribute.namespace.is_empty() || attribute.namespace == XML_NS)
                && !ids.insert(attribute.value.as_str())
            {
                refusal = Some(SamlError::DuplicateId);
            }
        }
        for child in element.elements() {
            let at_root = std::ptr::eq(element, root);
            let fits = match child.local.as_str() {
                "Response" => false,
                "Assertion" | "EncryptedAssertion" => at_root && child.namespace == ASSERTION && !is_assertion(root),
                "Signature" => child.namespace == DSIG && (at_root || is_assertion(element)),
                // Either would say that something else is signed than what stands there.
                "Object" | "Manifest" => false,
                _ => true,
            };
            if !fits {
                refusal = Some(SamlError::Wrapping);
            }
        }
    });
    refusal.map_or(Ok(()), Err)
}

fn is_assertion(element: &Element) -> bool {
    element.is(ASSERTION, "Assertion")
}

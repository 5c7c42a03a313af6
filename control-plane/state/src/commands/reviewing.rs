use postern_core::Principal;
use postern_core::approval::Review;

use crate::outcome::Refusal;

/// The longest comment, in bytes.
const MAX_COMMENT: usize = 4_096;

/// Whether `reviewer` may answer what `requester` asked for, whatever that is (I7). `named`: whether they are of those who are to review; `open`: whether
/// there is anything left to say.
pub(super) fn may_answer(
    requester: &Principal,
    (reviewer, comment): (&Principal, &str),
    named: bool,
    open: Result<(), Refusal>,
    said: &[Review],
) -> Result<(), Refusal> {
    // By identity, chains included: neither the requester nor whoever acts for or through them.
    if requester.shares_identity_with(reviewer) {
        return Err(Refusal::SelfReview);
    }
    if !named {
        return Err(Refusal::NotAReviewer);
    }
    open?;
    // Two tokens of one person are one reviewer.
    if said.iter().any(|review| review.reviewer.shares_identity_with(reviewer)) {
        return Err(Refusal::AlreadyReviewed);
    }
    if comment.len() > MAX_COMMENT {
        return Err(Refusal::invalid("comment", format!("is longer than {MAX_COMMENT} bytes")));
    }
    Ok(())
}

use postern_core::resource::FieldFault;
use postern_core::transparency::SignedCheckpoint;
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Success};
use crate::state::Context;

/// Keeps what witnesses have signed of the log of recordings: a head of its own, which is newer than the last of these, or the same with more signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignLogHead {
    /// The head, the log's signature, and theirs.
    pub checkpoint: SignedCheckpoint,
}

impl CosignLogHead {
    pub(crate) fn to_proto(&self) -> pb::CosignLogHead {
        pb::CosignLogHead { checkpoint: self.checkpoint.to_string() }
    }

    pub(crate) fn from_proto(proto: pb::CosignLogHead) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { checkpoint: parse("checkpoint", &proto.checkpoint)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let now = cx.state.now;
        cx.state.recording_log.witness(self.checkpoint, now)?;
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use postern_core::operation::Digest;
    use postern_core::transparency::{Checkpoint, NoteSigner};

    use super::super::testing::*;
    use super::super::{SetLogKey, SignLogHead};
    use super::*;
    use crate::outcome::Refusal;
    use crate::recording_log::LogKey;
    use crate::state::State;

    const ORIGIN: &str = "log.example";

    fn key() -> Vec<u8> {
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec()
    }

    struct Rig {
        fixture: Fixture,
        log: NoteSigner,
        witnesses: [NoteSigner; 2],
    }

    impl Rig {
        fn new() -> Self {
            let mut fixture = Fixture::newest();
            let log = NoteSigner::of_log(ORIGIN, &key()).unwrap();
            let key = LogKey { origin: ORIGIN.into(), public: log.public(), private: sealed(5) };
            fixture.run(SetLogKey { key }).unwrap();
            let witnesses = ["w1", "w2"].map(|name| NoteSigner::of_witness(name, &super::tests::key()).unwrap());
            Self { fixture, log, witnesses }
        }

        /// The head of all that there is.
        fn head(&self) -> SignedCheckpoint {
            let log = self.fixture.state.recording_log();
            SignedCheckpoint::sign(Checkpoint { origin: ORIGIN.into(), size: log.size(), root: log.root() }, &self.log)
        }

        fn signed(&mut self, session: u128) -> SignedCheckpoint {
            self.fixture.sealed(session).unwrap();
            let head = self.head();
            self.fixture.run(SignLogHead { checkpoint: head.clone() }).unwrap();
            head
        }

        fn by(&self, mut head: SignedCheckpoint, witness: usize) -> CosignLogHead {
            head.cosign(&self.witnesses[witness], 7);
            CosignLogHead { checkpoint: head }
        }

        /// The size of the head that is kept, and who has signed it.
        fn kept(&self) -> (u64, [bool; 2]) {
            let kept = &self.fixture.state.recording_log().witnessed().unwrap().checkpoint;
            let by = |at: usize| kept.verify_witness(self.witnesses[at].key()).is_ok();
            (kept.head().size, [by(0), by(1)])
        }
    }

    #[test]
    fn signatures_of_witnesses_gather_on_the_newest_head_that_one_has_signed() {
        let mut rig = Rig::new();
        let first = rig.signed(1);
        assert!(rig.fixture.state.recording_log().witnessed().is_none());
        rig.fixture.run(rig.by(first.clone(), 0)).unwrap();
        assert_eq!(rig.kept(), (1, [true, false]));
        let second = rig.signed(2);
        // A slow one; its head is not the newest any more.
        rig.fixture.run(rig.by(first.clone(), 1)).unwrap();
        assert_eq!(rig.kept(), (1, [true, true]));
        rig.fixture.run(rig.by(second.clone(), 1)).unwrap();
        assert_eq!(rig.kept(), (2, [false, true]));
        assert!(matches!(rig.fixture.run(rig.by(first, 0)), Err(Refusal::InvalidState(_))));
        rig.fixture.run(rig.by(second.clone(), 0)).unwrap();
        rig.fixture.run(rig.by(second, 0)).unwrap();
        assert_eq!(rig.kept(), (2, [true, true]));
        let restored = State::restore(&rig.fixture.state.snapshot()).unwrap();
        assert_eq!(restored.hash(), rig.fixture.state.hash());
        assert_eq!(restored.recording_log().witnessed(), rig.fixture.state.recording_log().witnessed());
    }

    #[test]
    fn only_heads_of_this_log_are_kept() {
        let mut rig = Rig::new();
        rig.signed(1);
        let of = |size, root, log: &NoteSigner| {
            SignedCheckpoint::sign(Checkpoint { origin: ORIGIN.into(), size, root }, log)
        };
        let foreign = NoteSigner::of_log(ORIGIN, &key()).unwrap();
        let root = rig.fixture.state.recording_log().root();
        for wrong in [of(1, Digest([1; 32]), &rig.log), of(2, root, &rig.log), of(1, root, &foreign)] {
            assert!(matches!(rig.fixture.run(rig.by(wrong, 0)), Err(Refusal::Invalid(_))));
        }
        // What is not signed yet is not published, be it right.
        rig.fixture.sealed(2).unwrap();
        let ahead = rig.head();
        assert!(matches!(rig.fixture.run(rig.by(ahead, 0)), Err(Refusal::Invalid(_))));
        assert!(rig.fixture.state.recording_log().witnessed().is_none());
    }
}

use postern_core::cluster::JoinToken;
use postern_core::node::NodeRole;
use postern_core::resource::FieldFault;
use postern_core::wire::cluster::{token_from_proto, token_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::{Context, Limits};

/// Makes a token by which nodes, or the first administrator, are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateJoinToken {
    /// The token; its creation time and revision are set when applied.
    pub token: JoinToken,
}

impl CreateJoinToken {
    pub(crate) fn to_proto(&self) -> pb::CreateJoinToken {
        pb::CreateJoinToken { token: Some(token_to_proto(&self.token)) }
    }

    pub(crate) fn from_proto(proto: pb::CreateJoinToken) -> Result<Self, Vec<FieldFault>> {
        let token = proto.token.ok_or_else(|| vec![FieldFault::new("token", "is missing")])?;
        Ok(Self { token: token_from_proto(token).map_err(fault)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let mut token = self.token;
        let members = &mut cx.state.members;
        if !(1..=64).contains(&token.id.len()) {
            return Err(Refusal::invalid("token.id", "must have 1 to 64 bytes"));
        }
        if token.created_by.len() > 1_024 {
            return Err(Refusal::invalid("token.created_by", "is longer than 1024 bytes"));
        }
        if token.uses_left == 0 {
            return Err(Refusal::invalid("token.uses_left", "must be at least 1"));
        }
        if token.expires_at <= cx.state.now {
            return Err(Refusal::invalid("token.expires_at", "is over"));
        }
        if (token.role == NodeRole::Agent) != token.agent_pool.is_some() {
            return Err(Refusal::invalid("token.agent_pool", "goes with the role agent, and only with it"));
        }
        if members.tokens.contains_key(&token.id) {
            return Err(Refusal::AlreadyExists { what: format!("join token {}", token.id) });
        }
        if members.tokens.len() >= Limits::STANDARD.join_tokens {
            return Err(Refusal::Limit(format!("{} join tokens", Limits::STANDARD.join_tokens)));
        }
        token.created_at = cx.state.now;
        token.revision = cx.state.index;
        Effect::Changed(ObjectKey::JoinToken(token.id.clone())).add_to(cx.effects);
        members.put_token(token);
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn tokens_are_unique_useful_and_end() {
        let mut fixture = Fixture::new();
        let token = join_token("t1", NodeRole::Gateway);
        assert_eq!(fixture.run(CreateJoinToken { token: token.clone() }), Ok(Success::Done));
        assert!(matches!(fixture.run(CreateJoinToken { token: token.clone() }), Err(Refusal::AlreadyExists { .. })));
        for spoil in [
            |token: &mut JoinToken| token.uses_left = 0,
            |token: &mut JoinToken| token.expires_at = postern_core::Timestamp::from_millis(1),
            |token: &mut JoinToken| token.id = String::new(),
            |token: &mut JoinToken| token.role = NodeRole::Agent,
        ] {
            let mut bad = JoinToken { id: "t2".into(), ..token.clone() };
            spoil(&mut bad);
            assert!(matches!(fixture.run(CreateJoinToken { token: bad }), Err(Refusal::Invalid(_))));
        }
        // Remembered for a day after its end, then forgotten.
        fixture.now = token.expires_at.millis() + 86_400_000 - 1;
        fixture.run(super::super::ExpireApprovals).unwrap();
        assert!(fixture.state.join_token("t1").is_some());
        fixture.now += 1;
        fixture.run(super::super::ExpireApprovals).unwrap();
        assert!(fixture.state.join_token("t1").is_none());
        assert_eq!(fixture.effects, [Effect::Changed(ObjectKey::JoinToken("t1".into()))]);
    }
}

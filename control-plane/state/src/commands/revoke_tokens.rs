use std::time::Duration;

use postern_core::resource::FieldFault;
use postern_core::revocation::{MARGIN, Mark, Revocation, Revoked};
use postern_core::service_account::ServiceAccount;
use postern_core::token::SESSION_TOKEN_MAX_TTL;
use postern_core::wire::revocation::revocation_to_proto;
use postern_core::{Name, Ttl};
use postern_proto::state::v1 as pb;

use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::revocations::from_proto;
use crate::state::{Context, Limits};

/// In one command.
const MOST: usize = 1_000;
/// Longer than any token should live.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);
const MAX_TEXT: usize = 256;
/// The feature level from which on single sessions can be ended.
const ENDS_SESSIONS: u32 = 7;

/// Ends tokens before their time: all of it, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeTokens {
    /// What; `at` and `revision` are set by applying it.
    pub revocations: Vec<Revocation>,
}

impl RevokeTokens {
    /// Of the command: sessions are ended by members and gateways that know of it.
    pub(crate) fn feature_level(&self) -> u32 {
        let sessions = self.revocations.iter().any(|revocation| matches!(revocation.of, Revoked::Session(_)));
        if sessions { ENDS_SESSIONS } else { 4 }
    }

    pub(crate) fn to_proto(&self) -> pb::RevokeTokens {
        pb::RevokeTokens { revocations: self.revocations.iter().map(revocation_to_proto).collect() }
    }

    pub(crate) fn from_proto(proto: pb::RevokeTokens) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { revocations: proto.revocations.into_iter().map(from_proto).collect::<Result<_, _>>()? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if self.revocations.is_empty() || self.revocations.len() > MOST {
            return Err(Refusal::invalid("revocations", format!("must be 1 to {MOST}")));
        }
        let (now, index, limits) = (cx.state.now, cx.state.index, Limits::STANDARD);
        let (mut new, mut broad, mut own): (Vec<(Mark, Revocation)>, usize, bool) = (Vec::new(), 0, false);
        for revocation in self.revocations {
            if revocation.until <= now || revocation.until > now.plus(LONGEST) {
                return Err(Refusal::invalid("until", format!("must lie within {} days", LONGEST.as_secs() / 86_400)));
            }
            if revocation.by.len() > MAX_TEXT || revocation.because.len() > MAX_TEXT {
                return Err(Refusal::invalid("because", format!("is longer than {MAX_TEXT} bytes")));
            }
            let mark = revocation.mark();
            if cx.state.revocations.is_new(&mark) {
                broad = broad.saturating_add(usize::from(!revocation.of.is_single()));
                own |= revocation.by.is_empty();
                new.push((mark, Revocation { at: now, revision: index, ..revocation }));
            }
        }
        let book = &mut cx.state.revocations;
        // What bearers do by themselves leaves room for what administrators have to do, and single tokens leave room for all else.
        let single = book.len().saturating_sub(book.broad()).saturating_add(new.len().saturating_sub(broad));
        let most = if own { limits.own_revocations } else { limits.revocations };
        if single > most && new.len() > broad {
            return Err(Refusal::Limit(format!("{most} revoked tokens")));
        }
        if book.broad().saturating_add(broad) > limits.broad_revocations && broad > 0 {
            return Err(Refusal::Limit(format!("{} revocations of more than one token", limits.broad_revocations)));
        }
        let changed = new.len();
        if changed == 0 {
            return Ok(Success::Revoked(0));
        }
        put(cx, new);
        Ok(Success::Revoked(u32::try_from(changed).unwrap_or(u32::MAX)))
    }
}

/// Revokes all that service accounts have: gateways do not know which accounts there are. Part of the command that makes it so.
pub(crate) fn revoke_accounts(cx: &mut Context<'_>, accounts: &[Name], because: &str) {
    let (now, index) = (cx.state.now, cx.state.index);
    let revoked = accounts.iter().filter_map(ServiceAccount::id).map(|id| {
        let of = Revoked::Principal(id);
        let until = now.plus(Ttl(SESSION_TOKEN_MAX_TTL).duration()).plus(MARGIN);
        let (by, because) = (String::new(), because.to_owned());
        let revocation = Revocation { of, issued_before: now, until, by, because, at: now, revision: index };
        (revocation.mark(), revocation)
    });
    let new: Vec<_> = revoked.filter(|(mark, _)| cx.state.revocations.is_new(mark)).collect();
    if !new.is_empty() {
        put(cx, new);
    }
}

/// Has what is new in force, here and with gateways.
pub(super) fn put(cx: &mut Context<'_>, new: Vec<(Mark, Revocation)>) {
    let mut marks = Vec::with_capacity(new.len());
    for (mark, revocation) in new {
        cx.state.logins.revoke(&revocation.of);
        cx.state.jobs.revoke(&revocation.of);
        cx.state.revoke_access(&revocation, cx.effects);
        cx.state.revocations.put(revocation);
        marks.push(mark);
    }
    cx.state.revocations.set_newest(cx.state.index, marks);
    Effect::Changed(ObjectKey::Revocations).add_to(cx.effects);
    cx.policy_changed();
}

/// Whether a login that is under way is one of what is revoked.
pub(crate) fn means(of: &Revoked, principal: &postern_core::Principal) -> bool {
    match of {
        Revoked::Token(_) | Revoked::Subtree(_) | Revoked::SigningKey(_) | Revoked::Session(_) => false,
        Revoked::Principal(id) => principal.id == *id,
        Revoked::Issuer(issuer) => principal.id.issuer == *issuer,
        Revoked::Claim { issuer, claim, value } => {
            principal.id.issuer == *issuer && principal.claims.says(claim, value)
        }
        Revoked::All => true,
    }
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;
    use postern_core::operation::Digest;
    use postern_core::revocation::TokenName;

    use super::super::testing::*;
    use super::super::{AcceptAssertion, ExpireApprovals, RaiseFeatureLevel};
    use super::*;
    use crate::logins::PendingLogin;
    use crate::state::State;

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.now = 10_000_000;
        fixture.run(RaiseFeatureLevel { level: 4 }).unwrap();
        fixture
    }

    fn of(of: Revoked, until_secs: u64) -> Revocation {
        Revocation {
            of,
            issued_before: Timestamp::from_secs(10_000),
            until: Timestamp::from_secs(until_secs),
            by: "ci/alice".into(),
            because: "lost".into(),
            at: Timestamp::default(),
            revision: 0,
        }
    }

    fn token(id: &str) -> Revoked {
        Revoked::Subtree(TokenName::session(id).unwrap())
    }

    fn revoke(all: &[Revocation]) -> RevokeTokens {
        RevokeTokens { revocations: all.to_vec() }
    }

    #[test]
    fn an_account_that_goes_takes_its_tokens_with_it() {
        use postern_core::resource::{ANY_REVISION, Kind, Resource, Spec};

        use super::super::{DeleteResource, PutResources};
        let mut fixture = fixture();
        let account = |disabled| {
            let mut resource: Resource = issuer("ci", "https://x", ANY_REVISION);
            let jwks = r#"{"keys":[]}"#.into();
            resource.spec = Spec::ServiceAccount(ServiceAccount { jwks, disabled, ..ServiceAccount::default() });
            PutResources { resources: vec![resource] }
        };
        let mark = Revoked::Principal(ServiceAccount::id(&name("ci")).unwrap()).key();
        let issued_before = |fixture: &Fixture| fixture.state.revocations.get(&mark).map(|it| it.issued_before.secs());
        fixture.run(account(false)).unwrap();
        assert_eq!(issued_before(&fixture), None);
        fixture.run(account(true)).unwrap();
        assert_eq!(issued_before(&fixture), Some(10_000));
        fixture.now = 20_000_000;
        fixture.run(account(false)).unwrap();
        assert_eq!(issued_before(&fixture), Some(10_000));
        let revision = fixture.state.policy_revision();
        let delete = DeleteResource { kind: Kind::ServiceAccount, name: name("ci"), expected_revision: 0 };
        fixture.run(delete).unwrap();
        assert_eq!(issued_before(&fixture), Some(20_000));
        assert!(fixture.state.policy_revision() > revision);
        // No longer than any of its tokens could live.
        fixture.now += 44_000_000;
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!(issued_before(&fixture), None);
    }

    #[test]
    fn it_is_kept_told_and_forgotten() {
        let mut fixture = fixture();
        let all = [of(token("a"), 10_100), of(Revoked::All, 10_200)];
        assert_eq!(fixture.run(revoke(&all)), Ok(Success::Revoked(2)));
        assert_eq!(fixture.effects, [Effect::Changed(ObjectKey::Revocations), Effect::PolicyChanged]);
        assert_eq!(fixture.state.policy_revision(), fixture.state.index());
        let marks = fixture.state.newest_revocations(fixture.state.index()).unwrap();
        assert_eq!(**marks, [all[0].mark(), all[1].mark()]);
        // Again is nothing new; longer is.
        assert_eq!(fixture.run(revoke(&all)), Ok(Success::Revoked(0)));
        assert!(fixture.effects.is_empty());
        let revision = fixture.state.index();
        assert_eq!(fixture.run(revoke(&[of(token("a"), 10_150)])), Ok(Success::Revoked(1)));
        let (told, total) = fixture.state.revocations_after(None, 10);
        assert_eq!((told.len(), total), (2, 2));
        let known = fixture.state.revocation(&token("a").key()).unwrap();
        assert_eq!((known.until, known.revision), (Timestamp::from_secs(10_150), revision + 1));
        // A page at a time.
        let (first, _) = fixture.state.revocations_after(None, 1);
        let (second, _) = fixture.state.revocations_after(Some(first[0].of.key()), 10);
        assert_eq!([&first[..], &second[..]].concat(), told);
        // As it was, over a snapshot.
        let restored = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(restored.hash(), fixture.state.hash());
        assert_eq!(restored.revocations(), fixture.state.revocations());
        fixture.state = restored;
        fixture.now = 10_152_000;
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!((fixture.state.revocations().len(), fixture.state.revocations_after(None, 10).1), (1, 1));
        fixture.now = 10_300_000;
        fixture.run(ExpireApprovals).unwrap();
        assert!(fixture.state.revocations().is_empty() && fixture.state.revocation(&Revoked::All.key()).is_none());
    }

    #[test]
    fn all_or_nothing_and_within_bounds() {
        let mut fixture = fixture();
        let refused = |fixture: &mut Fixture, all: &[Revocation]| {
            assert!(matches!(fixture.run(revoke(all)), Err(Refusal::Invalid(_))));
            assert!(fixture.state.revocations().is_empty());
        };
        refused(&mut fixture, &[]);
        refused(&mut fixture, &[of(token("a"), 10_100), of(token("b"), 9_999)]);
        refused(&mut fixture, &[of(token("a"), 10_000 + 401 * 86_400)]);
        refused(&mut fixture, &[Revocation { because: "x".repeat(257), ..of(token("a"), 10_100) }]);
        let mut old = Fixture::new();
        assert!(matches!(old.run(revoke(&[of(token("a"), 100)])), Err(Refusal::FeatureLevel { needed: 4, .. })));
    }

    #[test]
    fn a_login_under_way_is_lost_with_it() {
        let mut fixture = fixture();
        let login = |code: u8, who: &str| AcceptAssertion {
            once: vec![Digest([code; 32])],
            until: Timestamp::from_secs(10_100),
            login: Some(PendingLogin {
                code: Digest([code; 32]),
                challenge: None,
                principal: principal(who, &[]),
                expires_at: Timestamp::from_secs(10_060),
            }),
        };
        fixture.run(login(1, "alice")).unwrap();
        fixture.run(login(2, "rita")).unwrap();
        let alice = principal("alice", &[]).id;
        fixture.run(revoke(&[of(Revoked::Principal(alice), 10_100)])).unwrap();
        let redeem = |code: u8| super::super::RedeemLogin { code: Digest([code; 32]), challenge: None };
        assert!(matches!(fixture.run(redeem(1)), Err(Refusal::NotFound { .. })));
        assert!(matches!(fixture.run(redeem(2)), Ok(Success::Login(_))));
    }
}

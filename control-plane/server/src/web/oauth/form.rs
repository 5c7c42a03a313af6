//! The parameters of a request, as RFC 6749, section 3.2, and RFC 8693, section 2.1, have them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::extract::Form;
use axum::extract::rejection::FormRejection;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::Name;
use postern_core::principal::Actor;
use postern_core::scope::Scope;
use postern_core::token::{Confirmation, MAX_ACTOR};
use postern_core::wire::job::new_job_from_proto;
use postern_proto::resource::v1::NewJob;
use postern_runtime::jwt::{is_actor, unverified_issuer};
use zeroize::Zeroizing;

use super::answer::Problem;
use crate::api::{Ask, CLIENT_ASSERTION, Presented};
use crate::identity::Wanted;

/// Those that may stand more than once: RFC 8693, section 2.1.
const SEVERAL: [&str; 2] = ["resource", "audience"];
/// Of a target as a URI (RFC 8693, section 2.1, demands one of `resource`).
const TARGET: &str = "postern:target:";
/// Parameters of one request (I11).
const MOST: usize = 256;
/// Bytes of an Ed25519 public key, and of a SHA-256.
const KEY: usize = 32;

/// What came as a form.
pub(super) type Posted = Result<Form<Vec<(String, String)>>, FormRejection>;

/// Parameters by name; wiped when they go, as most of them are secrets.
#[derive(Default)]
pub(super) struct Params {
    once: BTreeMap<String, Zeroizing<String>>,
    several: Vec<(String, String)>,
}

/// A grant by assertion.
pub(super) struct Granted {
    pub(super) assertion: Zeroizing<String>,
    /// Whether a service account says that it is of itself.
    pub(super) account: bool,
    pub(super) wanted: Wanted,
}

impl Params {
    pub(super) fn read(posted: Posted) -> Result<Self, Problem> {
        let Ok(Form(posted)) = posted else {
            return Err(Problem::request("the body must be application/x-www-form-urlencoded"));
        };
        if posted.len() > MOST {
            return Err(Problem::request("too many parameters"));
        }
        let mut params = Self::default();
        for (name, value) in posted {
            let value = Zeroizing::new(value);
            if value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(Problem::request(format!("{name}: not UTF-8")));
            }
            if SEVERAL.contains(&&*name) {
                params.several.push((name, value.to_string()));
                continue;
            }
            match params.once.entry(name) {
                Entry::Vacant(free) => _ = free.insert(value),
                Entry::Occupied(known) => {
                    return Err(Problem::request(format!("{} stands there twice", known.key())));
                }
            }
        }
        // One without a value is none.
        params.once.retain(|_, value| !value.is_empty());
        Ok(params)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.once.get(name).map(|value| value.as_str())
    }

    pub(super) fn must(&self, name: &str) -> Result<&str, Problem> {
        self.get(name).ok_or_else(|| Problem::request(format!("{name} is missing")))
    }

    /// How a client proves who it is: RFC 7523, section 2.2.
    pub(super) fn client(&self) -> Result<&str, Problem> {
        let (Some(CLIENT_ASSERTION), Some(assertion)) =
            (self.get("client_assertion_type"), self.get("client_assertion"))
        else {
            return Err(Problem::client(None));
        };
        // One that is not who the assertion says is not who it says.
        match self.get("client_id") {
            Some(id) if unverified_issuer(assertion).as_deref() != Some(id) => Err(Problem::client(None)),
            _ => Ok(assertion),
        }
    }

    fn take(&mut self, name: &str) -> Zeroizing<String> {
        self.once.remove(name).unwrap_or_default()
    }

    /// A token exchange (RFC 8693, section 2.1).
    pub(super) fn exchange(mut self) -> Result<Ask, Problem> {
        for name in ["subject_token", "subject_token_type"] {
            self.must(name)?;
        }
        let actor = match (self.get("actor_token"), self.get("actor_token_type")) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                let kind = self.take("actor_token_type").to_string();
                Some(Presented { token: self.take("actor_token"), kind })
            }
            (Some(_), None) => return Err(Problem::request("actor_token_type is missing")),
            (None, Some(_)) => return Err(Problem::request("actor_token_type is there, and no actor_token")),
        };
        let wanted = self.wanted()?;
        let kind = self.take("subject_token_type").to_string();
        let code_verifier = self.take("code_verifier").to_string();
        let subject = Presented { token: self.take("subject_token"), kind };
        Ok(Ask { subject, code_verifier, actor, proof: None, wanted })
    }

    /// The JWT of a grant by assertion (RFC 7523, section 2.1): that of a service account, or a trusted issuer's.
    pub(super) fn granted(mut self) -> Result<Granted, Problem> {
        self.must("assertion")?;
        let (wanted, assertion) = (self.wanted()?, self.take("assertion"));
        // Accounts have names, issuers URLs.
        let account = unverified_issuer(&assertion).is_some_and(|iss| iss.parse::<Name>().is_ok());
        Ok(Granted { assertion, account, wanted })
    }

    /// What a token is to be good for.
    pub(super) fn wanted(&self) -> Result<Wanted, Problem> {
        let mut scope = Scope::from_words(self.get("scope").unwrap_or_default()).map_err(Problem::scope)?;
        for (name, value) in &self.several {
            let target = match (value.strip_prefix(TARGET), &**name) {
                (Some(target), _) => target,
                (None, "audience") => value,
                (None, _) => return Err(Problem::target(format!("a resource is {TARGET}NAME"))),
            };
            let target: Name = target.parse().map_err(|_| Problem::target("that is no target's name"))?;
            scope.targets.insert(target);
        }
        let number = |name: &str| match self.get(name).map(str::parse) {
            None => Ok(0),
            Some(Ok(number)) => Ok(number),
            Some(Err(_)) => Err(Problem::request(format!("{name} is no number"))),
        };
        let key = |name: &str| match self.get(name).map(|text| URL_SAFE_NO_PAD.decode(text)) {
            None => Ok(None),
            Some(Ok(bytes)) if bytes.len() == KEY => Ok(Some(bytes)),
            Some(_) => Err(Problem::request(format!("{name} must be {KEY} bytes in base64url"))),
        };
        let actor = match self.get("actor") {
            None => None,
            Some(name) if is_actor(name) => Some(Actor { issuer: None, name: name.into() }),
            Some(_) => {
                return Err(Problem::request(format!(
                    "actor has 1 to {MAX_ACTOR} bytes, none of them a control character"
                )));
            }
        };
        let job = match (self.get("job"), number("job_heartbeat")?) {
            (None, 0) => None,
            (None, _) => return Err(Problem::request("job_heartbeat is there, and no job")),
            (Some(name), heartbeat_seconds) => {
                let asked = NewJob { name: name.to_owned(), heartbeat_seconds };
                Some(new_job_from_proto(asked).map_err(|fault| Problem::request(fault.to_string()))?)
            }
        };
        let depth = u8::try_from(number("delegation_depth")?).unwrap_or(u8::MAX);
        Ok(Wanted {
            scope,
            ttl: number("requested_ttl")?,
            actor,
            delegation: key("delegation_key")?.map(|key| (key, depth)),
            confirmation: match (key("certificate_sha256")?, key("dpop_jkt")?) {
                (Some(_), Some(_)) => {
                    return Err(Problem::request("certificate_sha256 and dpop_jkt: a token is bound to one of them"));
                }
                (Some(sha256), None) => Some(Confirmation::certificate(&sha256)),
                (None, jkt) => jkt.map(|jkt| Confirmation::key(&jkt)),
            },
            job,
            ..Wanted::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::Ttl;

    fn params(of: &[(&str, &str)]) -> Result<Params, Problem> {
        Params::read(Ok(Form(of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())))
    }

    fn error(of: &[(&str, &str)]) -> &'static str {
        params(of).and_then(Params::exchange).map(drop).unwrap_err().error
    }

    const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
    const SUBJECT: [(&str, &str); 2] = [("subject_token", "t"), ("subject_token_type", JWT)];

    #[test]
    fn parameters_stand_once_and_have_values() {
        let ask = params(&[SUBJECT[0], SUBJECT[1], ("odd", "x"), ("actor", "")]).unwrap().exchange().unwrap();
        assert_eq!((ask.subject.token.as_str(), ask.wanted.ttl), ("t", 0));
        assert!(ask.actor.is_none() && ask.wanted.actor.is_none());
        assert_eq!(error(&[SUBJECT[0], SUBJECT[1], ("scope", ""), ("scope", "")]), "invalid_request");
        assert_eq!(error(&[SUBJECT[0], SUBJECT[1], ("odd", "x"), ("odd", "x")]), "invalid_request");
        for missing in [&[SUBJECT[0]], &[SUBJECT[1]]] {
            assert_eq!(error(missing), "invalid_request");
        }
        for lone in [("actor_token", "t"), ("actor_token_type", JWT)] {
            assert_eq!(error(&[SUBJECT[0], SUBJECT[1], lone]), "invalid_request");
        }
        let many: Vec<(String, &str)> = (0..=MOST).map(|n| (format!("p{n}"), "x")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, *value)).collect();
        assert_eq!(error(&many), "invalid_request");
    }

    #[test]
    fn what_is_wanted_is_read() {
        let key = URL_SAFE_NO_PAD.encode([7; KEY]);
        let ask = params(&[
            SUBJECT[0],
            SUBJECT[1],
            ("scope", "target:a action:sql:select"),
            ("audience", "b"),
            ("audience", "postern:target:c"),
            ("resource", "postern:target:d"),
            ("requested_ttl", "60"),
            ("actor", "planner"),
            ("delegation_key", &key),
            ("certificate_sha256", &key),
            ("job", "build"),
            ("job_heartbeat", "60"),
        ]);
        let wanted = ask.unwrap().exchange().unwrap().wanted;
        assert_eq!(wanted.scope.to_words(), "target:a target:b target:c target:d action:sql:select");
        let bound = |more| params(&[SUBJECT[0], SUBJECT[1], ("dpop_jkt", &key), more]).and_then(Params::exchange);
        assert_eq!(bound(("x", "y")).unwrap().wanted.confirmation, Some(Confirmation::Key(key.clone())));
        assert_eq!(bound(("certificate_sha256", &key)).map(drop).unwrap_err().error, "invalid_request");
        assert_eq!((wanted.ttl, wanted.delegation), (60, Some((vec![7; KEY], 0))));
        assert_eq!(wanted.job, Some(("build".to_owned(), Ttl(60))));
        assert_eq!(wanted.confirmation, Some(Confirmation::Certificate(key)));
        for (name, value, expected) in [
            ("scope", "openid", "invalid_scope"),
            ("audience", "No Name", "invalid_target"),
            ("resource", "shop", "invalid_target"),
            ("resource", "https://shop.example", "invalid_target"),
            ("requested_ttl", "soon", "invalid_request"),
            ("requested_ttl", "-1", "invalid_request"),
            ("job", "a\nb", "invalid_request"),
            ("job_heartbeat", "60", "invalid_request"),
            ("actor", "a\nb", "invalid_request"),
            ("delegation_key", "AAAA", "invalid_request"),
            ("certificate_sha256", "!", "invalid_request"),
            ("dpop_jkt", "AAAA", "invalid_request"),
            ("scope", "resource:\u{fffd}", "invalid_request"),
        ] {
            assert_eq!(error(&[SUBJECT[0], SUBJECT[1], (name, value)]), expected, "{name}={value}");
        }
    }
}

//! What an identity provider answers, against the rules of the browser profile (SAML 2.0 profiles, section 4.1.4.3) and of bearer assertions
//! (RFC 7522, section 3).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use postern_core::issuer::{Issuer, SamlIssuer};
use postern_core::operation::Digest;
use postern_core::principal::PrincipalId;
use postern_core::token::SESSION_TOKEN_MAX_TTL;
use postern_core::{KeptClaims, Name, Principal, Timestamp, Ttl};

use super::SamlError;
use super::decrypt::decrypt;
use super::keys::ServiceKey;
use super::layout::check_layout;
use super::metadata::{IdpMetadata, PROTOCOL};
use super::request::{Challenge, RequestIds};
use super::signature::verify;
use super::time::instant;
use super::xml::{Bounds, Element, parse};

/// The namespace of assertions.
pub(super) const ASSERTION: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";
const SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";
const STATUS: &str = "urn:oasis:names:tc:SAML:2.0:status:";
const TRANSIENT: &str = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient";
/// An assertion that is good for longer would have to be remembered for longer.
const LONGEST: Duration = Duration::from_secs(86_400);
const MAX_ID: usize = 256;
const MAX_GROUPS: usize = 1_024;
/// For subjects and groups, in bytes: as in tokens.
const MAX_NAME: usize = 255;

/// One issuer as this cluster knows it.
pub(crate) struct ServiceProvider<'a> {
    pub(crate) name: &'a Name,
    pub(crate) issuer: &'a Issuer,
    pub(crate) saml: &'a SamlIssuer,
    pub(crate) metadata: &'a IdpMetadata,
    pub(crate) keys: &'a [ServiceKey],
    /// Where answers are delivered to.
    pub(crate) recipient: &'a str,
    pub(crate) requests: &'a RequestIds,
}

/// An assertion that is accepted, once `once` is spent.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) principal: Principal,
    /// Of the request that it answers; `None`: it answers none.
    pub(crate) challenge: Option<Challenge>,
    /// What must not have been presented before: the assertion, and the request.
    pub(crate) once: Vec<Digest>,
    /// Neither could be presented again after it.
    pub(crate) until: Timestamp,
}

/// Which request an answer names, as far as that is signed.
struct Answers<'a> {
    signed: Option<&'a str>,
    unsigned: Option<&'a str>,
}

impl ServiceProvider<'_> {
    /// Takes in a response that a browser posted.
    ///
    /// # Errors
    /// It is not to be believed.
    pub(crate) fn response(&self, xml: &[u8], now: Timestamp) -> Result<Accepted, SamlError> {
        let root = parse(xml, Bounds::MESSAGE)?;
        if !root.is(PROTOCOL, "Response") || root.attribute("Version") != Some("2.0") {
            return Err(SamlError::NotAResponse);
        }
        check_layout(&root)?;
        self.check_metadata(now)?;
        let signed = verify(&root, &self.metadata.keys)?;
        match root.attribute("Destination") {
            Some(destination) if destination != self.recipient => return Err(SamlError::Destination),
            // SAML 2.0 bindings, section 3.5.5.2.
            None if signed => return Err(SamlError::Destination),
            _ => {}
        }
        let issued = root.attribute("IssueInstant").and_then(instant).ok_or(SamlError::Time("IssueInstant"))?;
        self.not_before(issued, now)?;
        if let Some(issuer) = root.at_most_one(ASSERTION, "Issuer").map_err(|()| SamlError::Shape("Issuer"))? {
            self.check_issuer(issuer)?;
        }
        check_status(&root)?;
        let shape = |()| SamlError::OneAssertion;
        let plain = root.at_most_one(ASSERTION, "Assertion").map_err(shape)?;
        let encrypted = root.at_most_one(ASSERTION, "EncryptedAssertion").map_err(shape)?;
        let said = root.attribute("InResponseTo");
        let answers =
            if signed { Answers { signed: said, unsigned: None } } else { Answers { signed: None, unsigned: said } };
        match (plain, encrypted) {
            (Some(_), None) if self.saml.require_encrypted => Err(SamlError::NotEncrypted),
            (Some(assertion), None) => self.assertion(assertion, signed, &answers, now),
            (None, Some(encrypted)) => {
                let opened = self.open(encrypted)?;
                self.assertion(&opened, signed, &answers, now)
            }
            _ => Err(SamlError::OneAssertion),
        }
    }

    /// Takes in an assertion that comes alone, to be exchanged: it must itself be signed, and answers no request.
    ///
    /// # Errors
    /// It is not to be believed.
    pub(crate) fn bare(&self, xml: &[u8], now: Timestamp) -> Result<Accepted, SamlError> {
        let root = parse(xml, Bounds::MESSAGE)?;
        check_layout(&root)?;
        self.check_metadata(now)?;
        let none = Answers { signed: None, unsigned: None };
        let accepted = if root.is(ASSERTION, "EncryptedAssertion") {
            self.assertion(&self.open(&root)?, false, &none, now)?
        } else if self.saml.require_encrypted {
            return Err(SamlError::NotEncrypted);
        } else {
            self.assertion(&root, false, &none, now)?
        };
        // What answers a browser's login is for whoever began that.
        if accepted.challenge.is_some() { Err(SamlError::Unexpected) } else { Ok(accepted) }
    }

    fn check_metadata(&self, now: Timestamp) -> Result<(), SamlError> {
        if self.metadata.valid_until.is_some_and(|end| end <= now) { Err(SamlError::MetadataOver) } else { Ok(()) }
    }

    fn open(&self, encrypted: &Element) -> Result<Element, SamlError> {
        let root = parse(&decrypt(encrypted, self.keys)?, Bounds::MESSAGE)?;
        check_layout(&root)?;
        Ok(root)
    }

    fn assertion(
        &self,
        assertion: &Element,
        within_signed: bool,
        answers: &Answers<'_>,
        now: Timestamp,
    ) -> Result<Accepted, SamlError> {
        if !assertion.is(ASSERTION, "Assertion") || assertion.attribute("Version") != Some("2.0") {
            return Err(SamlError::Shape("Assertion"));
        }
        // Its own signature counts also where the response's covers it.
        let signed = verify(assertion, &self.metadata.keys)?;
        if !signed && !within_signed {
            return Err(SamlError::Unsigned);
        }
        let id = assertion.attribute("ID").filter(|id| (1..=MAX_ID).contains(&id.len()));
        let id = id.ok_or(SamlError::Shape("Assertion"))?;
        let issued = assertion.attribute("IssueInstant").and_then(instant).ok_or(SamlError::Time("IssueInstant"))?;
        self.not_before(issued, now)?;
        self.check_issuer(one(assertion, "Issuer")?)?;
        let conditions = self.conditions(one(assertion, "Conditions")?, now)?;
        let subject = one(assertion, "Subject")?;
        let (confirmed, request) = self.confirmed(subject, answers, now)?;
        let ends = self.statements(assertion, now)?;
        let until = confirmed.min(conditions.unwrap_or(confirmed)).plus(self.issuer.leeway);
        if until > now.plus(LONGEST) {
            return Err(SamlError::TooLong);
        }
        let mut once = vec![spent(["assertion", &self.metadata.entity_id, id])];
        let challenge = match request {
            None if !self.saml.allow_unsolicited => return Err(SamlError::Unsolicited),
            None => None,
            Some(id) => {
                let known = self.requests.known(self.name, id, now)?;
                once.push(spent(["request", self.name.as_str(), id]));
                Some(known.challenge)
            }
        };
        let principal = Principal {
            id: PrincipalId { issuer: self.name.clone(), subject: self.subject(assertion, subject)? },
            groups: self.groups(assertion)?,
            token_id: None,
            expires_at: Some(ends),
            chain: Vec::new(),
            claims: self.kept(assertion)?,
        };
        // The request could be answered until its own end: it is remembered at least as long as that.
        let until = if challenge.is_some() { until.max(now.plus(super::request::LOGIN_TIME)) } else { until };
        Ok(Accepted { principal, challenge, once, until })
    }

    fn check_issuer(&self, issuer: &Element) -> Result<(), SamlError> {
        match issuer.text() {
            Some(text) if text.trim() == self.metadata.entity_id => Ok(()),
            _ => Err(SamlError::Issuer),
        }
    }

    fn not_before(&self, begin: Timestamp, now: Timestamp) -> Result<(), SamlError> {
        if begin > now.plus(self.issuer.leeway) { Err(SamlError::NotYetValid) } else { Ok(()) }
    }

    fn not_after(&self, end: Timestamp, now: Timestamp) -> Result<(), SamlError> {
        if now >= end.plus(self.issuer.leeway) { Err(SamlError::Expired) } else { Ok(()) }
    }

    /// When it is valid, and for whom. SAML 2.0 core, section 2.5.1. Gives the end, when it has one.
    fn conditions(&self, conditions: &Element, now: Timestamp) -> Result<Option<Timestamp>, SamlError> {
        if let Some(begin) = time(conditions, "NotBefore")? {
            self.not_before(begin, now)?;
        }
        let end = time(conditions, "NotOnOrAfter")?;
        if let Some(end) = end {
            self.not_after(end, now)?;
        }
        let mut restricted = false;
        for condition in conditions.elements() {
            if condition.is(ASSERTION, "AudienceRestriction") {
                let ours = |audience: &Element| audience.text().is_some_and(|text| text.trim() == self.saml.entity_id);
                // Each restriction holds, and any audience of it will do.
                if !condition.all(ASSERTION, "Audience").any(ours) {
                    return Err(SamlError::Audience);
                }
                restricted = true;
            } else if !condition.is(ASSERTION, "OneTimeUse") && !condition.is(ASSERTION, "ProxyRestriction") {
                // What is not understood is not fulfilled (section 2.5.1.1).
                return Err(SamlError::Condition);
            }
        }
        if restricted { Ok(end) } else { Err(SamlError::Audience) }
    }

    /// The confirmation by which whoever presents it is its subject: its end, and the request that it answers.
    fn confirmed<'a>(
        &self,
        subject: &'a Element,
        answers: &Answers<'a>,
        now: Timestamp,
    ) -> Result<(Timestamp, Option<&'a str>), SamlError> {
        let mut refusal = SamlError::NotBearer;
        for confirmation in subject.all(ASSERTION, "SubjectConfirmation") {
            if confirmation.attribute("Method") != Some(BEARER) {
                continue;
            }
            match self.bearer(confirmation, answers, now) {
                Ok(confirmed) => return Ok(confirmed),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn bearer<'a>(
        &self,
        confirmation: &'a Element,
        answers: &Answers<'a>,
        now: Timestamp,
    ) -> Result<(Timestamp, Option<&'a str>), SamlError> {
        let data = one(confirmation, "SubjectConfirmationData")?;
        if data.attribute("Recipient") != Some(self.recipient) {
            return Err(SamlError::Recipient);
        }
        let end = time(data, "NotOnOrAfter")?.ok_or(SamlError::Time("NotOnOrAfter"))?;
        self.not_after(end, now)?;
        if let Some(begin) = time(data, "NotBefore")? {
            self.not_before(begin, now)?;
        }
        let own = data.attribute("InResponseTo");
        let said = [own, answers.signed, answers.unsigned];
        let mut said = said.into_iter().flatten();
        if let Some(first) = said.next()
            && said.any(|other| other != first)
        {
            return Err(SamlError::InResponseTo);
        }
        // What is not signed may contradict, and never vouches.
        Ok((end, own.or(answers.signed)))
    }

    /// Until when the subject is logged in.
    fn statements(&self, assertion: &Element, now: Timestamp) -> Result<Timestamp, SamlError> {
        let mut ends = now.plus(Ttl(SESSION_TOKEN_MAX_TTL).duration());
        let mut any = false;
        for statement in assertion.all(ASSERTION, "AuthnStatement") {
            let at = time(statement, "AuthnInstant")?.ok_or(SamlError::Time("AuthnInstant"))?;
            self.not_before(at, now)?;
            if let Some(max_age) = self.issuer.max_age {
                if now > at.plus(max_age).plus(self.issuer.leeway) {
                    return Err(SamlError::TooOld);
                }
                ends = ends.min(at.plus(max_age).plus(self.issuer.leeway));
            }
            if let Some(end) = time(statement, "SessionNotOnOrAfter")? {
                if now >= end {
                    return Err(SamlError::Expired);
                }
                ends = ends.min(end);
            }
            any = true;
        }
        if any { Ok(ends) } else { Err(SamlError::NoAuthnStatement) }
    }

    fn subject(&self, assertion: &Element, subject: &Element) -> Result<Arc<str>, SamlError> {
        let Some(attribute) = &self.saml.subject_attribute else {
            let name = one(subject, "NameID").map_err(|_| SamlError::Subject("the assertion has not one NameID"))?;
            if name.attribute("Format") == Some(TRANSIENT) {
                return Err(SamlError::Subject(
                    "its NameID is transient, another at each login: name a subjectAttribute",
                ));
            }
            // Its text whole, or none: there are no comments that could cut it.
            return fit(&name.text().ok_or(SamlError::Subject("its NameID is not text"))?);
        };
        let values = values(assertion, attribute)?;
        match values.as_slice() {
            [one] => fit(one),
            _ => Err(SamlError::Subject("the subject's attribute has not one value")),
        }
    }

    /// By the names that tokens have for them: how the subject logged in, and when first. What the issuer's rules keep goes first, and must fit.
    fn kept(&self, assertion: &Element) -> Result<KeptClaims, SamlError> {
        let mut kept = KeptClaims::default();
        for name in &self.issuer.keep {
            let values = values(assertion, name.as_str())?;
            let values = values.iter().map(|value| value.trim()).filter(|value| !value.is_empty());
            let values: Vec<Arc<str>> = values.map(Into::into).collect();
            if values.iter().any(|value| value.chars().any(char::is_control)) || !kept.keep(name.as_str(), values) {
                return Err(SamlError::Kept);
            }
        }
        let statements = || assertion.all(ASSERTION, "AuthnStatement");
        let first = statements().filter_map(|statement| time(statement, "AuthnInstant").ok().flatten()).min();
        let contexts = statements().flat_map(|statement| statement.all(ASSERTION, "AuthnContext"));
        let classes = contexts.flat_map(|context| context.all(ASSERTION, "AuthnContextClassRef"));
        let classes = classes.filter_map(Element::text).map(|class| class.trim().to_owned());
        let classes = classes.filter(|class| !class.is_empty() && !class.chars().any(char::is_control));
        let classes: Vec<Arc<str>> = classes.map(Into::into).collect();
        for (name, values) in
            [("acr", classes), ("auth_time", first.into_iter().map(|at| at.secs().to_string().into()).collect())]
        {
            // An attribute of that name that is kept is what the provider says of it.
            if kept.values(name).is_empty() {
                let _ = kept.keep(name, values);
            }
        }
        Ok(kept)
    }

    fn groups(&self, assertion: &Element) -> Result<BTreeSet<Arc<str>>, SamlError> {
        let values = values(assertion, &self.saml.groups_attribute)?;
        if values.len() > MAX_GROUPS {
            return Err(SamlError::Groups);
        }
        let prefix = &self.issuer.groups_prefix;
        let group = |value: &String| Ok(format!("{prefix}{}", fit(value).map_err(|_| SamlError::Groups)?).into());
        values.iter().map(group).collect()
    }
}

/// The values of an attribute. One of another shape than text is refused, not passed over: a rule that denies a group must not be lost.
fn values(assertion: &Element, name: &str) -> Result<Vec<String>, SamlError> {
    let statements = assertion.all(ASSERTION, "AttributeStatement");
    let attributes = statements.flat_map(|statement| statement.elements());
    let mut all = Vec::new();
    for attribute in attributes {
        if attribute.is(ASSERTION, "EncryptedAttribute") {
            return Err(SamlError::Shape("EncryptedAttribute"));
        }
        if !attribute.is(ASSERTION, "Attribute") || attribute.attribute("Name") != Some(name) {
            continue;
        }
        for value in attribute.all(ASSERTION, "AttributeValue") {
            all.push(value.text().ok_or(SamlError::Shape("AttributeValue"))?);
        }
    }
    Ok(all)
}

/// SAML 2.0 core, section 3.2.2.2.
fn check_status(root: &Element) -> Result<(), SamlError> {
    let one = |of: &Element, local: &str| -> Result<String, SamlError> {
        let code = of.at_most_one(PROTOCOL, local).ok().flatten().ok_or(SamlError::Shape("Status"))?;
        Ok(code.attribute("Value").unwrap_or_default().to_owned())
    };
    let status = root.at_most_one(PROTOCOL, "Status").ok().flatten().ok_or(SamlError::Shape("Status"))?;
    if one(status, "StatusCode")? == SUCCESS {
        return Ok(());
    }
    let inner = status.all(PROTOCOL, "StatusCode").flat_map(|code| code.all(PROTOCOL, "StatusCode")).next();
    let inner = inner.and_then(|code| code.attribute("Value")).and_then(|value| value.strip_prefix(STATUS));
    let known = [
        "AuthnFailed",
        "NoAuthnContext",
        "NoPassive",
        "RequestDenied",
        "RequestUnsupported",
        "InvalidNameIDPolicy",
        "UnknownPrincipal",
    ];
    let known = known.into_iter().find(|known| Some(*known) == inner);
    Err(SamlError::Status(known.unwrap_or("it failed")))
}

/// The one child of that name among the assertion's own elements.
fn one<'a>(of: &'a Element, local: &'static str) -> Result<&'a Element, SamlError> {
    let mut all = of.elements().filter(|element| element.is(ASSERTION, local));
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(SamlError::Shape(local)),
    }
}

fn time(of: &Element, attribute: &'static str) -> Result<Option<Timestamp>, SamlError> {
    of.attribute(attribute).map(|text| instant(text).ok_or(SamlError::Time(attribute))).transpose()
}

/// Names end up in recordings, logs and terminals: not empty, not long, no control characters.
fn fit(text: &str) -> Result<Arc<str>, SamlError> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(SamlError::Subject("it is empty, too long or has control characters"));
    }
    Ok(text.into())
}

/// What stands for something that may be presented once.
fn spent<const N: usize>(parts: [&str; N]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    Digest(context.finish().as_ref().try_into().unwrap_or_default())
}

/// Who says that it made an assertion, taken at its word: to choose whose rules it is judged by, and for nothing else.
///
/// # Errors
/// It is no assertion. One that is encrypted does not say.
pub(super) fn unverified_issuer(xml: &[u8]) -> Result<String, SamlError> {
    let root = parse(xml, Bounds::MESSAGE)?;
    if !root.is(ASSERTION, "Assertion") {
        return Err(SamlError::Shape("Assertion"));
    }
    Ok(one(&root, "Issuer")?.text().ok_or(SamlError::Shape("Issuer"))?.trim().to_owned())
}

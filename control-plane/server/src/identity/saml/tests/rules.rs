use super::*;

fn said(change: impl FnOnce(&mut Said)) -> Said {
    let mut said = Said::right();
    change(&mut said);
    said
}

#[test]
fn for_us_by_the_issuer_and_now() {
    assert_eq!(refusal(&said(|s| s.issuer = "https://evil.example.test".into())), SamlError::Issuer);
    assert_eq!(refusal(&said(|s| s.audience = "https://other.example.test".into())), SamlError::Audience);
    assert_eq!(refusal(&said(|s| s.recipient = ACS.replace("corp", "evil"))), SamlError::Recipient);
    assert_eq!(
        refusal(&said(|s| s.destination = " Destination=\"https://other.example.test/acs\"".into())),
        SamlError::Destination
    );
    assert_eq!(refusal(&said(|s| s.not_after = earlier(30))), SamlError::Expired);
    accept(&said(|s| s.not_after = earlier(29)).response()).unwrap();
    assert_eq!(refusal(&said(|s| s.not_before = later(31))), SamlError::NotYetValid);
    accept(&said(|s| s.not_before = later(30)).response()).unwrap();
    assert_eq!(refusal(&said(|s| s.login = later(31))), SamlError::NotYetValid);
    assert_eq!(refusal(&said(|s| s.session_end = NOW)), SamlError::Expired);
    assert_eq!(refusal(&said(|s| s.not_after = later(100_000))), SamlError::TooLong);
    // A signed response must say where it goes.
    let nowhere = said(|s| s.destination = String::new());
    accept(&nowhere.response()).unwrap();
    assert_eq!(accept(&nowhere.signed_response()).unwrap_err(), SamlError::Destination);
    let gone = |part: &str| {
        accept(&put_signature(
            &Said::right().around(&Said::right().assertion().replace("SIG-A", "").replace(part, "")),
            "SIG-R",
            "r1",
            &IDP,
        ))
        .unwrap_err()
    };
    assert_eq!(
        gone(&format!("<saml:AudienceRestriction><saml:Audience>{OURS}</saml:Audience></saml:AudienceRestriction>")),
        SamlError::Audience
    );
    assert_eq!(
        gone(&format!(" NotOnOrAfter=\"{}\" Recipient", later(300)).replace(" Recipient", "")),
        SamlError::Time("NotOnOrAfter")
    );
    assert_eq!(gone(&format!(" Recipient=\"{ACS}\"")), SamlError::Recipient);
    assert_eq!(gone(&format!(" AuthnInstant=\"{}\"", earlier(5))), SamlError::Time("AuthnInstant"));
    assert_eq!(gone(" Version=\"2.0\""), SamlError::Shape("Assertion"));
    assert_eq!(gone(&format!("<saml:Issuer>{ENTITY}</saml:Issuer>")), SamlError::Shape("Issuer"));
}

#[test]
fn every_audience_restriction_holds() {
    let second = "<saml:AudienceRestriction><saml:Audience>https://other.example.test</saml:Audience></saml:AudienceRestriction>";
    assert_eq!(refusal(&said(|s| s.extra_condition = second.into())), SamlError::Audience);
    accept(&said(|s| s.extra_condition = "<saml:OneTimeUse/>".into()).response()).unwrap();
    let unknown = "<saml:Condition xmlns:x=\"urn:x\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"x:Moon\"/>";
    assert_eq!(refusal(&said(|s| s.extra_condition = unknown.into())), SamlError::Condition);
}

#[test]
fn only_for_the_bearer() {
    for method in ["urn:oasis:names:tc:SAML:2.0:cm:holder-of-key", "urn:oasis:names:tc:SAML:2.0:cm:sender-vouches", ""]
    {
        assert_eq!(refusal(&said(|s| s.method = method.into())), SamlError::NotBearer);
    }
}

#[test]
fn answers_a_request_of_ours_or_is_refused() {
    let none = said(|s| (s.request, s.response_request) = (None, None));
    assert_eq!(refusal(&none), SamlError::Unsolicited);
    let open = issuer(|saml| saml.allow_unsolicited = true);
    let accepted = accept_by(&open, &none.response()).unwrap();
    assert_eq!((accepted.challenge, accepted.once.len()), (None, 1));
    let foreign = said(|s| (s.request, s.response_request) = (Some("_x".into()), Some("_x".into())));
    assert_eq!(refusal(&foreign), SamlError::UnknownRequest);
    // Also where unsolicited ones are let in: it says that it answers one.
    assert_eq!(accept_by(&open, &foreign.response()).unwrap_err(), SamlError::UnknownRequest);
    let elsewhere = requests().make(&name("other"), &CHALLENGE, [1; 16], NOW);
    let other = said(|s| (s.request, s.response_request) = (Some(elsewhere.clone()), Some(elsewhere)));
    assert_eq!(refusal(&other), SamlError::UnknownRequest);
    let old = requests().make(&name("corp"), &CHALLENGE, [1; 16], earlier(601));
    let late = said(|s| (s.request, s.response_request) = (Some(old.clone()), Some(old)));
    assert_eq!(refusal(&late), SamlError::RequestOver);
    let second = requests().make(&name("corp"), &CHALLENGE, [2; 16], NOW);
    assert_eq!(refusal(&said(|s| s.response_request = Some(second))), SamlError::InResponseTo);
    // A stolen assertion that answers nothing, in a response that says it does: only what is signed vouches for that.
    let spliced = said(|s| s.request = None);
    assert_eq!(accept(&spliced.response()).unwrap_err(), SamlError::Unsolicited);
    assert_eq!(accept(&spliced.signed_response()).unwrap().challenge, Some(CHALLENGE));
}

#[test]
fn a_refusal_of_the_provider_is_one() {
    let xml = Said::right().around("").replace("SIG-R", "").replace("status:Success\"/>", "status:Responder\"><samlp:StatusCode Value=\"urn:oasis:names:tc:SAML:2.0:status:AuthnFailed\"/></samlp:StatusCode>");
    assert_eq!(accept(&xml).unwrap_err(), SamlError::Status("AuthnFailed"));
    assert_eq!(refusal(&said(|s| s.status = "Responder".into())), SamlError::Status("it failed"));
    assert_eq!(refusal(&said(|s| s.status = "success".into())), SamlError::Status("it failed"));
}

#[test]
fn a_login_may_be_too_old() {
    let mut by = issuer(|_| ());
    by.max_age = Some(std::time::Duration::from_secs(600));
    let accepted = accept_by(&by, &said(|s| s.login = earlier(300)).response()).unwrap();
    assert_eq!(accepted.principal.expires_at, Some(later(330)));
    assert_eq!(accept_by(&by, &said(|s| s.login = earlier(631)).response()).unwrap_err(), SamlError::TooOld);
}

/// Duo, 2018: `user@example.com<!---->.evil.com` was signed for one name and read as another. Here neither is read.
#[test]
fn a_comment_in_a_name_cuts_nothing() {
    for name in [
        "<saml:NameID>admin<!-- -->.evil</saml:NameID>",
        "<saml:NameID>ad<!---->min</saml:NameID>",
        "<saml:NameID><b>admin</b></saml:NameID>",
    ] {
        let said = said(|s| s.name = name.into());
        let error = if name.contains("!-") {
            SamlError::Xml(XmlError::Comment)
        } else {
            SamlError::Subject("its NameID is not text")
        };
        assert_eq!(refusal(&said), error);
    }
    // Put in after it was signed: the canonical form, and so the signature, would be the same.
    let after = Said::right().response().replace("alice@", "alice<!-- -->@");
    assert_eq!(accept(&after).unwrap_err(), SamlError::Xml(XmlError::Comment));
    let cdata = said(|s| s.name = "<saml:NameID>al<![CDATA[ice]]></saml:NameID>".into());
    assert_eq!(&*accept(&cdata.response()).unwrap().principal.id.subject, "alice");
}

#[test]
fn names_and_groups_are_fit_to_be_shown() {
    for bad in ["", " ", "&#9;&#10;", "a&#10;b", &"x".repeat(256)] {
        assert!(
            matches!(refusal(&said(|s| s.name = format!("<saml:NameID>{bad}</saml:NameID>"))), SamlError::Subject(_)),
            "{bad}"
        );
    }
    let group = |value: &str| {
        said(|s| {
            s.attributes = format!(
                "<saml:Attribute Name=\"groups\"><saml:AttributeValue>{value}</saml:AttributeValue></saml:Attribute>"
            )
        })
    };
    assert_eq!(refusal(&group("")), SamlError::Groups);
    assert_eq!(refusal(&group("a&#10;b")), SamlError::Groups);
    assert_eq!(refusal(&group("<x/>")), SamlError::Shape("AttributeValue"));
    assert_eq!(
        refusal(&said(|s| s.attributes = "<saml:EncryptedAttribute/>".into())),
        SamlError::Shape("EncryptedAttribute")
    );
    assert_eq!(
        refusal(&said(|s| s.name = "<saml:EncryptedID/>".into())),
        SamlError::Subject("the assertion has not one NameID")
    );
}

#[test]
fn no_entities_no_bombs() {
    let xml = Said::right().response();
    let bomb = format!("<!DOCTYPE r [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>{xml}");
    assert_eq!(accept(&bomb).unwrap_err(), SamlError::Xml(XmlError::Doctype));
    let external = format!("<?xml version=\"1.0\"?><!DOCTYPE r SYSTEM \"http://evil.example.test/x.dtd\">{xml}");
    assert_eq!(accept(&external).unwrap_err(), SamlError::Xml(XmlError::Doctype));
    let style = format!("<?xml-stylesheet href=\"http://evil.example.test/x.xsl\"?>{xml}");
    assert_eq!(accept(&style).unwrap_err(), SamlError::Xml(XmlError::Instruction));
    let deep = xml.replace("<saml:Subject>", &("<x>".repeat(100) + "<saml:Subject>"));
    assert_eq!(accept(&deep).unwrap_err(), SamlError::Xml(XmlError::TooLarge));
}

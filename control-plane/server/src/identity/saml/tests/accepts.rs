use std::collections::BTreeSet;

use super::*;

#[test]
fn an_assertion_is_a_principal() {
    for xml in [Said::right().response(), Said::right().signed_response()] {
        let accepted = accept(&xml).unwrap();
        assert_eq!(accepted.principal.id.to_string(), "corp/alice@example.test");
        assert_eq!(accepted.principal.groups, BTreeSet::from(["corp:dev".into(), "corp:ops & more".into()]));
        assert_eq!(accepted.principal.expires_at, Some(later(3_600)));
        assert_eq!(accepted.challenge, Some(CHALLENGE));
        assert_eq!(accepted.once.len(), 2);
        assert_eq!(accepted.until, later(600));
    }
    // Both signed; as a Windows machine would write it, and one that likes white space.
    let both = put_signature(&Said::right().around(&Said::right().signed_assertion()), "SIG-R", "r1", &IDP);
    accept(&both).unwrap();
    accept(&both.replace("<samlp:Status>", "<samlp:Status >")).unwrap();
    accept(&both.replace("/></samlp:Status>", "></samlp:StatusCode></samlp:Status>")).unwrap();
    let spread = Said::right().response().replace("<samlp:Status>", "\r\n  <samlp:Status>");
    accept(&format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n{spread}\r\n")).unwrap();
}

#[test]
fn the_same_assertion_is_the_same_and_another_is_another() {
    let once = |said: &Said| accept(&said.response()).unwrap().once;
    let right = Said::right();
    assert_eq!(once(&right), accept(&right.signed_response()).unwrap().once);
    let other = Said { assertion_id: "a2".into(), ..right.clone() };
    assert_ne!(once(&right)[0], once(&other)[0]);
    // The request is spent all the same.
    assert_eq!(once(&right)[1], once(&other)[1]);
}

#[test]
fn what_it_is_called_and_who_it_is_with_is_configured() {
    let attribute = |name: &str, value: &str| {
        format!("<saml:Attribute Name=\"{name}\"><saml:AttributeValue>{value}</saml:AttributeValue></saml:Attribute>")
    };
    let said = Said {
        name: "<saml:NameID Format=\"urn:oasis:names:tc:SAML:2.0:nameid-format:transient\">_x</saml:NameID>".into(),
        attributes: attribute("uid", "bob") + &attribute("urn:roles", "admin") + &attribute("groups", "none"),
        ..Said::right()
    };
    assert!(matches!(accept(&said.response()), Err(SamlError::Subject(why)) if why.contains("transient")));
    let by = issuer(|saml| (saml.subject_attribute, saml.groups_attribute) = (Some("uid".into()), "urn:roles".into()));
    let accepted = accept_by(&by, &said.response()).unwrap();
    assert_eq!(accepted.principal.id.to_string(), "corp/bob");
    assert_eq!(accepted.principal.groups, BTreeSet::from(["corp:admin".into()]));
    let twice = Said { attributes: attribute("uid", "bob") + &attribute("uid", "eve"), ..said.clone() };
    assert!(matches!(accept_by(&by, &twice.response()), Err(SamlError::Subject(_))));
    let none = Said { attributes: attribute("other", "bob"), ..said };
    assert!(matches!(accept_by(&by, &none.response()), Err(SamlError::Subject(_))));
}

#[test]
fn how_it_was_proven_and_what_is_asked_for_is_kept() {
    let accepted = accept(&Said::right().response()).unwrap();
    let claims = accepted.principal.claims;
    assert!(claims.says("acr", "urn:oasis:names:tc:SAML:2.0:ac:classes:Password"));
    assert!(claims.says("auth_time", &earlier(5).secs().to_string()));
    assert_eq!(claims.iter().count(), 2);
    let mut by = issuer(|_| ());
    by.keep = vec![ClaimPath::of_name("groups"), ClaimPath::of_name("absent")];
    let claims = accept_by(&by, &Said::right().response()).unwrap().principal.claims;
    assert!(claims.says("groups", "ops & more") && claims.iter().count() == 3);
    let long = format!(
        "<saml:Attribute Name=\"groups\"><saml:AttributeValue>{}</saml:AttributeValue></saml:Attribute>",
        "x ".repeat(600)
    );
    let said = Said { attributes: long.replace("groups", "long"), ..Said::right() };
    by.keep = vec![ClaimPath::of_name("long")];
    assert_eq!(accept_by(&by, &said.response()).unwrap_err(), SamlError::Kept);
}

#[test]
fn a_bare_assertion_must_be_signed_and_wanted() {
    let said = Said { request: None, ..Said::right() };
    let bare = |issuer: &Issuer, xml: &str| with(issuer, &[], |provider| provider.bare(xml.as_bytes(), NOW));
    let open = issuer(|saml| saml.allow_unsolicited = true);
    let accepted = bare(&open, &said.signed_assertion()).unwrap();
    assert_eq!((accepted.challenge, accepted.once.len(), accepted.until), (None, 1, later(330)));
    assert_eq!(bare(&issuer(|_| ()), &said.signed_assertion()).unwrap_err(), SamlError::Unsolicited);
    assert_eq!(bare(&open, &said.assertion().replace("SIG-A", "")).unwrap_err(), SamlError::Unsigned);
    // What answers a login in a browser is not for whoever got hold of it.
    assert_eq!(bare(&open, &Said::right().signed_assertion()).unwrap_err(), SamlError::Unexpected);
    assert_eq!(bare(&open, &said.response()).unwrap_err(), SamlError::Shape("Assertion"));
}

#[test]
fn metadata_says_where_and_by_which_keys() {
    let read = IdpMetadata::read(&metadata()).unwrap();
    assert_eq!((read.entity_id.as_str(), read.redirect.as_deref()), (ENTITY, Some("https://idp.example.test/sso")));
    let bad = |from: &str, to: &str| IdpMetadata::read(&metadata().replace(from, to)).unwrap_err();
    assert_eq!(
        bad("<EntityDescriptor", "<EntitiesDescriptor").to_string(),
        "is not metadata: it is not well-formed XML"
    );
    assert_eq!(bad("EntityDescriptor", "EntitiesDescriptor"), MetadataError::Root);
    assert_eq!(bad("entityID", "id"), MetadataError::EntityId);
    assert_eq!(bad("IDPSSO", "SPSSO"), MetadataError::Role);
    assert_eq!(bad("HTTP-Redirect", "SOAP"), MetadataError::NoService);
    assert_eq!(bad("https://idp.example.test/sso", "http://idp.example.test/sso"), MetadataError::Service);
    assert_eq!(bad("https://idp.example.test/sso", "javascript:alert(1)"), MetadataError::Service);
    assert_eq!(bad("use=\"signing\"", "use=\"encryption\""), MetadataError::NoKey);
    assert!(matches!(bad("Certificate>\nMII", "Certificate>\nMIK"), MetadataError::Key(_)));
    // A provider that rotates its keys has two of them.
    let two = issuer(|saml| saml.metadata = metadata_with(&[&STRANGER, &IDP], ""));
    accept_by(&two, &Said::right().response()).unwrap();
    let over = issuer(|saml| saml.metadata = metadata_with(&[&IDP], &format!("validUntil=\"{NOW}\"")));
    assert_eq!(accept_by(&over, &Said::right().response()).unwrap_err(), SamlError::MetadataOver);
}

#[test]
fn requests_are_signed_so_that_others_can_check_it() {
    let keys = ServiceKey::read_all(OWN.pem().as_bytes()).unwrap();
    let id = request();
    let asked = AuthnRequest { id: &id, at: NOW, destination: "https://idp/sso?a=b&c", acs: ACS, entity_id: OURS };
    let posted = STANDARD.decode(asked.post(keys.first()).unwrap()).unwrap();
    let root = parse(&posted, Bounds::MESSAGE).unwrap();
    assert_eq!(root.attribute("Destination"), Some("https://idp/sso?a=b&c"));
    let own = super::super::signature::TrustedKey::from_certificate(&OWN.certificate).unwrap();
    assert_eq!(super::super::signature::verify(&root, &[own]), Ok(true));
    let url = asked.redirect(keys.first()).unwrap();
    assert!(
        url.starts_with("https://idp/sso?a=b&c&SAMLRequest=") && url.contains("&SigAlg=http%3A%2F%2Fwww.w3.org"),
        "{url}"
    );
    assert!(!asked.redirect(None).unwrap().contains("Signature"));
    let shown = service_metadata(OURS, ACS, &keys);
    let root = parse(shown.as_bytes(), Bounds::METADATA).unwrap();
    assert_eq!(root.attribute("entityID"), Some(OURS));
    assert!(shown.contains(&STANDARD.encode(&OWN.certificate)) && shown.contains("use=\"encryption\""));
}

#[test]
fn a_key_goes_with_its_certificate() {
    let own = OWN.pem();
    assert_eq!(ServiceKey::read_all((own.clone() + &IDP.pem()).as_bytes()).unwrap().len(), 2);
    let crossed = own.replace(&STANDARD.encode(&OWN.certificate), &STANDARD.encode(&IDP.certificate));
    assert_eq!(ServiceKey::read_all(crossed.as_bytes()).unwrap_err(), ServiceKeyError::Certificate);
    assert_eq!(ServiceKey::read_all(b"nothing").unwrap_err(), ServiceKeyError::Count);
    let alone = own.split("-----BEGIN CERTIFICATE").next().unwrap();
    assert_eq!(ServiceKey::read_all(alone.as_bytes()).unwrap_err(), ServiceKeyError::Certificate);
}

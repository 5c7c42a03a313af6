//! Signature wrapping (Somorovsky and others, "On Breaking SAML: Be Whoever You Want to Be", 2012), and other ways to have something verified that is
//! not what is read. XSW1 to XSW8 are numbered as in SAML Raider.

use super::*;

const EVIL: &str = "<saml:NameID>root@example.test</saml:NameID>";

/// The assertion that an attacker would have read.
fn evil() -> Said {
    Said { assertion_id: "evil".into(), name: EVIL.into(), ..Said::right() }
}

fn evil_assertion() -> String {
    evil().assertion().replace("SIG-A", "")
}

/// Signature and the signed element without it.
fn apart(xml: &str) -> (String, String) {
    let begin = xml.find("<ds:Signature ").unwrap();
    let end = xml.find("</ds:Signature>").unwrap() + "</ds:Signature>".len();
    (xml[begin..end].to_owned(), format!("{}{}", &xml[..begin], &xml[end..]))
}

fn in_object(signature: &str, what: &str) -> String {
    signature.replace("</ds:Signature>", &format!("<ds:Object>{what}</ds:Object></ds:Signature>"))
}

fn response_around(assertions: &str) -> String {
    Said::right().around(assertions).replace("SIG-R", "")
}

fn refused(what: &str, xml: &str) {
    let error = accept(xml).unwrap_err();
    assert!(
        matches!(
            error,
            SamlError::Wrapping
                | SamlError::DuplicateId
                | SamlError::OneAssertion
                | SamlError::Reference
                | SamlError::SignatureShape
        ),
        "{what}: {error:?}"
    );
}

#[test]
fn wrapped_responses_are_refused() {
    let (signature, original) = apart(&Said::right().signed_response());
    let evil = Said::right().around(&evil_assertion()).replace("ID=\"r1\"", "ID=\"evil-r\"");
    refused("XSW1", &evil.replace("SIG-R", &in_object(&signature, &original)));
    refused("XSW1, the same id", &evil.replace("evil-r", "r1").replace("SIG-R", &in_object(&signature, &original)));
    refused("XSW2", &evil.replace("SIG-R", &format!("{original}{signature}")));
    refused("XSW2, after it", &evil.replace("SIG-R", &format!("{signature}{original}")));
    refused(
        "in extensions",
        &evil.replace("SIG-R", &format!("{signature}<samlp:Extensions>{original}</samlp:Extensions>")),
    );
    refused("the id moved", &evil.replace("SIG-R", &signature));
}

#[test]
fn wrapped_assertions_are_refused() {
    let signed = Said::right().signed_assertion();
    let (signature, original) = apart(&signed);
    let evil = evil_assertion();
    let evil_signed_by = |signature: &str| super::wrapping::evil().assertion().replace("SIG-A", signature);
    refused("XSW3", &response_around(&format!("{evil}{signed}")));
    refused("XSW3, after it", &response_around(&format!("{signed}{evil}")));
    refused("XSW4", &response_around(&evil.replace("</saml:Assertion>", &format!("{signed}</saml:Assertion>"))));
    refused("XSW5", &response_around(&format!("{}{original}", evil_signed_by(&signature))));
    let holding = signature.replace("</ds:KeyInfo>", &format!("</ds:KeyInfo>{original}"));
    refused("XSW6", &response_around(&evil_signed_by(&holding)));
    refused(
        "XSW7",
        &Said::right().around(&signed).replace("SIG-R", &format!("<samlp:Extensions>{evil}</samlp:Extensions>")),
    );
    refused("XSW8", &response_around(&evil_signed_by(&in_object(&signature, &original))));
    refused(
        "in the confirmation",
        &response_around(
            &evil_signed_by(&signature)
                .replace("<saml:AuthnStatement", &format!("<saml:Advice>{original}</saml:Advice><saml:AuthnStatement")),
        ),
    );
    refused(
        "the same id twice",
        &response_around(&format!("{}{original}", evil_signed_by(&signature).replace("\"evil\"", "\"a1\""))),
    );
    refused(
        "two good ones",
        &response_around(&format!(
            "{signed}{}",
            Said { assertion_id: "a2".into(), ..Said::right() }.signed_assertion()
        )),
    );
}

/// A name that only looks right: of another namespace, or of none.
#[test]
fn look_alikes_are_refused() {
    let signed = Said::right().signed_assertion();
    let alike = evil_assertion().replace("SAML:2.0:assertion", "SAML:2.0:assertion ");
    refused("another namespace", &response_around(&format!("{alike}{signed}")));
    let (signature, original) = apart(&signed);
    let foreign = signature.replace("xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"", "xmlns:ds=\"urn:x\"");
    refused(
        "another signature",
        &response_around(&original.replace("</saml:Issuer>", &format!("</saml:Issuer>{foreign}"))),
    );
    refused(
        "two signatures",
        &response_around(&signed.replace("<ds:Signature ", &format!("{signature}<ds:Signature "))),
    );
    // A reference to what it does not stand in; to the whole document; to nothing; by XPointer.
    for uri in ["", "#", "#r1", "#xpointer(/)", "#xpointer(id('a1'))", "a1", "https://evil.example.test/#a1", "cid:x"] {
        refused(uri, &response_around(&signed.replace("URI=\"#a1\"", &format!("URI=\"{uri}\""))));
    }
    let no_uri = signed.replace(" URI=\"#a1\"", "");
    refused("no reference", &response_around(&no_uri));
    let info = signed.split("<ds:Reference").nth(1).unwrap().split("</ds:SignedInfo>").next().unwrap();
    let twice = signed.replace("</ds:SignedInfo>", &format!("<ds:Reference{info}</ds:SignedInfo>"));
    refused("two references", &response_around(&twice));
    let upper = signed.replace(" Version=\"2.0\" IssueInstant", " Id=\"a1\" Version=\"2.0\" IssueInstant");
    refused("an id in two spellings", &response_around(&upper));
}

#[test]
fn nothing_unsigned_is_believed() {
    let said = Said::right();
    assert_eq!(accept(&response_around(&said.assertion().replace("SIG-A", ""))).unwrap_err(), SamlError::Unsigned);
    // Every part of what is signed counts.
    for (from, to) in [
        ("alice@", "root@"),
        (">dev<", ">admin<"),
        ("ops &amp; more", "ops"),
        (ACS, "https://evil.example.test"),
        ("ID=\"a1\"", "ID=\"a2\""),
    ] {
        for xml in [said.response(), said.signed_response()] {
            let error = accept(&xml.replacen(from, to, 9)).unwrap_err();
            assert!(
                matches!(error, SamlError::Signature | SamlError::Reference | SamlError::Destination),
                "{from}: {error:?}"
            );
        }
    }
    // A good signature of one does not excuse a bad one of the other.
    let both =
        put_signature(&said.around(&put_signature(&said.assertion(), "SIG-A", "a1", &STRANGER)), "SIG-R", "r1", &IDP);
    assert_eq!(accept(&both).unwrap_err(), SamlError::Signature);
    let both = put_signature(&said.around(&said.signed_assertion()), "SIG-R", "r1", &STRANGER);
    assert_eq!(accept(&both).unwrap_err(), SamlError::Signature);
}

/// The message brings its signer's certificate along; it is not what decides.
#[test]
fn keys_come_from_metadata_alone() {
    let said = Said::right();
    let forged = put_signature(&said.assertion(), "SIG-A", "a1", &STRANGER);
    assert_eq!(accept(&response_around(&forged)).unwrap_err(), SamlError::Signature);
    // The right certificate beside a wrong signature, and a wrong one beside a right signature.
    let (own, other) = (STANDARD.encode(&IDP.certificate), STANDARD.encode(&STRANGER.certificate));
    assert_eq!(accept(&response_around(&forged.replace(&other, &own))).unwrap_err(), SamlError::Signature);
    accept(&response_around(&said.signed_assertion().replace(&own, &other))).unwrap();
}

/// With a genuine signature by the issuer's own key over what is not accepted.
#[test]
fn algorithms_are_on_a_list() {
    let said = Said::right();
    let (signature, _) = apart(&said.signed_assertion());
    let info = signature.split_once("<ds:SignedInfo").unwrap().1.split_once("</ds:SignedInfo>").unwrap().0;
    let info = format!("<ds:SignedInfo{info}</ds:SignedInfo>");
    let with = |from: &str, to: &str| {
        assert!(info.contains(from), "{from}");
        let resigned = signed(&info.replace(from, to), &IDP);
        accept(&response_around(&said.assertion().replace("SIG-A", &resigned))).unwrap_err()
    };
    let rsa = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
    for bad in [
        "http://www.w3.org/2000/09/xmldsig#rsa-sha1",
        "http://www.w3.org/2000/09/xmldsig#dsa-sha1",
        "http://www.w3.org/2000/09/xmldsig#hmac-sha1",
        "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256",
        "http://www.w3.org/2001/04/xmldsig-more#rsa-md5",
        "http://www.w3.org/2001/04/xmldsig-more#RSA-SHA256",
        "",
        "none",
    ] {
        assert_eq!(with(rsa, bad), SamlError::Algorithm("signature"), "{bad}");
    }
    // An accepted one that is not the key's.
    assert_eq!(with(rsa, "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"), SamlError::Signature);
    assert_eq!(with(rsa, "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512"), SamlError::Signature);
    let sha256 = "http://www.w3.org/2001/04/xmlenc#sha256";
    for bad in ["http://www.w3.org/2000/09/xmldsig#sha1", "http://www.w3.org/2001/04/xmldsig-more#md5", ""] {
        assert_eq!(with(sha256, bad), SamlError::Algorithm("digest"), "{bad}");
    }
    let method = format!("<ds:CanonicalizationMethod Algorithm=\"{EXCLUSIVE}\">");
    for bad in [
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
        "http://www.w3.org/2006/12/xml-c14n11",
        "http://www.w3.org/2001/10/xml-exc-c14n#WithComments",
        "",
    ] {
        let to = method.replace(EXCLUSIVE, bad);
        assert_eq!(with(&method, &to), SamlError::Algorithm("canonicalization"), "{bad}");
        let transform = format!("<ds:Transform Algorithm=\"{EXCLUSIVE}\">");
        assert_eq!(
            with(&transform, &transform.replace(EXCLUSIVE, bad)),
            SamlError::Algorithm("canonicalization"),
            "{bad}"
        );
    }
    let enveloped = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
    for bad in [
        "http://www.w3.org/TR/1999/REC-xslt-19991116",
        "http://www.w3.org/TR/1999/REC-xpath-19991116",
        "http://www.w3.org/2002/06/xmldsig-filter2",
        "http://www.w3.org/2000/09/xmldsig#base64",
        EXCLUSIVE,
    ] {
        assert_eq!(with(enveloped, bad), SamlError::Transform, "{bad}");
    }
    let one = format!("<ds:Transform Algorithm=\"{enveloped}\"></ds:Transform>");
    assert_eq!(with(&one, ""), SamlError::Transform);
    assert_eq!(with(&one, &one.repeat(2)), SamlError::Transform);
    let xpath = one.replace("></", "><ds:XPath>1</ds:XPath></");
    assert_eq!(with(&one, &xpath), SamlError::Transform);
    assert_eq!(
        with("rsa-sha256\">", "rsa-sha256\"><ds:HMACOutputLength>1</ds:HMACOutputLength>"),
        SamlError::SignatureShape
    );
}

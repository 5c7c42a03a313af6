use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PrivateDecryptingKey};

use super::*;

const OAEP: &str = "<e:EncryptionMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p\"/>";

/// Encrypted to `to`, as `method` says.
fn encrypted(assertion: &str, to: &Keys, method: &str) -> String {
    let content = [3; 32];
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &content).unwrap());
    let mut sealed = assertion.as_bytes().to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([9; 12]), Aad::empty(), &mut sealed).unwrap();
    let sealed = STANDARD.encode([&[9; 12], sealed.as_slice()].concat());
    let public =
        OaepPublicEncryptingKey::new(PrivateDecryptingKey::from_pkcs8(&to.pkcs8).unwrap().public_key()).unwrap();
    let mut wrapped = vec![0; public.ciphertext_size()];
    let oaep = if method.contains("mgf1sha256") { &OAEP_SHA256_MGF1SHA256 } else { &OAEP_SHA1_MGF1SHA1 };
    let wrapped = STANDARD.encode(public.encrypt(oaep, &content, &mut wrapped, None).unwrap());
    format!(
        "<saml:EncryptedAssertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\"><e:EncryptedData xmlns:e=\"http://www.w3.org/2001/04/xmlenc#\" Type=\"http://www.w3.org/2001/04/xmlenc#Element\"><e:EncryptionMethod Algorithm=\"http://www.w3.org/2009/xmlenc11#aes256-gcm\"/><ds:KeyInfo xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"><e:EncryptedKey>{method}<e:CipherData><e:CipherValue>{wrapped}</e:CipherValue></e:CipherData></e:EncryptedKey></ds:KeyInfo><e:CipherData><e:CipherValue>{sealed}</e:CipherValue></e:CipherData></e:EncryptedData></saml:EncryptedAssertion>"
    )
}

fn own() -> Vec<ServiceKey> {
    ServiceKey::read_all((IDP.pem() + &OWN.pem()).as_bytes()).unwrap()
}

fn open(xml: &str) -> Result<Accepted, SamlError> {
    with(&issuer(|saml| saml.require_encrypted = true), &own(), |provider| provider.response(xml.as_bytes(), NOW))
}

fn around(assertion: &str) -> String {
    Said::right().around(assertion).replace("SIG-R", "")
}

#[test]
fn opens_what_is_encrypted_to_any_of_its_keys() {
    let signed = Said::right().signed_assertion();
    let accepted = open(&around(&encrypted(&signed, &OWN, OAEP))).unwrap();
    assert_eq!(&*accepted.principal.id.subject, "alice@example.test");
    open(&around(&encrypted(&signed, &IDP, OAEP))).unwrap();
    let modern = "<e:EncryptionMethod Algorithm=\"http://www.w3.org/2009/xmlenc11#rsa-oaep\"><ds:DigestMethod xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\" Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"/><m:MGF xmlns:m=\"http://www.w3.org/2009/xmlenc11#\" Algorithm=\"http://www.w3.org/2009/xmlenc11#mgf1sha256\"/></e:EncryptionMethod>";
    open(&around(&encrypted(&signed, &OWN, modern))).unwrap();
    // The response's signature is over what is encrypted.
    let plain = Said::right().assertion().replace("SIG-A", "");
    let response = put_signature(&Said::right().around(&encrypted(&plain, &OWN, OAEP)), "SIG-R", "r1", &IDP);
    open(&response).unwrap();
}

/// Anybody may encrypt to a public key: that proves nothing.
#[test]
fn encrypted_is_not_signed() {
    let plain = Said::right().assertion().replace("SIG-A", "");
    assert_eq!(open(&around(&encrypted(&plain, &OWN, OAEP))).unwrap_err(), SamlError::Unsigned);
    let forged = put_signature(&Said::right().assertion(), "SIG-A", "a1", &STRANGER);
    assert_eq!(open(&around(&encrypted(&forged, &OWN, OAEP))).unwrap_err(), SamlError::Signature);
    assert_eq!(open(&around(&Said::right().signed_assertion())).unwrap_err(), SamlError::NotEncrypted);
    let signed = Said::right().signed_assertion();
    let two = format!("{}{signed}", encrypted(&signed, &OWN, OAEP));
    assert_eq!(open(&around(&two)).unwrap_err(), SamlError::OneAssertion);
    let wrapped = signed.replace("<saml:Subject>", &format!("<saml:Advice>{plain}</saml:Advice><saml:Subject>"));
    assert_eq!(open(&around(&encrypted(&wrapped, &OWN, OAEP))).unwrap_err(), SamlError::DuplicateId);
}

#[test]
fn weak_and_wrong_encryption_is_refused() {
    let signed = Said::right().signed_assertion();
    let good = around(&encrypted(&signed, &OWN, OAEP));
    let with = |from: &str, to: &str| open(&good.replace(from, to)).unwrap_err();
    for cbc in [
        "http://www.w3.org/2001/04/xmlenc#aes256-cbc",
        "http://www.w3.org/2001/04/xmlenc#aes128-cbc",
        "http://www.w3.org/2001/04/xmlenc#tripledes-cbc",
        "",
    ] {
        assert_eq!(with("http://www.w3.org/2009/xmlenc11#aes256-gcm", cbc), SamlError::Algorithm("encryption"));
    }
    assert_eq!(with("xmlenc#rsa-oaep-mgf1p", "xmlenc#rsa-1_5"), SamlError::Algorithm("key encryption"));
    assert_eq!(with("CipherValue", "CipherReference"), SamlError::Encryption);
    assert_eq!(with("e:EncryptedKey", "e:OtherKey"), SamlError::Encryption);
    // A wrong key and wrong bytes have one answer.
    assert_eq!(open(&around(&encrypted(&signed, &STRANGER, OAEP))).unwrap_err(), SamlError::Decrypt);
    assert_eq!(with("CQkJCQkJCQkJCQkJ", "CQkJCQkJCQkJCQkK"), SamlError::Decrypt);
    let none = with_no_key(&good);
    assert_eq!(none.unwrap_err(), SamlError::NoDecryptionKey);
}

fn with_no_key(xml: &str) -> Result<Accepted, SamlError> {
    accept(xml)
}

//! Certificates of earlier times, made by `testdata/make.sh`.

use super::*;
use crate::config::{KeyUsage, NameCheck};

fn modern(root: &Der) -> Trust {
    Trust { modern: true, ..trusting(root) }
}

#[test]
fn version_1_and_sha1_are_believed_unless_the_profile_is_modern() {
    let (root, server): (Der, Der) = (testdata!("v1-ca.pem"), testdata!("v1-leaf.pem"));
    let mut trust = trusting(&root);
    check(&trust, &server, &[]).unwrap();
    trust.name = Some(NameCheck::Subject("C=DE, ST=Berlin, O=Old Works, CN=vpn.old.test".into()));
    check(&trust, &server, &[]).unwrap();

    let error = check(&modern(&root), &server, &[]).unwrap_err();
    assert!(
        matches!(&error, TrustError::WeakSignature { algorithm, .. } if algorithm == "RSA with SHA-1"),
        "{error}"
    );
    check(&modern(&root), &testdata!("v1-p256.pem"), &[]).unwrap();
}

#[test]
fn version_1_below_version_1_is_no_authority() {
    let (root, middle): (Der, Der) = (testdata!("v1-ca.pem"), testdata!("v1-middle.pem"));
    let error = check(&trusting(&root), &testdata!("v1-below.pem"), &[&middle]).unwrap_err();
    assert!(matches!(error, TrustError::NotAnAuthority { .. }), "{error}");
    // Whoever puts it into `ca` means it.
    check(&trusting(&middle), &testdata!("v1-below.pem"), &[]).unwrap();
}

#[test]
fn old_statements_about_the_use_are_read() {
    let root: Der = testdata!("v1-ca.pem");
    let trust = Trust { usage: vec![KeyUsage::NetscapeServer], ..trusting(&root) };
    check(&trust, &testdata!("netscape.pem"), &[]).unwrap();
    for other in [testdata!("netscape-client.pem"), testdata!("v1-leaf.pem")] {
        let error = check(&trust, &other, &[]).unwrap_err();
        assert!(matches!(error, TrustError::Usage { .. }), "{error}");
    }
}

#[test]
fn what_cannot_be_checked_is_named() {
    let root: Der = testdata!("v1-ca.pem");
    let said = |server: Der| check(&trusting(&root), &server, &[]).unwrap_err();
    let error = said(testdata!("md5.pem"));
    assert!(
        matches!(&error, TrustError::UnsupportedSignature { algorithm, .. } if algorithm.contains("MD5")),
        "{error}"
    );
    let error = said(testdata!("short.pem"));
    assert!(matches!(error, TrustError::WeakKey { bits: 1024, .. }), "{error}");
    let error = said(testdata!("p521.pem"));
    assert!(matches!(error, TrustError::UnsupportedKey { .. }), "{error}");
    let error = said(testdata!("pss-odd.pem"));
    assert!(
        matches!(&error, TrustError::UnsupportedSignature { algorithm, .. } if algorithm.contains("PSS")),
        "{error}"
    );
}

#[test]
fn signatures_with_pss_hold() {
    check(&trusting(&testdata!("v1-ca.pem")), &testdata!("pss.pem"), &[]).unwrap();
}

#[test]
fn an_authority_of_1024_bits_is_believed_unless_the_profile_is_modern() {
    let (root, server): (Der, Der) = (testdata!("short-ca.pem"), testdata!("under-short.pem"));
    check(&trusting(&root), &server, &[]).unwrap();
    let error = check(&modern(&root), &server, &[]).unwrap_err();
    assert!(matches!(error, TrustError::WeakKey { bits: 1024, .. }), "{error}");
}

#[test]
fn a_wrong_key_of_an_old_authority_is_found() {
    // The same name as the one that signed, with another key.
    let error = check(&trusting(&testdata!("short-ca.pem")), &testdata!("v1-leaf.pem"), &[]).unwrap_err();
    assert!(matches!(error, TrustError::WrongAuthority { .. }), "{error}");
}

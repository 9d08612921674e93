use rcgen::{
    CertificateRevocationListParams, CustomExtension, KeyIdMethod, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    RevokedCertParams,
};
use ring::digest;

use super::*;
use crate::CrlProblem;
use crate::config::{KeyUsage, NameCheck};

#[test]
fn a_server_of_the_authority_is_believed() {
    let root = root("Root");
    check(&trusting(root.der()), &leaf(&root, &server_params()), &[]).unwrap();
}

#[test]
fn keys_of_every_usual_kind_sign() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let root = Authority::self_signed(authority_params("Root"), key).unwrap();
        check(&trusting(root.der()), &leaf(&root, &server_params()), &[]).unwrap();
    }
}

#[test]
fn intermediates_may_be_sent_or_come_with_the_profile_in_any_order() {
    let root = root("Root");
    let first = below(&root, authority_params("First"));
    let second = below(&first, authority_params("Second"));
    let server = leaf(&second, &server_params());
    let mut trust = trusting(root.der());
    check(&trust, &server, &[second.der(), first.der()]).unwrap();
    check(&trust, &server, &[first.der(), root.der(), second.der()]).unwrap();

    let error = check(&trust, &server, &[second.der()]).unwrap_err();
    assert!(
        matches!(&error, TrustError::UnknownAuthority { certificate, authorities }
            if certificate.issuer == "C=DE, O=Example, CN=First" && authorities == &["C=DE, O=Example, CN=Root"]),
        "{error}"
    );

    trust.intermediates = vec![first.der().clone()];
    check(&trust, &server, &[second.der()]).unwrap();
}

#[test]
fn an_authority_of_the_profile_need_not_be_a_root() {
    let root = root("Root");
    let middle = below(&root, authority_params("Middle"));
    let server = leaf(&middle, &server_params());
    check(&trusting(middle.der()), &server, &[]).unwrap();
    check(&trusting(middle.der()), &server, &[middle.der(), root.der()]).unwrap();
}

#[test]
fn the_servers_own_certificate_may_be_the_authority() {
    let server = server_params().self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
    check(&trusting(&server), &server, &[]).unwrap();
}

#[test]
fn another_authority_is_told_from_another_with_the_same_name() {
    let (ours, theirs, renewed) = (root("Root"), root("Other"), root("Root"));
    let server = leaf(&ours, &server_params());
    let error = check(&trusting(theirs.der()), &server, &[]).unwrap_err();
    assert!(matches!(error, TrustError::UnknownAuthority { .. }), "{error}");
    let error = check(&trusting(renewed.der()), &server, &[]).unwrap_err();
    assert!(matches!(error, TrustError::WrongAuthority { .. }), "{error}");
    // Both are in `ca` while an authority is replaced.
    let both = Trust { roots: vec![renewed.der().clone(), ours.der().clone()], ..Trust::default() };
    check(&both, &server, &[]).unwrap();
}

#[test]
fn a_flipped_bit_is_no_signature() {
    let root = root("Root");
    let server = leaf(&root, &server_params());
    let mut forged = server.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let error = check(&trusting(root.der()), &forged.into(), &[]).unwrap_err();
    assert!(matches!(error, TrustError::WrongAuthority { .. }), "{error}");
}

#[test]
fn dates_are_checked_on_every_link_and_told_with_the_time_here() {
    let root = root("Root");
    let mut params = server_params();
    params.not_after = date_time_ymd(2026, 1, 1);
    let error = check(&trusting(root.der()), &leaf(&root, &params), &[]).unwrap_err();
    assert!(matches!(&error, TrustError::Expired { now, .. } if *now == NOW as i64), "{error}");
    assert_eq!(
        error.to_string(),
        "the server's certificate (C=DE, O=Example, CN=vpn.example.test) expired at 2026-01-01T00:00:00Z; \
         here it is 2027-01-15T08:00:00Z"
    );

    params = server_params();
    params.not_before = date_time_ymd(2028, 1, 1);
    let error = check(&trusting(root.der()), &leaf(&root, &params), &[]).unwrap_err();
    assert!(matches!(error, TrustError::NotYetValid { .. }), "{error}");

    let mut old = authority_params("Old");
    old.not_after = date_time_ymd(2027, 1, 1);
    let old = Authority::self_signed(old, KeyPair::generate().unwrap()).unwrap();
    let error = check(&trusting(old.der()), &leaf(&old, &server_params()), &[]).unwrap_err();
    assert!(
        matches!(&error, TrustError::Expired { certificate, .. } if certificate.subject.ends_with("CN=Old")),
        "{error}"
    );
}

#[test]
fn a_server_cannot_issue_servers() {
    let root = root("Root");
    for (constraints, key_usages) in [
        (IsCa::NoCa, vec![]),
        (IsCa::ExplicitNoCa, vec![]),
        (IsCa::Ca(BasicConstraints::Unconstrained), vec![KeyUsagePurpose::DigitalSignature]),
    ] {
        let mut params = params("Not an authority");
        params.is_ca = constraints;
        params.key_usages = key_usages;
        let middle = below(&root, params);
        let server = leaf(&middle, &server_params());
        let error = check(&trusting(root.der()), &server, &[middle.der()]).unwrap_err();
        assert!(matches!(error, TrustError::NotAnAuthority { .. }), "{error}");
    }
}

#[test]
fn the_path_length_of_an_authority_holds() {
    let mut params = authority_params("Root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    check(&trusting(root.der()), &leaf(&root, &server_params()), &[]).unwrap();
    let middle = below(&root, authority_params("Middle"));
    let server = leaf(&middle, &server_params());
    let error = check(&trusting(root.der()), &server, &[middle.der()]).unwrap_err();
    assert!(matches!(error, TrustError::PathTooLong { .. }), "{error}");
}

#[test]
fn chains_end_after_sixteen() {
    let root = root("Root");
    let mut chain = vec![below(&root, authority_params("1"))];
    for depth in 2..=15 {
        let next = below(chain.last().unwrap(), authority_params(&depth.to_string()));
        chain.push(next);
    }
    for (depth, holds) in [(14, true), (15, false)] {
        let server = leaf(&chain[depth - 1], &server_params());
        let sent: Vec<&Der> = chain[..depth].iter().map(|authority| authority.der()).collect();
        let result = check(&trusting(root.der()), &server, &sent);
        assert_eq!(result.is_ok(), holds, "{depth}: {result:?}");
    }
}

#[test]
fn names_that_fit_each_other_in_every_way_end_the_search() {
    // Each of these names itself as its issuer, and no key made any of the others.
    let same: Vec<Authority> = (0..30).map(|_| root("Same")).collect();
    let mut params = authority_params("Same");
    params.key_identifier_method = KeyIdMethod::Sha256;
    let server = leaf(&same[0], &server_params());
    let sent: Vec<&Der> = same.iter().map(|authority| authority.der()).collect();
    let other = root("Root");
    let error = check(&trusting(other.der()), &server, &sent).unwrap_err();
    assert!(matches!(error, TrustError::WrongAuthority { .. } | TrustError::TooComplex), "{error}");
    // And these were all made by one key, so that any may follow any.
    let key = KeyPair::generate().unwrap();
    let knot: Vec<Der> = (0..30u8)
        .map(|serial| {
            let mut params = authority_params("Same");
            params.serial_number = Some(SerialNumber::from(vec![serial + 1]));
            params.self_signed(&key).unwrap().der().clone()
        })
        .collect();
    let issuer = rcgen::Issuer::new(authority_params("Same"), key);
    let server = server_params().signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
    let error = check(&trusting(other.der()), &server, &knot.iter().collect::<Vec<_>>()).unwrap_err();
    assert!(matches!(error, TrustError::TooComplex), "{error}");
}

#[test]
fn critical_extensions_that_are_not_known_are_refused() {
    let root = root("Root");
    let mut params = server_params();
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    params.custom_extensions = vec![extension.clone()];
    check(&trusting(root.der()), &leaf(&root, &params), &[]).unwrap();
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    let error = check(&trusting(root.der()), &leaf(&root, &params), &[]).unwrap_err();
    assert!(
        matches!(&error, TrustError::Extension { extension, .. } if extension == "1.3.6.1.4.1.99999.1"),
        "{error}"
    );
}

#[test]
fn a_clients_certificate_is_no_servers() {
    let root = root("Root");
    let mut params = server_params();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let error = check(&trusting(root.der()), &leaf(&root, &params), &[]).unwrap_err();
    assert!(matches!(&error, TrustError::Usage { found, .. } if found.contains("clientAuth")), "{error}");
    // Without a statement it may be anything, until the profile asks.
    params.extended_key_usages = vec![];
    let silent = leaf(&root, &params);
    let mut trust = trusting(root.der());
    check(&trust, &silent, &[]).unwrap();
    trust.usage = vec![KeyUsage::Server];
    let error = check(&trust, &silent, &[]).unwrap_err();
    assert!(
        matches!(&error, TrustError::Usage { wanted, .. } if wanted.contains("remote-cert-tls")),
        "{error}"
    );
}

#[test]
fn the_uses_that_the_profile_wants_are_those_of_the_manual() {
    let root = root("Root");
    let mut params = server_params();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let server = leaf(&root, &params);
    let met = |usage: KeyUsage| {
        let trust = Trust { usage: vec![usage], ..trusting(root.der()) };
        check(&trust, &server, &[]).is_ok()
    };
    assert!(met(KeyUsage::Server));
    assert!(met(KeyUsage::NetscapeServer));
    assert!(met(KeyUsage::Bits(vec![0xa0, 0x88])));
    assert!(met(KeyUsage::Bits(vec![0x80])));
    assert!(!met(KeyUsage::Bits(vec![0x88])));
    assert!(!met(KeyUsage::Bits(vec![0])));
    assert!(met(KeyUsage::Extended("TLS Web Server Authentication".into())));
    assert!(met(KeyUsage::Extended("serverAuth".into())));
    assert!(met(KeyUsage::Extended("1.3.6.1.5.5.7.3.1".into())));
    assert!(!met(KeyUsage::Extended("clientAuth".into())));
}

#[test]
fn the_name_that_the_profile_wants_is_compared_in_three_ways() {
    let root = root("Root");
    let server = leaf(&root, &server_params());
    let met = |name: NameCheck| {
        let trust = Trust { name: Some(name), ..trusting(root.der()) };
        check(&trust, &server, &[])
    };
    met(NameCheck::Subject("C=DE, O=Example, CN=vpn.example.test".into())).unwrap();
    met(NameCheck::Name("vpn.example.test".into())).unwrap();
    met(NameCheck::Prefix("vpn.".into())).unwrap();
    for wrong in [
        NameCheck::Subject("CN=vpn.example.test".into()),
        NameCheck::Name("vpn.example".into()),
        NameCheck::Prefix("example".into()),
    ] {
        let error = met(wrong).unwrap_err();
        assert!(
            matches!(&error, TrustError::Name { common_name: Some(name), .. } if name == "vpn.example.test"),
            "{error}"
        );
    }
}

#[test]
fn control_characters_of_a_name_reach_no_terminal() {
    let root = root("Root");
    let server = leaf(&root, &params("vpn\x1b[2J\nfine"));
    let trust = Trust { name: Some(NameCheck::Name("vpn".into())), ..trusting(root.der()) };
    let error = check(&trust, &server, &[]).unwrap_err().to_string();
    assert!(
        error.contains(r"vpn\1B[2J\0Afine") && !error.contains('\x1b') && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn names_are_the_same_in_other_letters_and_strings() {
    let key = KeyPair::generate().unwrap();
    let mut spelled = authority_params("Root");
    spelled.distinguished_name = DistinguishedName::new();
    spelled.distinguished_name.push(DnType::CountryName, "DE");
    let text = rcgen::string::PrintableString::try_from("EXAMPLE").unwrap();
    spelled.distinguished_name.push(DnType::OrganizationName, rcgen::DnValue::PrintableString(text));
    spelled.distinguished_name.push(DnType::CommonName, " root ");
    let issuer = rcgen::Issuer::new(authority_params("Root"), &key);
    let server = server_params().signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
    let respelled = spelled.self_signed(&key).unwrap();
    check(&trusting(respelled.der()), &server, &[]).unwrap();
}

#[test]
fn a_fingerprint_vouches_alone_and_beside_an_authority() {
    let mut params = server_params();
    params.not_after = date_time_ymd(2021, 1, 1);
    let server = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
    let hash: [u8; 32] = digest::digest(&digest::SHA256, &server).as_ref().try_into().unwrap();
    let mut trust = Trust { fingerprints: vec![[7; 32], hash], ..Trust::default() };
    check(&trust, &server, &[]).unwrap();

    trust.usage = vec![KeyUsage::Extended("clientAuth".into())];
    assert!(check(&trust, &server, &[]).is_err(), "the other options are checked all the same");

    let root = root("Root");
    let signed = leaf(&root, &server_params());
    let error = check(&trust, &signed, &[]).unwrap_err();
    assert!(
        matches!(&error, TrustError::Fingerprint { certificate }
            if error.to_string().contains(&certificate.fingerprint_text())),
        "{error}"
    );
    trust = Trust { fingerprints: vec![hash], ..trusting(root.der()) };
    let error = check(&trust, &server, &[]).unwrap_err();
    assert!(matches!(error, TrustError::UnknownAuthority { .. }), "{error}");
}

#[test]
fn the_hash_of_the_issuer_is_compared() {
    let root = root("Root");
    let server = leaf(&root, &server_params());
    let sha256 = digest::digest(&digest::SHA256, root.der()).as_ref().to_vec();
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, root.der()).as_ref().to_vec();
    for (hash, holds) in [(sha256, true), (sha1, true), (vec![1; 32], false), (vec![1; 20], false)] {
        let trust = Trust { issuer_hash: Some(hash), ..trusting(root.der()) };
        assert_eq!(check(&trust, &server, &[]).is_ok(), holds);
    }
}

fn list(issuer: &Authority, serials: &[&[u8]], until: i32) -> rcgen::CertificateRevocationList {
    let revoked = |serial: &&[u8]| RevokedCertParams {
        serial_number: SerialNumber::from(serial.to_vec()),
        revocation_time: date_time_ymd(2025, 5, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 6, 1),
        next_update: date_time_ymd(until, 6, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap()
}

#[test]
fn revoked_certificates_are_refused_and_lists_must_be_sound() {
    let root = root("Root");
    let server = leaf(&root, &server_params());
    let with = |lists: &[&rcgen::CertificateRevocationList]| {
        let crls = lists.iter().map(|list| list.der().clone()).collect();
        check(&Trust { crls, ..trusting(root.der()) }, &server, &[])
    };
    with(&[&list(&root, &[&[0x7a, 0x02]], 2030)]).unwrap();

    let error = with(&[&list(&root, &[&[1], &[0x7a, 0x01]], 2030)]).unwrap_err();
    assert!(
        matches!(&error, TrustError::Revoked { certificate, .. } if certificate.serial == "7A01"),
        "{error}"
    );
    assert!(error.to_string().ends_with("was revoked on 2025-05-01T00:00:00Z"), "{error}");

    let error = with(&[&list(&root, &[], 2026)]).unwrap_err();
    assert!(matches!(error, TrustError::Crl { problem: CrlProblem::Expired(_), .. }), "{error}");

    // The list of somebody else says nothing; that of another authority with the same name must not be taken.
    with(&[&list(&super::root("Other"), &[&[0x7a, 0x01]], 2030)]).unwrap();
    let (foreign, own) = (list(&super::root("Root"), &[], 2030), list(&root, &[], 2030));
    let error = with(&[&foreign]).unwrap_err();
    assert!(matches!(error, TrustError::Crl { problem: CrlProblem::Signature, .. }), "{error}");
    with(&[&foreign, &own]).unwrap();

    let crls = vec![vec![0x30, 0x80].into()];
    let error = check(&Trust { crls, ..trusting(root.der()) }, &server, &[]).unwrap_err();
    assert!(matches!(error, TrustError::Crl { problem: CrlProblem::Unreadable, .. }), "{error}");
}

#[test]
fn a_revoked_intermediate_ends_the_chain() {
    let root = root("Root");
    let mut params = authority_params("Middle");
    params.serial_number = Some(SerialNumber::from(vec![0x55]));
    let middle = below(&root, params);
    let server = leaf(&middle, &server_params());
    let crls = vec![list(&root, &[&[0x55]], 2030).der().clone()];
    let error = check(&Trust { crls, ..trusting(root.der()) }, &server, &[middle.der()]).unwrap_err();
    assert!(
        matches!(&error, TrustError::Revoked { certificate, .. } if certificate.subject.ends_with("CN=Middle")),
        "{error}"
    );
}

#[test]
fn without_anybody_to_believe_there_is_no_verifier() {
    assert!(matches!(verifier(Trust::default(), NOW), Err(TrustError::NoAuthority)));
    let junk = trusting(&vec![1, 2, 3].into());
    assert!(matches!(verifier(junk, NOW), Err(TrustError::Unreadable { .. })));
}

#[test]
fn junk_and_cut_certificates_are_told_and_never_panic() {
    let root = root("Root");
    let server = leaf(&root, &server_params());
    let trust = trusting(root.der());
    for length in 0..server.len() {
        let cut = server[..length].to_vec().into();
        assert!(matches!(check(&trust, &cut, &[]), Err(TrustError::Unreadable { .. })), "{length}");
        check(&trust, &server, &[&cut]).unwrap();
    }
    // What is signed begins after the header of the outer sequence, and has a header with two bytes of length itself.
    let signed = 4..8 + usize::from(u16::from_be_bytes([server[6], server[7]]));
    for position in 0..server.len() {
        for bit in [1, 0x20, 0x80] {
            let mut bent = server.to_vec();
            bent[position] ^= bit;
            let believed = check(&trust, &bent.into(), &[]).is_ok();
            assert!(!believed || !signed.contains(&position), "{position}");
        }
    }
}

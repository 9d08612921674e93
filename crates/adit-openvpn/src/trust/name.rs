//! Distinguished names: how they are compared, shown, and checked (`verify-x509-name`).

use std::fmt::Write;

use x509_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::certificate::Certificate;
use super::error::TrustError;
use crate::config::NameCheck;

/// The short names that OpenSSL prints.
const SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

/// The longest name that an error shows, in bytes.
const MAX_SHOWN: usize = 512;

/// `verify-x509-name`.
pub(super) fn check(certificate: &Certificate<'_>, wanted: &NameCheck) -> Result<(), TrustError> {
    let subject = certificate.x509.subject();
    let common_name = common_name(subject);
    let fits = match wanted {
        NameCheck::Subject(name) => full(subject) == *name,
        NameCheck::Name(name) => common_name.as_ref() == Some(name),
        NameCheck::Prefix(prefix) => {
            common_name.as_ref().is_some_and(|name| name.starts_with(prefix.as_str()))
        }
    };
    if fits {
        Ok(())
    } else {
        Err(TrustError::Name { certificate: certificate.info(), wanted: wanted.clone(), common_name })
    }
}

/// The last common name, which is the most specific.
fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().last().map(|attribute| escaped(&text(attribute)))
}

/// The whole name as `verify-x509-name … subject` writes it: `C=DE, O=Example, CN=server`, in the order of the encoding.
fn full(name: &X509Name<'_>) -> String {
    let mut shown = String::new();
    for (at, set) in name.iter_rdn().enumerate() {
        for (position, attribute) in set.iter().enumerate() {
            let separator = match (at, position) {
                (0, 0) => "",
                (_, 0) => ", ",
                _ => " + ",
            };
            let oid = attribute.attr_type().to_id_string();
            let short =
                SHORT.iter().find(|(known, _)| *known == oid).map_or(oid.as_str(), |(_, short)| short);
            // Writing to a string cannot fail.
            let _ = write!(shown, "{separator}{short}={}", escaped(&text(attribute)));
        }
    }
    shown
}

/// The whole name for an error.
pub(super) fn shown(name: &X509Name<'_>) -> String {
    let mut shown = full(name);
    if shown.len() > MAX_SHOWN {
        shown.truncate(shown.floor_char_boundary(MAX_SHOWN));
        shown.push('…');
    }
    if shown.is_empty() { "(no name)".to_owned() } else { shown }
}

/// Whether two names are the same: to the bit, or without regard to case, spacing and the type of string (RFC 5280 §7.1).
pub(super) fn same(one: &X509Name<'_>, other: &X509Name<'_>) -> bool {
    if one.as_raw() == other.as_raw() {
        return true;
    }
    let (mut left, mut right) = (one.iter_rdn(), other.iter_rdn());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) => {
                let (mut one, mut other) = (one.iter(), other.iter());
                loop {
                    match (one.next(), other.next()) {
                        (None, None) => break,
                        (Some(one), Some(other)) if same_attribute(one, other) => {}
                        _ => return false,
                    }
                }
            }
            _ => return false,
        }
    }
}

fn same_attribute(one: &AttributeTypeAndValue<'_>, other: &AttributeTypeAndValue<'_>) -> bool {
    one.attr_type() == other.attr_type() && folded(&text(one)) == folded(&text(other))
}

fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The value as text, whichever type of string it is.
fn text(attribute: &AttributeTypeAndValue<'_>) -> String {
    let bytes = attribute.as_slice();
    match attribute.attr_value().tag() {
        Tag::BmpString => {
            let (pairs, _) = bytes.as_chunks::<2>();
            char::decode_utf16(pairs.iter().map(|pair| u16::from_be_bytes(*pair)))
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        Tag::UniversalString => {
            let (groups, _) = bytes.as_chunks::<4>();
            let decode = |group: &[u8; 4]| char::from_u32(u32::from_be_bytes(*group));
            groups.iter().map(|group| decode(group).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        // Whoever uses T.61 means Latin-1.
        Tag::T61String => bytes.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Control characters as `\0A`: nothing in a name may move a terminal's cursor or begin a line.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "\\{:02X}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

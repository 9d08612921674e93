//! A reader of DER (X.690), as far as keys and archives need it: definite lengths, no copying, no recursion.

use crate::Problem;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;
/// `[0] IMPLICIT` of a primitive.
pub(super) const IMPLICIT_0: u8 = 0x80;

/// The bytes that are still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// Whether everything was read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    pub(super) fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag and content.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match usize::from(*first) {
            length @ 0..=0x7f => (length, rest),
            form @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(form - 0x80)?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next element, if it has this tag; otherwise nothing is read.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.tag() != Some(tag) {
            return None;
        }
        self.any().map(|(_, content)| content)
    }

    /// The next element's content, to be read further.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }

    /// A whole number that is not negative.
    pub(super) fn number(&mut self) -> Option<u64> {
        let bytes = self.take(INTEGER)?;
        if bytes.is_empty() || bytes.len() > 9 || bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
            return None;
        }
        bytes.iter().try_fold(0u64, |number, byte| number.checked_mul(256)?.checked_add(u64::from(*byte)))
    }
}

/// An object identifier for messages, like `1.2.840.113549.1.5.13`.
pub(super) fn dotted(oid: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number = 0u64;
    for byte in oid.iter().take(64) {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let Some(first) = numbers.first().copied() else { return String::new() };
    let top = (first / 40).min(2);
    let mut text = format!("{top}.{}", first - top * 40);
    for number in numbers.iter().skip(1) {
        text.push_str(&format!(".{number}"));
    }
    text
}

/// The problem of bytes that are not what they should be.
pub(super) fn damaged(what: &str) -> Problem {
    Problem::new("ovpn.key.format", format!("{what} is damaged")).fix("get the file again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_short_and_long_lengths_and_never_reach_beyond_the_end() {
        let mut der = Der(&[0x30, 0x03, 0x02, 0x01, 0x05, 0x04, 0x81, 0x01, 0xff]);
        assert_eq!(der.enter(SEQUENCE).unwrap().number(), Some(5));
        assert_eq!((der.take(INTEGER), der.take(OCTETS), der.is_empty()), (None, Some(&[0xff][..]), true));
        for bytes in [
            &[0x30][..],
            &[0x30, 0x02, 0x00],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
        ] {
            assert!(Der(bytes).any().is_none(), "{bytes:?}");
        }
        assert_eq!(Der(&[2, 1, 0x80]).number(), None);
        assert_eq!(Der(&[2, 9, 0, 255, 255, 255, 255, 255, 255, 255, 255]).number(), Some(u64::MAX));
        assert_eq!(Der(&[2, 9, 1, 255, 255, 255, 255, 255, 255, 255, 255]).number(), None);
    }

    #[test]
    fn identifiers_are_written_with_dots() {
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d]), "1.2.840.113549.1.5.13");
        assert_eq!(dotted(&[]), "");
    }
}

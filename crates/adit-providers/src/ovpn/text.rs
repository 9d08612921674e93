//! From bytes to text: byte order marks, UTF-16 as PowerShell writes it, and what is no text at all.

use zeroize::Zeroizing;

use crate::{Place, Problem};

/// A file's text; the second value is what is odd about it.
///
/// # Errors
///
/// The bytes are no text.
pub(super) fn decode(bytes: &[u8]) -> Result<(Zeroizing<String>, Option<Problem>), Problem> {
    if let Some(big_endian) = utf16(bytes) {
        let (text, whole) = from_utf16(bytes, big_endian);
        return if whole {
            let odd = Problem::new("ovpn.config.odd", "the profile is written in UTF-16; it was converted")
                .fix("save it as UTF-8: in PowerShell, Out-File -Encoding utf8");
            Ok((text, Some(odd)))
        } else {
            Err(Problem::new("ovpn.config.parse", "the file is damaged UTF-16 text").fix("save it as UTF-8"))
        };
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => Err(not_text(bytes, text.find('\0').unwrap_or(0))),
        Ok(text) => Ok((Zeroizing::new(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned()), None)),
        // Comments in the code page of some Windows; what matters is ASCII.
        Err(error) if !bytes.contains(&0) => {
            let mut problem = not_text(bytes, error.valid_up_to());
            problem.class = "ovpn.config.odd";
            problem.summary =
                "the profile has a character that is not UTF-8; it was read as Latin-1".to_owned();
            Ok((Zeroizing::new(bytes.iter().map(|byte| char::from(*byte)).collect()), Some(problem)))
        }
        Err(error) => Err(not_text(bytes, error.valid_up_to())),
    }
}

/// Whether the bytes are UTF-16, and then whether the high byte comes first.
fn utf16(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [0xff, 0xfe, ..] => Some(false),
        [0xfe, 0xff, ..] => Some(true),
        // ASCII without a mark has a zero in every second byte.
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => Some(false),
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => Some(true),
        _ => None,
    }
}

fn from_utf16(bytes: &[u8], big_endian: bool) -> (Zeroizing<String>, bool) {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| match big_endian {
        true => u16::from_be_bytes(*pair),
        false => u16::from_le_bytes(*pair),
    });
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    let mut whole = rest.is_empty();
    for (index, unit) in char::decode_utf16(units).enumerate() {
        match unit {
            Ok('\u{feff}') if index == 0 => {}
            Ok('\0') | Err(_) => whole = false,
            Ok(character) => text.push(character),
        }
    }
    (text, whole)
}

fn not_text(bytes: &[u8], valid: usize) -> Problem {
    let before = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
    let line = before.matches('\n').count() + 1;
    let head = before.rsplit('\n').next().unwrap_or("");
    Problem::new("ovpn.config.parse", "the file is not text")
        .seen(format!("byte {:#04x} at offset {valid}", bytes.get(valid).copied().unwrap_or(0)))
        .fix("give the .ovpn file itself, not an archive of it or its certificate in DER form")
        .at(Place {
            line,
            column: head.chars().count() + 1,
            length: 1,
            text: format!("{}\u{fffd}", super::lex::censored(head)),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf16_in_both_orders_with_and_without_a_mark_is_converted() {
        let text = "client\nremote vpn.example.com\n";
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [
            little.clone(),
            big.clone(),
            [&[0xff, 0xfe], little.as_slice()].concat(),
            [&[0xfe, 0xff], big.as_slice()].concat(),
        ] {
            let (decoded, odd) = decode(&bytes).unwrap();
            assert_eq!((decoded.as_str(), odd.unwrap().class), (text, "ovpn.config.odd"));
        }
        assert!(decode(&little[..little.len() - 1]).is_err());
    }

    #[test]
    fn a_byte_order_mark_goes_and_other_bytes_are_named() {
        assert_eq!(decode("\u{feff}client".as_bytes()).unwrap().0.as_str(), "client");
        let (text, odd) = decode(b"# f\xfcr\nclient").unwrap();
        assert_eq!(text.as_str(), "# für\nclient");
        assert_eq!(odd.unwrap().place.unwrap().column, 4);
        assert_eq!(decode(b"PK\x03\x04\0\0\xff").unwrap_err().class, "ovpn.config.parse");
        assert_eq!(decode(b"client\n\0").unwrap_err().place.unwrap().line, 2);
    }
}

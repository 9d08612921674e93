//! PEM (RFC 7468) as profiles hold it: several blocks in any order, text around them, any line ends; and the files
//! with OpenVPN's static keys.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::Problem;

const FORMAT: &str = "ovpn.key.format";

/// No file of a profile has more blocks.
const MAX_BLOCKS: usize = 1024;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One PEM block.
#[derive(Clone)]
pub(super) struct Pem {
    /// What stands between `BEGIN` and the dashes.
    pub label: String,
    /// Header lines (RFC 1421), like `Proc-Type`.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub der: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pem({}, {} bytes)", self.label, self.der.len())
    }
}

impl Pem {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The blocks of a text, in their order. What stands outside of blocks is no matter.
///
/// # Errors
///
/// A block is damaged: it has no end, or its content is not base64.
pub(super) fn blocks(text: &str) -> Result<Vec<Pem>, Problem> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = begins(line) else { continue };
        let damaged = |why: &str| Problem::new(FORMAT, format!("the block BEGIN {label} is damaged: {why}"));
        if found.len() >= MAX_BLOCKS {
            return Err(damaged("there are too many blocks").fix("give only what the profile needs"));
        }
        let mut headers = Vec::new();
        let mut body = Zeroizing::new(String::with_capacity(4096.min(text.len())));
        let mut ended = false;
        for line in lines.by_ref() {
            let line = line.trim();
            if let Some(end) = line.strip_prefix("-----END ") {
                if end.trim_end_matches('-').trim() != label {
                    return Err(damaged(&format!("it ends with {line}")).fix("get the file again"));
                }
                ended = true;
                break;
            }
            if begins(line).is_some() {
                break;
            }
            match line.split_once(':') {
                Some((name, value)) if body.is_empty() => {
                    headers.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                _ => {
                    body.reserve(line.len());
                    body.extend(line.chars().filter(|c| !c.is_whitespace()));
                }
            }
        }
        if !ended {
            return Err(damaged("its END line is missing").fix("the file was cut; get it again"));
        }
        let der = BASE64.decode(body.as_bytes()).map(Zeroizing::new).map_err(|_| {
            damaged("its content is not base64").fix("copy the file as it is, without editing it")
        })?;
        if der.is_empty() {
            return Err(damaged("it is empty").fix("get the file again"));
        }
        found.push(Pem { label: label.to_owned(), headers, der });
    }
    Ok(found)
}

fn begins(line: &str) -> Option<&str> {
    let label = line.trim().strip_prefix("-----BEGIN ")?.trim_end_matches('-').trim();
    (!label.is_empty() && label.len() <= 64).then_some(label)
}

/// A static key of 256 bytes: hexadecimal digits between markers, in lines of any length, with comments around.
///
/// # Errors
///
/// There is no such key, or it is too short.
pub(super) fn static_key(text: &str) -> Result<Zeroizing<[u8; 256]>, Problem> {
    let fail = |why: String| {
        Problem::new(FORMAT, "this is no OpenVPN static key")
            .seen(why)
            .fix("give the file that `openvpn --genkey secret ta.key` made: BEGIN OpenVPN Static key V1, then 512 hexadecimal digits")
    };
    let marked = text.lines().any(|line| line.trim().starts_with("-----BEGIN OpenVPN Static key V1"));
    if !marked && text.contains("-----BEGIN") {
        return Err(fail("it holds something else, see its BEGIN line".to_owned()));
    }
    let inside = text
        .lines()
        .map(str::trim)
        .skip_while(|line| marked && !line.starts_with("-----BEGIN OpenVPN Static key V1"))
        .skip(usize::from(marked))
        .take_while(|line| !line.starts_with("-----END"))
        .filter(|line| !line.starts_with('#') && !line.starts_with(';'));
    let mut key = Zeroizing::new([0u8; 256]);
    let mut digits = 0usize;
    for character in inside.flat_map(str::chars).filter(|c| !c.is_whitespace()) {
        let Some(value) = character.to_digit(16) else {
            return Err(fail(format!("digit {} is not hexadecimal", digits + 1)));
        };
        // What follows 256 bytes is of no use to anybody.
        if let Some(byte) = key.get_mut(digits / 2) {
            *byte = *byte << 4 | value as u8;
        }
        digits += 1;
    }
    if digits < 512 {
        return Err(fail(format!("it has {digits} hexadecimal digits in place of 512")));
    }
    Ok(key)
}

/// A tls-crypt-v2 client key: 256 bytes for us, and what only the server can open.
///
/// # Errors
///
/// It is none, or damaged.
pub(super) fn client_key_v2(text: &str) -> Result<(Zeroizing<[u8; 256]>, Vec<u8>), Problem> {
    const LABEL: &str = "OpenVPN tls-crypt-v2 client key";
    let fail = |summary: &str, fix: &str| Problem::new(FORMAT, summary).fix(fix);
    let found = blocks(text)?;
    let Some(pem) = found.iter().find(|pem| pem.label == LABEL) else {
        let server = found.iter().any(|pem| pem.label == "OpenVPN tls-crypt-v2 server key");
        return Err(if server {
            fail(
                "this is the tls-crypt-v2 key of a server, which clients must not have",
                "make a client key from it on the server: openvpn --tls-crypt-v2 SERVER.key --genkey tls-crypt-v2-client CLIENT.key",
            )
        } else if text.contains("OpenVPN Static key V1") {
            fail(
                "this is a static key, not a tls-crypt-v2 client key",
                "write tls-crypt in place of tls-crypt-v2, if the server does; else get the client key",
            )
        } else {
            fail("this is no tls-crypt-v2 client key", "get the profile again")
        });
    };
    let damaged = |why: String| {
        Problem::new(FORMAT, "the tls-crypt-v2 client key is damaged").seen(why).fix("get the profile again")
    };
    let Some((key, wrapped)) = pem.der.split_first_chunk::<256>() else {
        return Err(damaged(format!("it has {} bytes, fewer than its 256 of key", pem.der.len())));
    };
    let said = wrapped.last_chunk::<2>().map_or(0, |bytes| usize::from(u16::from_be_bytes(*bytes)));
    if said != wrapped.len() || wrapped.len() > 1024 {
        return Err(damaged(format!("its wrapped part has {} bytes and says {said}", wrapped.len())));
    }
    Ok((Zeroizing::new(*key), wrapped.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_any_order_among_text_and_line_ends() {
        let text = "Certificate:\r\n    Data:\r\n-----BEGIN A-----\r\nAQID\r\n-----END A-----\r\n\n  -----BEGIN EC PARAMETERS-----\n  BgU=\n-----END EC PARAMETERS-----\ntail";
        let found = blocks(text).unwrap();
        assert_eq!((found[0].label.as_str(), found[0].der.as_slice()), ("A", &[1, 2, 3][..]));
        assert_eq!(found[1].label, "EC PARAMETERS");
        let traditional = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAQID\n-----END RSA PRIVATE KEY-----\n";
        assert_eq!(blocks(traditional).unwrap()[0].header("proc-type"), Some("4,ENCRYPTED"));
    }

    #[test]
    fn damaged_blocks_say_how() {
        for (text, why) in [
            ("-----BEGIN A-----\nAQID\n", "END line is missing"),
            ("-----BEGIN A-----\nAQID\n-----BEGIN B-----\n", "END line is missing"),
            ("-----BEGIN A-----\nA*ID\n-----END A-----\n", "not base64"),
            ("-----BEGIN A-----\nAQID\n-----END B-----\n", "ends with"),
            ("-----BEGIN A-----\n-----END A-----\n", "empty"),
        ] {
            let problem = blocks(text).unwrap_err();
            assert!(problem.summary.contains(why), "{}", problem.summary);
        }
    }

    #[test]
    fn static_keys_of_all_shapes_are_the_same_key() {
        let hex: String = (0..=255u8).map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<&str> = hex.as_bytes().chunks(32).map(|c| std::str::from_utf8(c).unwrap()).collect();
        let begin = "-----BEGIN OpenVPN Static key V1-----";
        let end = "-----END OpenVPN Static key V1-----";
        for text in [
            format!("#\n# 2048 bit OpenVPN static key\n#\n{begin}\n{}\n{end}\n", lines.join("\n")),
            format!("{begin}\r\n{}\r\n{end}\r\n", lines.join("\r\n").to_uppercase()),
            format!("{begin}\n{hex}\n{end}\n"),
            format!("{begin}\n# a comment\n{hex}{hex}\n{end}\n"),
            format!("  {hex}\n"),
        ] {
            let key = static_key(&text).unwrap();
            assert!(key.iter().enumerate().all(|(index, byte)| usize::from(*byte) == index), "{text}");
        }
        for text in ["", "abc", &format!("{begin}\n{}\n{end}", &hex[..510]), "-----BEGIN X-----\nAA\n"] {
            assert_eq!(static_key(text).unwrap_err().class, FORMAT);
        }
    }

    #[test]
    fn a_wrapped_client_key_knows_its_length() {
        let pem = |bytes: &[u8]| {
            let text = BASE64.encode(bytes);
            format!(
                "-----BEGIN OpenVPN tls-crypt-v2 client key-----\n{text}\n-----END OpenVPN tls-crypt-v2 client key-----\n"
            )
        };
        let mut bytes = vec![7u8; 256 + 40];
        bytes.extend_from_slice(&42u16.to_be_bytes());
        let (key, wrapped) = client_key_v2(&pem(&bytes)).unwrap();
        assert_eq!((key[0], wrapped.len()), (7, 42));
        bytes.pop();
        assert!(client_key_v2(&pem(&bytes)).unwrap_err().summary.contains("damaged"));
        assert!(client_key_v2(&pem(&[1; 10])).unwrap_err().summary.contains("damaged"));
        assert!(
            client_key_v2(&pem(&[1; 3]).replace("client", "server"))
                .unwrap_err()
                .summary
                .contains("of a server")
        );
    }
}

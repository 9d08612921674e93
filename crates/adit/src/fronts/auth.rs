//! Who may use a proxy.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A user name and password of a proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials([redacted])")
    }
}

impl Credentials {
    /// Reads `USER:PASSWORD`. Both must be there, and fit the protocol's 255 bytes (RFC 1929 §2).
    pub fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.trim_end_matches(['\r', '\n']).split_once(':')?;
        let fits = |part: &str| (1..=255).contains(&part.len());
        (fits(user) && fits(password)).then(|| Self { user: user.to_owned(), password: password.to_owned() })
    }

    /// As user information of a URL (RFC 3986 §3.2.1).
    pub(super) fn user_info(&self) -> String {
        format!("{}:{}", escape(&self.user), escape(&self.password))
    }

    /// The message by which a client of SOCKS5 gives them (RFC 1929 §2).
    #[cfg(feature = "cli")]
    pub(crate) fn login(&self) -> Vec<u8> {
        let part = |text: &str| {
            let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
            [&[length], text.as_bytes()].concat()
        };
        [vec![1], part(&self.user), part(&self.password)].concat()
    }

    /// The value of `Proxy-Authorization` that gives them (RFC 7617 §2).
    #[cfg(feature = "cli")]
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }

    /// Whether these are the ones, in a time that does not depend on where they differ.
    pub fn admit(&self, user: &[u8], password: &[u8]) -> bool {
        same(user, self.user.as_bytes()) & same(password, self.password.as_bytes())
    }

    /// Whether a `Proxy-Authorization` value carries them (RFC 7617 §2).
    pub fn admit_basic(&self, value: &[u8]) -> bool {
        let Some((scheme, encoded)) = std::str::from_utf8(value).ok().and_then(|v| v.trim().split_once(' '))
        else {
            return false;
        };
        let Ok(decoded) = STANDARD.decode(encoded.trim()) else { return false };
        let mut parts = decoded.splitn(2, |&byte| byte == b':');
        let (user, password) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        scheme.eq_ignore_ascii_case("basic") && self.admit(user, password)
    }
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b));
    (one.len() == other.len()) & (std::hint::black_box(differences) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_credentials_are_admitted() {
        let credentials = Credentials::parse("me:pass:word\n").unwrap();
        assert!(credentials.admit(b"me", b"pass:word"));
        assert!(!credentials.admit(b"me", b"pass:wor") && !credentials.admit(b"m", b"pass:word"));
        assert!(credentials.admit_basic(b"Basic bWU6cGFzczp3b3Jk"));
        for value in
            [&b"Basic bWU6cGFzczp3b3I="[..], b"Bearer bWU6cGFzczp3b3Jk", b"Basic", b"Basic !", b"\xff"]
        {
            assert!(!credentials.admit_basic(value), "{value:?}");
        }
        assert_eq!(credentials.user_info(), "me:pass%3Aword");
        assert_eq!(Credentials::parse("nobody"), None);
        assert!(!format!("{credentials:?}").contains("pass"));
    }
}

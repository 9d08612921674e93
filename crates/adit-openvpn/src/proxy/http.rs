//! HTTP CONNECT (RFC 9110 §9.3.6) with Basic (RFC 7617) and Digest (RFC 7616).

use std::fmt;

use adit_tunnel::HostPort;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::digest::Challenge;
use super::{Refusal, Step, pair};
use crate::Credentials;

/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// A request for a connection.
pub(crate) struct HttpConnect {
    target: String,
    credentials: Option<Credentials>,
    digest_only: bool,
    headers: Vec<(String, String)>,
    random: u64,
    /// What the proxy wants credentials in, once it has said so.
    scheme: Option<Scheme>,
    head: Vec<u8>,
}

enum Scheme {
    Basic,
    Digest(Challenge),
}

impl HttpConnect {
    pub(super) fn new(
        server: &HostPort,
        credentials: Option<Credentials>,
        digest_only: bool,
        headers: Vec<(String, String)>,
        random: u64,
    ) -> Self {
        Self {
            target: server.to_string(),
            credentials,
            digest_only,
            headers,
            random,
            scheme: None,
            head: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self) -> Vec<u8> {
        self.head.clear();
        // A value with a line break would begin a line of its own.
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        let target = clean(&self.target);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        for (name, value) in &self.headers {
            request.push_str(&format!("{}: {}\r\n", clean(name), clean(value)));
        }
        if let (Some(scheme), Some(credentials)) = (&self.scheme, &self.credentials) {
            let (user, password) = pair(credentials);
            let value = match scheme {
                Scheme::Basic => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
                Scheme::Digest(challenge) => {
                    challenge.answer(user, password, "CONNECT", &target, self.random)
                }
            };
            request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.into_bytes()
    }

    pub(super) fn push(&mut self, data: &[u8]) -> Result<Step, Refusal> {
        let before = self.head.len();
        self.head.extend(data.iter().take(MAX_HEAD));
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let status = match response.parse(&self.head) {
            Ok(httparse::Status::Partial) if self.head.len() >= MAX_HEAD => {
                return Err("its answer does not end".into());
            }
            Ok(httparse::Status::Partial) => return Ok(Step::Wait),
            Ok(httparse::Status::Complete(len)) => {
                let code = response.code.unwrap_or_default();
                if (200..300).contains(&code) {
                    return Ok(Step::Done(len.saturating_sub(before)));
                }
                format!("{code} {}", response.reason.unwrap_or_default())
            }
            Err(error) => return Err(format!("its answer is not of HTTP: {error}").into()),
        };
        let status = status.trim().to_owned();
        // Tinyproxy says 401 to a wrong password.
        if self.scheme.is_some() && matches!(response.code, Some(401 | 407)) {
            return Err(Refusal::Login(status));
        }
        if response.code != Some(407) {
            return Err(status.into());
        }
        if self.credentials.is_none() {
            return Err(Refusal::Login(format!("{status}, and the profile has none for it")));
        }
        let offers: Vec<&str> = response
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("proxy-authenticate"))
            .filter_map(|header| std::str::from_utf8(header.value).ok())
            .collect();
        // The password itself stays here where the proxy allows it.
        let digest = offers.iter().find_map(|offer| Challenge::parse(offer)).map(Scheme::Digest);
        let begins = |offer: &&str| {
            offer.trim_start().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
        };
        let basic = (!self.digest_only && offers.iter().any(begins)).then_some(Scheme::Basic);
        match digest.or(basic) {
            Some(scheme) => {
                self.scheme = Some(scheme);
                Ok(Step::Reconnect)
            }
            None => {
                let methods = offers.join(", ");
                Err(Refusal::Login(format!("{status}; its methods are none of ours: {methods}")))
            }
        }
    }
}

impl fmt::Debug for HttpConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnect").field("target", &self.target).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn connect(credentials: bool, digest_only: bool) -> HttpConnect {
        let server = HostPort { host: "vpn.example".into(), port: 443 };
        let credentials = credentials.then(|| Credentials {
            username: "Mufasa".into(),
            password: Zeroizing::new("Circle of Life".into()),
        });
        HttpConnect::new(&server, credentials, digest_only, vec![("X-Site".into(), "a\r\nEvil: b".into())], 7)
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_comes_behind_the_head_is_the_servers_wherever_it_is_cut() {
        let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n\x00\x0e\x40rest";
        for cut in 0..answer.len() - 7 {
            let mut connect = connect(false, false);
            let request = text(connect.begin());
            assert!(request.starts_with("CONNECT vpn.example:443 HTTP/1.1\r\nHost: vpn.example:443\r\n"));
            assert!(request.contains("X-Site: aEvil: b\r\n"), "no header is smuggled in");
            let (head, tail) = answer.split_at(cut);
            let first = connect.push(head).unwrap();
            if first == Step::Wait {
                assert_eq!(connect.push(tail), Ok(Step::Done(tail.len() - 7)), "cut at {cut}");
            } else {
                panic!("{first:?}");
            }
        }
    }

    #[test]
    fn credentials_go_with_a_second_request_and_once() {
        let mut connect = connect(true, false);
        assert!(!text(connect.begin()).contains("Authorization"));
        let challenge =
            b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(connect.push(challenge), Ok(Step::Reconnect));
        assert!(
            text(connect.begin()).contains("Proxy-Authorization: Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl\r\n")
        );
        assert_eq!(connect.push(challenge), Err(Refusal::Login("407 Auth".into())));
    }

    #[test]
    fn digest_is_preferred_and_basic_is_not_used_where_it_must_not() {
        let both = b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
                     Proxy-Authenticate: Digest realm=\"x\", nonce=\"n\", qop=\"auth\"\r\n\r\n";
        let mut chosen = connect(true, false);
        chosen.begin();
        assert_eq!(chosen.push(both), Ok(Step::Reconnect));
        assert!(text(chosen.begin()).contains("Proxy-Authorization: Digest username=\"Mufasa\""));
        let mut strict = connect(true, true);
        strict.begin();
        let basic = b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
        assert!(matches!(strict.push(basic), Err(Refusal::Login(words)) if words.contains("none of ours")));
    }

    #[test]
    fn refusals_are_quoted() {
        let mut connect = connect(false, false);
        connect.begin();
        assert_eq!(connect.push(b"HTTP/1.0 403 Forbidden\r\n\r\n"), Err("403 Forbidden".into()));
        connect.begin();
        assert!(
            matches!(connect.push(b"SSH-2.0\r\n"), Err(Refusal::Other(words)) if words.contains("not of HTTP"))
        );
    }
}

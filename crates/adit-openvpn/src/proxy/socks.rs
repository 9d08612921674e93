//! SOCKS 5 CONNECT (RFC 1928) with user and password (RFC 1929).

use std::fmt;
use std::net::IpAddr;

use adit_tunnel::HostPort;

use super::{Refusal, Step, pair};
use crate::Credentials;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;

/// A request for a connection.
pub(crate) struct SocksConnect {
    server: HostPort,
    credentials: Option<Credentials>,
    stage: Stage,
    answer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Method,
    Authentication,
    Connection,
}

impl SocksConnect {
    pub(super) fn new(server: &HostPort, credentials: Option<Credentials>) -> Self {
        Self { server: server.clone(), credentials, stage: Stage::Method, answer: Vec::new() }
    }

    pub(super) fn begin(&mut self) -> Vec<u8> {
        (self.stage, self.answer) = (Stage::Method, Vec::new());
        match self.credentials {
            Some(_) => vec![VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
            None => vec![VERSION, 1, NO_AUTHENTICATION],
        }
    }

    pub(super) fn push(&mut self, data: &[u8]) -> Result<Step, Refusal> {
        for (at, byte) in data.iter().enumerate() {
            self.answer.push(*byte);
            match self.step()? {
                // A proxy says nothing before it is asked again.
                Step::Send(bytes) => return Ok(Step::Send(bytes)),
                Step::Done(_) => return Ok(Step::Done(at + 1)),
                _ => {}
            }
        }
        Ok(Step::Wait)
    }

    /// Looks at the answer so far, of which no byte is beyond its end.
    fn step(&mut self) -> Result<Step, Refusal> {
        let step = match (self.stage, &self.answer[..]) {
            (Stage::Method, [VERSION, NO_AUTHENTICATION]) => {
                self.stage = Stage::Connection;
                Step::Send(self.request()?)
            }
            (Stage::Method, [VERSION, USER_AND_PASSWORD]) if self.credentials.is_some() => {
                self.stage = Stage::Authentication;
                Step::Send(self.login()?)
            }
            (Stage::Method, [VERSION, _]) if self.credentials.is_none() => {
                return Err(Refusal::Login("the profile has none for it".to_owned()));
            }
            (Stage::Method, [VERSION, _]) => return Err("it takes no method that we have".into()),
            (Stage::Method, [first, ..]) if *first != VERSION => {
                return Err("its answer is not of SOCKS 5".into());
            }
            (Stage::Authentication, [_, 0]) => {
                self.stage = Stage::Connection;
                Step::Send(self.request()?)
            }
            (Stage::Authentication, [_, _]) => return Err(Refusal::Login("they are wrong".to_owned())),
            (Stage::Connection, [VERSION, 0, _, kind, rest @ ..]) => {
                let whole = match (kind, rest.first()) {
                    (1, _) => 4 + 2,
                    (4, _) => 16 + 2,
                    (3, Some(len)) => 1 + usize::from(*len) + 2,
                    (3, None) => return Ok(Step::Wait),
                    _ => return Err("its answer is not of SOCKS 5".into()),
                };
                if rest.len() < whole {
                    return Ok(Step::Wait);
                }
                Step::Done(0)
            }
            (Stage::Connection, [VERSION, code, ..]) if *code != 0 => return Err(reason(*code).into()),
            (Stage::Connection, [first, ..]) if *first != VERSION => {
                return Err("its answer is not of SOCKS 5".into());
            }
            _ => return Ok(Step::Wait),
        };
        self.answer.clear();
        Ok(step)
    }

    fn login(&self) -> Result<Vec<u8>, Refusal> {
        let Some(credentials) = &self.credentials else { return Err("no credentials".into()) };
        let mut message = vec![1];
        let (user, password) = pair(credentials);
        for text in [user, password] {
            let len = u8::try_from(text.len()).map_err(|_| "user or password are too long for SOCKS 5")?;
            message.push(len);
            message.extend(text.as_bytes());
        }
        Ok(message)
    }

    fn request(&self) -> Result<Vec<u8>, Refusal> {
        let mut message = vec![VERSION, CONNECT, 0];
        match self.server.host.parse() {
            Ok(IpAddr::V4(address)) => {
                message.push(1);
                message.extend(address.octets());
            }
            Ok(IpAddr::V6(address)) => {
                message.push(4);
                message.extend(address.octets());
            }
            Err(_) => {
                let name = self.server.host.as_bytes();
                let len = u8::try_from(name.len()).map_err(|_| "the server's name is too long")?;
                message.extend([3, len]);
                message.extend(name);
            }
        }
        message.extend(self.server.port.to_be_bytes());
        Ok(message)
    }
}

/// The reply codes of RFC 1928 §6.
fn reason(code: u8) -> String {
    match code {
        1 => "general failure".to_owned(),
        2 => "its rules do not allow the connection".to_owned(),
        3 => "the network is unreachable for it".to_owned(),
        4 => "the server is unreachable for it".to_owned(),
        5 => "the server refuses its connection".to_owned(),
        6 => "the connection took too long".to_owned(),
        7 => "it does not do CONNECT".to_owned(),
        8 => "it does not know this kind of address".to_owned(),
        code => format!("code {code}"),
    }
}

impl fmt::Debug for SocksConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocksConnect").field("server", &self.server).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn connect(host: &str, credentials: bool) -> SocksConnect {
        let credentials =
            credentials.then(|| Credentials { username: "u".into(), password: Zeroizing::new("pw".into()) });
        SocksConnect::new(&HostPort { host: host.into(), port: 443 }, credentials)
    }

    #[test]
    fn a_name_is_resolved_by_the_proxy_and_what_follows_the_answer_is_the_servers() {
        let mut socks = connect("vpn.example", false);
        assert_eq!(socks.begin(), [5, 1, 0]);
        let request = [&[5, 1, 0, 3, 11][..], b"vpn.example", &[1, 187]].concat();
        assert_eq!(socks.push(&[5, 0]), Ok(Step::Send(request)));
        assert_eq!(socks.push(&[5, 0, 0]), Ok(Step::Wait));
        assert_eq!(socks.push(&[3, 2, b'h', b'i', 0, 1, 0xaa, 0xbb]), Ok(Step::Done(6)));
    }

    #[test]
    fn user_and_password_are_sent_where_the_proxy_asks() {
        let mut socks = connect("192.0.2.1", true);
        assert_eq!(socks.begin(), [5, 2, 0, 2]);
        assert_eq!(socks.push(&[5, 2]), Ok(Step::Send(vec![1, 1, b'u', 2, b'p', b'w'])));
        assert_eq!(socks.push(&[1, 0]), Ok(Step::Send(vec![5, 1, 0, 1, 192, 0, 2, 1, 1, 187])));
        assert_eq!(socks.push(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]), Ok(Step::Done(10)));
        socks.begin();
        socks.push(&[5, 2]).unwrap();
        assert_eq!(socks.push(&[1, 1]), Err(Refusal::Login("they are wrong".into())));
    }

    #[test]
    fn refusals_say_why() {
        let mut socks = connect("::1", false);
        socks.begin();
        assert!(matches!(socks.push(&[5, 2]), Err(Refusal::Login(_))));
        socks.begin();
        assert!(matches!(socks.push(b"HTTP"), Err(Refusal::Other(words)) if words.contains("not of SOCKS")));
        socks.begin();
        socks.push(&[5, 0]).unwrap();
        assert_eq!(socks.push(&[5, 5, 0, 1]), Err("the server refuses its connection".into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            stage in 0..3, bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut socks = connect("x", true);
            socks.stage = [Stage::Method, Stage::Authentication, Stage::Connection][stage as usize];
            let _ = socks.push(&bytes);
        }
    }
}

//! SOCKS 5: CONNECT and UDP ASSOCIATE (RFC 1928) with user and password (RFC 1929).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_tunnel::{Dropped, HostPort};

use super::{Refusal, Step, pair};
use crate::{Credentials, Transport};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// A request for a connection, or for a relay of datagrams.
pub(crate) struct SocksConnect {
    server: HostPort,
    transport: Transport,
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
    pub(super) fn new(server: &HostPort, transport: Transport, credentials: Option<Credentials>) -> Self {
        Self { server: server.clone(), transport, credentials, stage: Stage::Method, answer: Vec::new() }
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
                Step::Relay(relay) => return Ok(Step::Relay(relay)),
                Step::Wait | Step::Reconnect => {}
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
            (Stage::Method, [VERSION, _]) => {
                return Err(Refusal::Login("it wants neither user and password nor nothing".to_owned()));
            }
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
                    (&NAME, None) => return Ok(Step::Wait),
                    (kind, first) => address_len(*kind, first.copied()),
                };
                match whole {
                    None => return Err("its answer is not of SOCKS 5".into()),
                    Some(whole) if rest.len() < whole => return Ok(Step::Wait),
                    Some(_) => match self.transport {
                        Transport::Tcp => Step::Done(0),
                        Transport::Udp => Step::Relay(
                            address(*kind, rest).ok_or("it names its relay, and gives no address of it")?,
                        ),
                    },
                }
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
        if self.server.host.len() > usize::from(u8::MAX) {
            return Err("the server's name is too long".into());
        }
        let mut message = Vec::new();
        match self.transport {
            Transport::Tcp => {
                message.extend([VERSION, CONNECT, 0]);
                write_address(&mut message, &self.server);
            }
            // Where our datagrams will come from is not known before, which is what zeros say.
            Transport::Udp => message.extend([VERSION, ASSOCIATE, 0, V4, 0, 0, 0, 0, 0, 0]),
        }
        Ok(message)
    }
}

/// What is put before each datagram that a proxy relays to `server` (RFC 1928 §7).
pub(crate) fn datagram_header(server: &HostPort) -> Vec<u8> {
    // Two bytes of zeros, and no fragment.
    let mut header = vec![0, 0, 0];
    write_address(&mut header, server);
    header
}

/// Takes that off a datagram. The address in it is the proxy's word only, and nothing depends on it.
pub(crate) fn open_datagram(datagram: &mut [u8]) -> Result<&mut [u8], Dropped> {
    let [_, _, 0, kind, rest @ ..] = datagram else { return Err(Dropped::Malformed) };
    let len = address_len(*kind, rest.first().copied()).ok_or(Dropped::Malformed)?;
    rest.get_mut(len..).ok_or(Dropped::Malformed)
}

/// Writes kind, address and port. Of a name that is too long, which no proxy was asked for, the beginning.
fn write_address(message: &mut Vec<u8>, server: &HostPort) {
    match server.host.parse() {
        Ok(IpAddr::V4(address)) => {
            message.push(V4);
            message.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            message.push(V6);
            message.extend(address.octets());
        }
        Err(_) => {
            let name = server.host.bytes().take(usize::from(u8::MAX));
            message.extend([NAME, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
            message.extend(name);
        }
    }
    message.extend(server.port.to_be_bytes());
}

/// The length of address and port of this kind, whose first byte tells that of a name.
fn address_len(kind: u8, first: Option<u8>) -> Option<usize> {
    match (kind, first) {
        (V4, _) => Some(4 + 2),
        (V6, _) => Some(16 + 2),
        (NAME, Some(len)) => Some(1 + usize::from(len) + 2),
        _ => None,
    }
}

/// Reads an address and a port.
fn address(kind: u8, bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, rest): (IpAddr, _) = match kind {
        V4 => bytes.split_first_chunk::<4>().map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest))?,
        V6 => bytes.split_first_chunk::<16>().map(|(ip, rest)| (Ipv6Addr::from(*ip).into(), rest))?,
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(*rest.first_chunk()?)))
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
        7 => "it does not do what it was asked for".to_owned(),
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
        SocksConnect::new(&HostPort { host: host.into(), port: 443 }, Transport::Tcp, credentials)
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
    fn a_relay_is_asked_for_and_its_address_is_taken() {
        let server = HostPort { host: "vpn.example".into(), port: 1194 };
        for (answer, relay) in [
            (&[5, 0, 0, 1, 192, 0, 2, 9, 4, 210][..], "192.0.2.9:1234"),
            (&[5, 0, 0, 1, 0, 0, 0, 0, 4, 210], "0.0.0.0:1234"),
            (&[5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80], "[::1]:80"),
        ] {
            let mut socks = SocksConnect::new(&server, Transport::Udp, None);
            socks.begin();
            assert_eq!(socks.push(&[5, 0]), Ok(Step::Send(vec![5, 3, 0, 1, 0, 0, 0, 0, 0, 0])));
            assert_eq!(socks.push(answer), Ok(Step::Relay(relay.parse().unwrap())));
        }
        let mut socks = SocksConnect::new(&server, Transport::Udp, None);
        socks.begin();
        socks.push(&[5, 0]).unwrap();
        assert!(matches!(socks.push(&[5, 7, 0, 1]), Err(Refusal::Other(_))));
    }

    #[test]
    fn what_is_put_around_a_datagram_is_taken_off_again() {
        for host in ["192.0.2.1", "2001:db8::1", "vpn.example"] {
            let mut datagram = datagram_header(&HostPort { host: host.into(), port: 1194 });
            datagram.extend(b"packet");
            assert_eq!(open_datagram(&mut datagram), Ok(&mut b"packet".to_owned()[..]), "{host}");
        }
        // A fragment, of which nobody sends any.
        assert_eq!(open_datagram(&mut [0, 0, 1, 1, 192, 0, 2, 1, 1, 187, 7]), Err(Dropped::Malformed));
        assert_eq!(open_datagram(&mut [0, 0, 0, 3]), Err(Dropped::Malformed));
        assert_eq!(open_datagram(&mut [0, 0, 0, 3, 9, b'x']), Err(Dropped::Malformed));
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
            socks.transport = if bytes.len() % 2 == 0 { Transport::Tcp } else { Transport::Udp };
            let _ = open_datagram(&mut bytes.clone());
            socks.stage = [Stage::Method, Stage::Authentication, Stage::Connection][stage as usize];
            let _ = socks.push(&bytes);
        }
    }
}

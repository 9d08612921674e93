//! The machine's own network, asked after a failure on the way to the server.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_path::BoxFuture;
use adit_verify::{Lookup, Outside, dns_question};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

use crate::machine;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The port of DNS.
const DNS: u16 = 53;
/// A STUN message without attributes (RFC 8489 §5) is this long.
const STUN_LEN: usize = 20;
/// What tells STUN from other protocols on one port (RFC 8489 §5).
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Where programs look for a proxy, in curl's order of precedence.
const PROXIES: [&str; 6] =
    ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"];

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine;

impl Outside for Machine {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Lookup> {
        Box::pin(async move {
            if let Ok(Ok(mut found)) = timeout(PATIENCE, lookup_host((name, 0))).await
                && found.next().is_some()
            {
                return Lookup::Found;
            }
            // The system's resolver does not tell a name that is not there from servers that are not.
            let servers: Vec<IpAddr> = machine::resolvers().iter().map(|server| server.address()).collect();
            ask(&servers, DNS, name).await
        })
    }

    fn tcp<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, bool> {
        Box::pin(
            async move { matches!(timeout(PATIENCE, TcpStream::connect((host, port))).await, Ok(Ok(_))) },
        )
    }

    fn stun<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let asked = async {
                let server = lookup_host((host, port)).await.ok()?.next()?;
                stun(server).await
            };
            timeout(PATIENCE, asked).await.ok().flatten().is_some()
        })
    }

    fn proxy(&self) -> Option<(String, String)> {
        let set = |name: &&str| Some(((*name).to_owned(), without_credentials(&env::var(name).ok()?)?));
        PROXIES.iter().find_map(set)
    }
}

/// Asks name servers one after the other, as the system's resolver does.
async fn ask(servers: &[IpAddr], port: u16, name: &str) -> Lookup {
    if servers.is_empty() {
        return Lookup::Unanswered("/etc/resolv.conf names no server".to_owned());
    }
    let Ok(id) = getrandom::u32().map(|random| random as u16) else {
        return Lookup::Unanswered("there is no randomness".to_owned());
    };
    let Some(question) = dns_question(id, name, false) else { return Lookup::Missing };
    let mut why = Vec::new();
    for server in servers {
        match timeout(PATIENCE / 2, exchange(SocketAddr::new(*server, port), &question)).await {
            Ok(Some(answer)) if answer.get(..2) == Some(&id.to_be_bytes()) => {
                match answer.get(3).map(|byte| byte & 15) {
                    // NOERROR, NXDOMAIN and REFUSED (RFC 1035 §4.1.1) are the words of a server that works.
                    Some(0 | 3 | 5) => return Lookup::Missing,
                    code => why.push(format!("{server} answers with error {}", code.unwrap_or_default())),
                }
            }
            Ok(_) => why.push(format!("{server} cannot be asked")),
            Err(_) => why.push(format!("{server} does not answer")),
        }
    }
    Lookup::Unanswered(why.join(", "))
}

async fn stun(server: SocketAddr) -> Option<()> {
    let mut request = [0; STUN_LEN];
    // A binding request (RFC 8489 §6).
    request[1] = 1;
    request[4..8].copy_from_slice(&MAGIC);
    getrandom::fill(&mut request[8..]).ok()?;
    let answer = exchange(server, &request).await?;
    // The transaction's number proves that it is the answer.
    (answer.get(4..STUN_LEN) == Some(&request[4..])).then_some(())
}

async fn exchange(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(question).await.ok()?;
    let mut answer = vec![0; 1500];
    let len = socket.recv(&mut answer).await.ok()?;
    answer.truncate(len);
    Some(answer)
}

/// `HOST:PORT` of a proxy's URL.
fn without_credentials(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    (!place.is_empty()).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// A UDP server that answers each message with what `answer` makes of it.
    async fn server(answer: impl Fn(&mut Vec<u8>) + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind((HERE, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let mut message = buffer[..len].to_vec();
                answer(&mut message);
                socket.send_to(&message, from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_resolver_that_knows_of_nothing_is_told_from_one_that_fails() {
        let with_code = |code: u8| move |message: &mut Vec<u8>| message[3] = code;
        let (missing, failing) = (server(with_code(3)).await, server(with_code(2)).await);
        assert_eq!(ask(&[HERE.into()], missing.port(), "a.example").await, Lookup::Missing);
        let refusing = server(with_code(5)).await;
        assert_eq!(ask(&[HERE.into()], refusing.port(), "a.example").await, Lookup::Missing);
        let failed = ask(&[HERE.into()], failing.port(), "a.example").await;
        assert_eq!(failed, Lookup::Unanswered("127.0.0.1 answers with error 2".to_owned()));
        let nobody = UdpSocket::bind((HERE, 0)).await.unwrap().local_addr().unwrap().port();
        assert!(matches!(ask(&[HERE.into()], nobody, "a.example").await, Lookup::Unanswered(_)));
        assert!(matches!(ask(&[], DNS, "a.example").await, Lookup::Unanswered(_)));
        assert_eq!(Machine.resolve("localhost").await, Lookup::Found);
    }

    #[tokio::test]
    async fn only_the_answer_to_our_own_question_is_one() {
        let honest = server(|message| message[0] = 1).await;
        let strange = server(|message| message[10] ^= 1).await;
        assert!(stun(honest).await.is_some() && stun(strange).await.is_none());
    }

    #[tokio::test]
    async fn a_host_is_reached_when_it_accepts() {
        let listener = tokio::net::TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(Machine.tcp("127.0.0.1", port).await);
        drop(listener);
        assert!(!Machine.tcp("127.0.0.1", port).await);
    }

    #[test]
    fn a_proxys_credentials_are_not_told() {
        assert_eq!(without_credentials("http://u:p%40@proxy.test:3128/").as_deref(), Some("proxy.test:3128"));
        assert_eq!(without_credentials("proxy.test:3128").as_deref(), Some("proxy.test:3128"));
        assert_eq!(without_credentials("http://"), None);
    }
}

//! A connection against a server's side in memory, through TLS and through a proxy.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use adit_tunnel::{LinkId, Outbox};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::conn::{Conn, DerpError, Incoming};
use super::frame::server::{FromClient, put_packet, put_restarting, put_server_key, split};
use super::tls::Tls;
use crate::netmap::{DerpCertificate, DerpNode};
use crate::seal::Random;
use crate::{Keys, NodeKey, Proxy, SecretKey};

const LINK: LinkId = LinkId(16);
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";

struct Bench {
    conn: Conn,
    out: Outbox,
    server: Option<ServerConnection>,
    /// What the server received and has not used.
    received: Vec<u8>,
    to_client: Vec<u8>,
    keys: Keys,
    random: Random,
    now: Instant,
    /// The client gets its bytes in pieces of this size.
    piece: usize,
    seen: Vec<String>,
}

struct Identity {
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn identity(name: &str) -> Identity {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Identity {
        leaf: made.cert.der().clone(),
        key: PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()),
    }
}

fn node(certificate: DerpCertificate) -> DerpNode {
    DerpNode { host: "derp.example".into(), certificate, derp_port: 443, ..DerpNode::default() }
}

impl Bench {
    fn new(identity: &Identity, trusted: bool, node: &DerpNode, proxy: Option<Proxy>) -> Self {
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(identity.leaf.clone()).unwrap();
        }
        let tls = Tls::new(&Arc::new(roots));
        let now = Instant::now();
        let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.leaf.clone()], identity.key.clone_key())
            .unwrap();
        Self {
            conn: Conn::new(LINK, node, Some(&tls), proxy.as_ref(), now).unwrap(),
            out: Outbox::with_capacity(200_000, 0),
            server: Some(ServerConnection::new(Arc::new(server)).unwrap()),
            received: Vec::new(),
            to_client: Vec::new(),
            keys: Keys { node: SecretKey::from_bytes([1; 32]), disco: SecretKey::from_bytes([2; 32]) },
            random: Random::new(1),
            now,
            piece: 100,
            seen: Vec::new(),
        }
    }

    /// Moves bytes until nothing moves any more.
    fn pump(&mut self) -> Result<(), DerpError> {
        loop {
            let mut sent = Vec::new();
            self.out.net.drain(|transmit| sent.extend_from_slice(transmit.data));
            let server = self.server.as_mut().unwrap();
            let mut rest = sent.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                let alert = server.process_new_packets().err();
                let _ = server.reader().read_to_end(&mut self.received);
                if alert.is_some() {
                    break;
                }
            }
            if !self.to_client.is_empty() && !server.is_handshaking() {
                server.writer().write_all(&std::mem::take(&mut self.to_client)).unwrap();
            }
            let mut back = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            if sent.is_empty() && back.is_empty() {
                return Ok(());
            }
            for piece in back.chunks(self.piece) {
                self.conn.receive(self.now, piece, &mut self.out.net)?;
                while let Some(incoming) = self.conn.next(self.now, &self.keys, &mut self.random)? {
                    self.seen.push(match incoming {
                        Incoming::Packet(from, data) => format!("{} bytes from {}", data.len(), from.short()),
                        other => format!("{other:?}"),
                    });
                }
            }
            self.conn.flush(&mut self.out.net);
        }
    }

    fn login(&mut self) -> Result<(), DerpError> {
        self.pump()?;
        assert!(self.received.starts_with(b"GET /derp HTTP/1.1\r\nHost: derp.example\r\n"));
        self.received.clear();
        self.to_client.extend(SWITCH);
        put_server_key(&mut self.to_client, &[3; 32]);
        self.pump()
    }
}

#[test]
fn nothing_is_sent_before_the_link_is_open() {
    let identity = identity("derp.example");
    let mut bench = Bench::new(&identity, true, &node(DerpCertificate::HostName), None);
    // A packet for a peer there has come up meanwhile.
    bench.conn.flush(&mut bench.out.net);
    assert!(bench.out.net.is_empty(), "the link would lose it");
    bench.conn.handle_opened(bench.now, &mut bench.out.net);
    bench.login().unwrap();
    assert_eq!(bench.seen, ["Ready"]);
}

#[test]
fn a_login_through_tls_and_packets_both_ways_in_pieces_of_any_size() {
    let identity = identity("derp.example");
    for piece in [1, 3, 100, 100_000] {
        let mut bench = Bench::new(&identity, true, &node(DerpCertificate::HostName), None);
        bench.piece = piece;
        bench.conn.set_preferred(true);
        bench.conn.handle_opened(bench.now, &mut bench.out.net);
        bench.login().unwrap();
        assert!(bench.conn.is_ready());
        let (info, used) = split(&bench.received).unwrap();
        assert_eq!(info, FromClient::Info(bench.keys.node_key()));
        let (preferred, more) = split(&bench.received[used..]).unwrap();
        assert_eq!((preferred, used + more), (FromClient::Other(7), bench.received.len()));
        bench.received.clear();
        let to = NodeKey([9; 32]);
        for size in [0, 1, 1500, 60_000] {
            assert!(bench.conn.queue(bench.now, &to, &vec![7; size]));
            bench.conn.flush(&mut bench.out.net);
            put_packet(&mut bench.to_client, &to, &vec![8; size]);
            bench.pump().unwrap();
            let (frame, _) = split(&bench.received).unwrap();
            assert_eq!(frame, FromClient::Send(to, &vec![7; size]));
            bench.received.clear();
        }
        put_restarting(&mut bench.to_client, 100);
        bench.pump().unwrap();
        let from = "0909090909";
        assert_eq!(bench.seen[0], "Ready");
        assert_eq!(bench.seen[4], format!("60000 bytes from {from}"));
        assert_eq!(bench.seen[5], "Restarting(100ms)");
    }
}

#[test]
fn certificates_are_checked_as_the_map_says() {
    let (right, other) = (identity("derp.example"), identity("other.example"));
    let digest = |identity: &Identity| {
        let digest = ring::digest::digest(&ring::digest::SHA256, &identity.leaf);
        DerpCertificate::Sha256(digest.as_ref().try_into().unwrap())
    };
    for (identity, trusted, check, passes) in [
        (&right, true, DerpCertificate::HostName, true),
        (&right, false, DerpCertificate::HostName, false),
        (&other, true, DerpCertificate::HostName, false),
        (&other, true, DerpCertificate::Name("other.example".into()), true),
        (&right, true, DerpCertificate::Name("other.example".into()), false),
        (&other, false, digest(&other), true),
        (&other, false, digest(&right), false),
        (&other, false, DerpCertificate::Unchecked, true),
    ] {
        let mut bench = Bench::new(identity, trusted, &node(check.clone()), None);
        bench.conn.handle_opened(bench.now, &mut bench.out.net);
        let outcome = if passes { bench.login() } else { bench.pump() };
        assert_eq!(outcome.is_ok(), passes, "{check:?}: {outcome:?}");
        assert!(passes || matches!(outcome, Err(DerpError::Tls(_))));
    }
}

#[test]
fn a_proxy_is_asked_first_and_its_refusal_is_quoted() {
    let identity = identity("derp.example");
    let at = adit_tunnel::HostPort { host: "proxy.example".into(), port: 3128 };
    let proxy = Proxy { at, authorization: Some("Basic QQ==".into()) };
    for (answer, passes) in
        [("HTTP/1.1 200 Connection established\r\n\r\n", true), ("HTTP/1.1 403 Forbidden\r\n\r\n", false)]
    {
        let mut bench = Bench::new(&identity, true, &node(DerpCertificate::HostName), Some(proxy.clone()));
        bench.conn.handle_opened(bench.now, &mut bench.out.net);
        let mut request = String::new();
        bench.out.net.drain(|transmit| request += std::str::from_utf8(transmit.data).unwrap());
        assert_eq!(
            request,
            "CONNECT derp.example:443 HTTP/1.1\r\nHost: derp.example:443\r\nProxy-Authorization: Basic QQ==\r\n\r\n"
        );
        let (head, tail) = answer.split_at(10);
        bench.conn.receive(bench.now, head.as_bytes(), &mut bench.out.net).unwrap();
        let outcome = bench.conn.receive(bench.now, tail.as_bytes(), &mut bench.out.net);
        if passes {
            outcome.unwrap();
            bench.login().unwrap();
            assert!(bench.conn.is_ready());
        } else {
            assert_eq!(outcome, Err(DerpError::Proxy("403 Forbidden".into())));
        }
    }
}

#[test]
fn a_server_that_does_not_switch_is_told_from_a_relay() {
    let identity = identity("derp.example");
    for (answer, said) in [
        ("HTTP/1.1 426 Upgrade Required\r\n\r\n", "426 Upgrade Required"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "something that is no HTTP"),
    ] {
        let mut bench = Bench::new(&identity, true, &node(DerpCertificate::HostName), None);
        bench.conn.handle_opened(bench.now, &mut bench.out.net);
        bench.pump().unwrap();
        bench.to_client.extend(answer.as_bytes());
        assert_eq!(bench.pump(), Err(DerpError::NoUpgrade(said.into())));
    }
}

#[test]
fn what_does_not_fit_is_dropped_and_the_queue_has_an_end() {
    let identity = identity("derp.example");
    let mut bench = Bench::new(&identity, true, &node(DerpCertificate::HostName), None);
    bench.conn.handle_opened(bench.now, &mut bench.out.net);
    bench.login().unwrap();
    bench.out.net.block(LINK);
    let taken = (0..1000).filter(|_| bench.conn.queue(bench.now, &NodeKey([9; 32]), &[7; 1200])).count();
    assert!((90..120).contains(&taken), "{taken} packets wait");
    bench.conn.flush(&mut bench.out.net);
    bench.out.net.unblock(LINK);
    bench.received.clear();
    bench.conn.flush(&mut bench.out.net);
    bench.pump().unwrap();
    let (mut rest, mut arrived) = (bench.received.as_slice(), 0);
    while let Some((_, used)) = split(rest) {
        rest = &rest[used..];
        arrived += 1;
    }
    assert_eq!((arrived, rest.len()), (taken, 0));
}

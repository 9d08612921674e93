//! OpenVPN: what is read before and below TLS, the exchange inside it, and a whole client that a stranger talks to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_openvpn::km::{ClientMessage, Lengths, MessageError, ServerMessage};
use adit_openvpn::message::{Message, Splitter};
use adit_openvpn::wire::{Control, First, Framer, Opcode};
use adit_openvpn::wrap::{Side, Wrapper, split_wrapped_key, wrapped_key_is_whole};
use adit_openvpn::{
    Algorithm, Cipher, Clock, Config, Direction, OpenVpn, Remote, StaticKey, Transport, Trust, Wrap,
};
use adit_tunnel::{Event, HostPort, LinkId, NetInput, Outbox, Tunnel};

use super::pieces;

/// The wraps of both ends, by the bits of a byte.
fn wraps(bits: u8) -> (Wrap, Wrap) {
    let key = StaticKey(std::array::from_fn(|at| at as u8).into());
    let auth = |direction, algorithm| Wrap::Auth { key: key.clone(), direction, algorithm };
    match bits & 3 {
        0 => (Wrap::None, Wrap::None),
        1 => (auth(Direction::Inverse, Algorithm::Sha1), auth(Direction::Normal, Algorithm::Sha1)),
        2 => (auth(Direction::Both, Algorithm::Sha512), auth(Direction::Both, Algorithm::Sha512)),
        _ => (Wrap::Crypt(key.clone()), Wrap::Crypt(key.clone())),
    }
}

/// Unwraps pieces as they are, and then wrapped by a server that puts into them what it likes; reads what is in them
/// as control packets, messages of key method 2 and text. The first byte chooses the wrap.
pub fn openvpn_control(bytes: &[u8]) {
    let Some((bits, bytes)) = bytes.split_first() else { return };
    let (ours, theirs) = wraps(*bits);
    let mut client = Wrapper::new(&ours, Side::Client, 1);
    let mut server = Wrapper::new(&theirs, Side::Server, 1);
    let mut splitter = Splitter::default();
    for piece in pieces(bytes) {
        let mut raw = piece.to_vec();
        let opened = client.unwrap(&mut raw).is_ok();
        assert!(!opened || !client.authenticates(), "nothing opens without the key");
        if let Some((packet, wrapped)) = split_wrapped_key(&mut raw) {
            assert!(wrapped_key_is_whole(wrapped));
            assert_eq!(packet.len() + wrapped.len(), piece.len());
        }
        let first = First { opcode: Opcode::Control, key_id: bits >> 5 };
        let mut packet = Vec::new();
        server.wrap(first, &[7; 8], piece, &mut packet);
        let opened = client.unwrap(&mut packet).expect("what the server wraps opens");
        assert_eq!((opened.first, opened.session, opened.body), (first, [7; 8], piece));
        if let Ok(control) = Control::parse(first.opcode, piece) {
            let mut again = Vec::new();
            control.write(&mut again);
            assert_eq!(again, piece, "a control packet has one form");
        }
        key_method(piece);
        splitter.push(piece, |message| {
            if let Message::Info(info) = message {
                assert!(!format!("{info:?}").contains('\u{1b}'), "nothing moves a terminal's cursor");
            }
        });
    }
    let mut framer = Framer::default();
    let mut stream = bytes.to_vec();
    let mut packets = 0;
    let _ = framer.push(&mut stream, |packet| packets += packet.len() + 2);
    assert!(packets <= bytes.len(), "packets lie in their stream");
}

fn key_method(bytes: &[u8]) {
    match ServerMessage::decode(bytes) {
        Ok((message, used)) => {
            assert!(used <= bytes.len());
            if let Ok(again) = message.encode(Lengths::Short) {
                let (read, _) = ServerMessage::decode(&again).expect("what is written can be read");
                assert_eq!(read.options, message.options);
            }
        }
        Err(MessageError::Incomplete | MessageError::Method | MessageError::TooLong) => {}
    }
    if let Ok((message, used)) = ClientMessage::decode(bytes) {
        assert!(used <= bytes.len());
        if let Ok(again) = message.encode(Lengths::Short) {
            let (read, _) = ClientMessage::decode(&again).expect("what is written can be read");
            assert_eq!((read.username, read.peer_info), (message.username, message.peer_info));
        }
    }
}

/// A whole client on an unprotected control channel. Each piece is a packet of somebody who has seen the client's first
/// one: its first two bytes are kind and key, and the number of the packet; the rest is what it carries.
pub fn openvpn_client(bytes: &[u8]) {
    let mut now = Instant::now();
    let mut client = OpenVpn::new(config(now), 7, now).expect("the configuration is good");
    let mut out = Outbox::with_capacity(1 << 16, 1 << 16);
    let server: SocketAddr = "192.0.2.1:1194".parse().expect("an address");
    let local: SocketAddr = "192.0.2.2:5000".parse().expect("an address");
    let mut link = LinkId(0);
    while let Some(event) = client.poll_event() {
        if let Event::OpenLink(id, _) = event {
            link = id;
        }
    }
    let _ = client.handle_net(now, NetInput::Opened { link, local }, &mut out);
    let mut session = [0; 8];
    out.net.drain(|sent| {
        if let Some(id) = sent.data.get(1..9) {
            session.copy_from_slice(id);
        }
    });
    assert_ne!(session, [0; 8], "the client calls as soon as its link is open");
    for piece in pieces(bytes) {
        let Some((&[kind, number], payload)) = piece.split_first_chunk::<2>() else { continue };
        // With an acknowledgement of the client's first packet.
        let head = [&[kind][..], &[9; 8], &[1, 0, 0, 0, 0], &session, &[0, 0, 0, number]].concat();
        let mut packet = [&head[..], payload].concat();
        let input = NetInput::Datagram { link, from: server, data: &mut packet };
        let _ = client.handle_net(now, input, &mut out);
        let mut raw = piece.to_vec();
        let _ = client.handle_net(now, NetInput::Datagram { link, from: server, data: &mut raw }, &mut out);
        now += Duration::from_millis(u64::from(number) * 10);
        client.handle_timeout(now, &mut out);
        let mut sent = 0;
        out.net.drain(|batch| sent += batch.data.len());
        assert!(sent <= 64 * 1024, "{sent} bytes in answer to one packet");
        let mut events = 0;
        while let Some(event) = client.poll_event() {
            events += 1;
            assert!(events < 100, "events without end");
            match event {
                Event::OpenLink(id, _) => {
                    link = id;
                    let _ = client.handle_net(now, NetInput::Opened { link, local }, &mut out);
                    out.net.drain(|sent| {
                        if let Some(id) = sent.data.get(1..9) {
                            session.copy_from_slice(id);
                        }
                    });
                }
                Event::Up | Event::Configured(_) => panic!("a stranger cannot give us a network"),
                _ => {}
            }
        }
    }
}

fn config(now: Instant) -> Config {
    let host = HostPort { host: "192.0.2.1".into(), port: 1194 };
    let remote = Remote {
        connect_timeout: Duration::from_secs(10),
        exit_notify: 1,
        ..Remote::new(host, Transport::Udp, Wrap::None)
    };
    let trust = Trust { fingerprints: vec![[7; 32]], ..Trust::default() };
    let clock = Clock { instant: now, unix: Duration::from_secs(1_795_000_000) };
    Config { data_ciphers: vec![Cipher::Aes256Gcm], auth: None, ..Config::new(remote, trust, clock) }
}

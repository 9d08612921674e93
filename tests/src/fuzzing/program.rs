//! What a program under `exec` gives to the kernel, and so to us.

use std::net::SocketAddr;

use adit_intercept::wire::{
    Arch, Fallback, Knowledge, MAX_LEN, MessageHeader, SockAddr, Verdict, judge, parse_pieces, udp_limit,
    write,
};
use adit_path::Destination;
use adit_tunnel::{DnsConfig, NameScope, NetConfig};

/// Reads a socket address, a message header with its pieces, in the layout of every architecture.
pub fn program_memory(bytes: &[u8]) {
    match SockAddr::parse(bytes) {
        SockAddr::Inet { to, six } => {
            assert!(!matches!(to, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some()), "{to} is IPv4");
            assert!(six || to.is_ipv4());
            let written = write(to, six);
            assert!(written.len() <= MAX_LEN);
            assert_eq!(SockAddr::parse(&written), SockAddr::Inet { to, six }, "what was read can be written");
        }
        SockAddr::Unix { path } => assert!(!path.contains(&0), "a path ends at its terminator"),
        SockAddr::Short => assert!(bytes.len() < 24),
        SockAddr::Unspecified { .. } | SockAddr::Other(_) => {}
    }
    for arch in [Arch::X86_64, Arch::I386, Arch::Aarch64, Arch::Arm] {
        let header = MessageHeader::parse(bytes, arch);
        assert_eq!(header.is_some(), bytes.len() >= MessageHeader::size(arch));
        let pieces = parse_pieces(bytes, arch);
        assert_eq!(pieces.len(), bytes.len() / (2 * arch.pointer()));
    }
}

/// Judges a message that a program sends to its DNS server. A private name never goes there.
pub fn program_dns(bytes: &[u8]) {
    let config = NetConfig {
        routes: vec!["10.0.0.0/8".parse().expect("a prefix")],
        dns: DnsConfig {
            servers: vec!["10.0.0.53".parse().expect("an address")],
            search: vec!["corp.example".into()],
            routes: Vec::new(),
        },
        ..NetConfig::default()
    };
    let owns = |destination: &Destination| match destination {
        Destination::Name(name) => config.name_scope(name) == NameScope::Private,
        Destination::Address(address) => config.routes_to(*address),
    };
    let scope = |name: &str| config.name_scope(name);
    let own_search = ["lan.example".to_owned()];
    let knowledge = Knowledge { owns: &owns, scope: &scope, own_search: &own_search };
    let private = plain_name(bytes).is_some_and(|name| config.name_scope(&name) == NameScope::Private);
    match judge(bytes, &knowledge) {
        Verdict::Forward => assert!(!private, "a private name goes to the program's own server"),
        Verdict::Ask { name, fallback, .. } => {
            assert!(!name.is_empty());
            if private && name.trim_end_matches('.').contains('.') {
                assert_eq!(fallback, Fallback::Never, "{name}");
            }
        }
        Verdict::Reply(reply) => {
            assert_eq!(reply.get(..2), bytes.get(..2), "a reply has the id of its question");
            assert!(reply.len() >= 12 && reply[2] & 0x80 != 0, "and is a response");
            assert!(reply.len() <= udp_limit(bytes), "that the program's buffer takes");
        }
        Verdict::Drop => {}
    }
}

/// The name of the first question, where its labels stand there plainly: letters, digits and hyphens, in lower case.
fn plain_name(message: &[u8]) -> Option<String> {
    let questions = message.get(4..6)?;
    if questions == [0, 0] {
        return None;
    }
    let mut rest = message.get(12..)?;
    let mut labels = Vec::new();
    loop {
        let (&length, tail) = rest.split_first()?;
        if length == 0 {
            return Some(labels.join("."));
        }
        let label = tail.get(..usize::from(length)).filter(|_| length < 64)?;
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
            return None;
        }
        labels.push(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        rest = &tail[label.len()..];
    }
}

//! Answers of DNS servers.

use std::time::{Duration, Instant};

use adit_netstack::dns::{Action, Question, Resolver};
use adit_tunnel::{DnsConfig, NetConfig};

/// Asks a question whose kind the first byte chooses, and answers with the rest under the right message id.
pub fn dns_message(bytes: &[u8]) {
    let Some((&kind, answer)) = bytes.split_first() else { return };
    let config = config();
    let now = Instant::now();
    let mut resolver = Resolver::new(1);
    resolver.configure(&config);
    let record = [None, Some(1), Some(28), Some(12), Some(5)][usize::from(kind) % 5];
    let name = ["db.internal", "db", "10.0.0.10.in-addr.arpa"][usize::from(kind) / 5 % 3];
    resolver.query(now, Question { name: name.into(), record, timeout: Duration::from_secs(5) });

    let mut sent = 0;
    while let Some(action) = resolver.poll_action() {
        sent += 1;
        assert!(sent < 64, "one message leads to a limited number of actions");
        let (exchange, to, message) = match action {
            Action::Udp { exchange, to, message } | Action::Tcp { exchange, to, message } => {
                (exchange, to, message)
            }
            Action::Close { .. } => continue,
        };
        assert!(config.routes_to(to.ip()), "only servers inside the routes are asked");
        let mut reply = answer.to_vec();
        if let (Some(id), Some(sent)) = (reply.get_mut(..2), message.get(..2)) {
            id.copy_from_slice(sent);
        }
        resolver.handle_message(now, exchange, to, &reply);
    }
    while let Some((_, outcome)) = resolver.poll_event() {
        let Ok(answer) = outcome else { continue };
        assert!(
            answer.addresses.iter().all(|&address| config.routes_to(address)),
            "an address outside the routes is never passed on: {answer:?}"
        );
    }
    let later = now + Duration::from_secs(1);
    resolver.handle_timeout(later);
    assert!(
        resolver.poll_timeout().is_none_or(|deadline| deadline.at > later),
        "a timeout that was handled is over"
    );
}

fn config() -> NetConfig {
    NetConfig {
        addresses: vec!["10.0.0.2/32".parse().expect("a prefix"), "fd00::2/128".parse().expect("a prefix")],
        routes: vec!["10.0.0.0/8".parse().expect("a prefix"), "fd00::/64".parse().expect("a prefix")],
        excluded: Vec::new(),
        dns: DnsConfig {
            servers: vec!["10.0.0.53".parse().expect("an address")],
            search: vec!["internal".into()],
            routes: Vec::new(),
        },
        mtu: 1420,
    }
}

//! NATs: a router's namespace that is put between a machine and its link.

use super::super::namespace::Namespace;

/// How a NAT chooses the port that the world sees (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// One for all destinations: two such NATs are passed by packets from both sides.
    Easy,
    /// Another one for each destination, by chance.
    Hard,
}

impl Nat {
    /// Takes a machine's link `eth0` and gives the machine another one behind it.
    pub(super) fn insert(self, machine: &Namespace, address: &str, router: &str, lab: &str) -> Namespace {
        let role = machine.name().rsplit('-').next().unwrap_or_default();
        let nat = Namespace::create(lab, &format!("nat.{role}"));
        machine.ip(&format!("link set eth0 netns {}\n", nat.name()));
        nat.ip(&format!(
            "link set eth0 name wan0\naddr add {address} dev wan0\nlink set wan0 up\nroute add default via {router}\n\
             link add lan0 type veth peer name eth0 netns {}\naddr add 10.200.0.1/24 dev lan0\nlink set lan0 up\n",
            machine.name()
        ));
        machine.ip("addr add 10.200.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.200.0.1\n");
        nat.sysctl("net.ipv4.ip_forward", "1");
        let ports = if self == Self::Hard { "random,fully-random" } else { "" };
        // A router that answers what it did not expect has a mapping of its own for it, which takes the machine's place.
        nat.nft(&format!(
            "table ip nat {{ chain outgoing {{ type nat hook postrouting priority srcnat; oifname wan0 masquerade {ports}; }}; \
             chain incoming {{ type filter hook input priority filter; iifname wan0 ct state new drop; }}; }}"
        ));
        nat
    }
}

/// Deletes every entry of the connection tracking of the namespace that this thread is in: a request of ctnetlink to delete
/// that names none (linux/netfilter/nfnetlink_conntrack.h).
pub(super) fn forget_connections() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)).unwrap();
    let (length, delete, request_and_acknowledge) = (20u32, (1u16 << 8) | 2, 1u16 | 4);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([delete, request_and_acknowledge].map(u16::to_ne_bytes).concat());
    message.extend([0; 8]);
    // IPv4, version 0, no resource.
    message.extend([2, 0, 0, 0]);
    send(&socket, &message, SendFlags::empty()).unwrap();
    let mut answer = [0u8; 1024];
    let (count, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).unwrap();
    let error =
        answer.get(16..20).filter(|_| count >= 20).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap()));
    assert_eq!(error, Some(0), "the kernel refuses to forget its connections");
}

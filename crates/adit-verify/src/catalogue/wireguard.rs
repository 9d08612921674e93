//! Classes of WireGuard, a protocol that stays silent by design: most of them are inferred.

use super::{Blame, Class, class};
use crate::Exit;

pub(super) const CLASSES: &[Class] = &[
    class(
        "wg.config.parse",
        Exit::Usage,
        Blame::User,
        "{file|the WireGuard configuration} cannot be read as a wg-quick file",
        &["Correct the line that is shown; `adit config check` reads the file without connecting."],
        "A wg-quick file has an [Interface] section and one [Peer] section per peer, with `Key = value` lines. The message names the file, the line and the column.",
    ),
    class(
        "wg.config.repeated",
        Exit::Ok,
        Blame::User,
        "{key|a key} stands twice in the same section; the last one counts",
        &["Delete the line that is not meant."],
        "wg and wg-quick let the last value win without a word, which hides a value that was meant.",
    )
    .warning(),
    class(
        "wg.key.format",
        Exit::Usage,
        Blame::User,
        "a WireGuard key is not 32 bytes in base64",
        &[
            "Paste the whole key: 44 characters that end with `=`.",
            "Make a new pair with `wg genkey` and `wg pubkey`.",
        ],
        "Private keys, public keys and preshared keys are 32 bytes, written as 44 base64 characters. A key that was cut, quoted or wrapped does not decode.",
    ),
    class(
        "wg.key.swapped",
        Exit::Usage,
        Blame::User,
        "the peer's PublicKey belongs to our own PrivateKey",
        &["Put the server's public key into [Peer] PublicKey; `wg show` on the server prints it."],
        "The public key derived from [Interface] PrivateKey equals the PublicKey of a peer. Usually one's own public key was pasted where the server's belongs.",
    ),
    class(
        "wg.key.missing",
        Exit::CredentialMissing,
        Blame::User,
        "there is no PrivateKey for the tunnel",
        &[
            "Add [Interface] PrivateKey, or name a file or variable that holds it in the profile.",
            "If the value comes from a template, check that the secret was substituted.",
        ],
        "Without a private key there is no WireGuard identity. An empty value or a placeholder that nobody replaced counts as missing.",
    ),
    class(
        "wg.endpoint.missing",
        Exit::Usage,
        Blame::User,
        "no peer has an Endpoint, so there is nobody to connect to",
        &["Add `Endpoint = HOST:PORT` to the [Peer] section of the server."],
        "A WireGuard peer without endpoint can only be answered, never called. In a sandbox adit is the one that calls.",
    ),
    class(
        "wg.endpoint.dns",
        Exit::ServerUnreachable,
        Blame::Unknown,
        "the endpoint name {endpoint|of the server} does not resolve",
        &[
            "Check the spelling of Endpoint.",
            "If the name exists only inside the VPN, write the server's public address instead.",
            "Check that this sandbox can resolve public names at all: `adit doctor`.",
        ],
        "The endpoint is looked up with the sandbox's own resolver, outside the tunnel, because there is no tunnel yet.",
    )
    .retryable(),
    class(
        "wg.endpoint.family",
        Exit::ServerUnreachable,
        Blame::Sandbox,
        "{endpoint|the endpoint} has only addresses of a family that this machine cannot reach",
        &["Use an endpoint with an IPv4 address, or enable IPv6 for the sandbox."],
        "The name resolves, but only to IPv6 addresses, and there is no IPv6 route here (or the other way round). Containers often have IPv4 only.",
    ),
    class(
        "wg.udp.refused",
        Exit::ServerUnreachable,
        Blame::Server,
        "nothing listens on UDP {endpoint|at the endpoint}",
        &[
            "Compare the port of Endpoint with ListenPort on the server.",
            "Start the WireGuard interface on the server: `wg show` lists it when it runs.",
        ],
        "The server's machine answered with ICMP port unreachable. It is reachable; no WireGuard listens on that port.",
    )
    .retryable(),
    class(
        "wg.udp.unreachable",
        Exit::ServerUnreachable,
        Blame::Path,
        "{endpoint|the endpoint} cannot be reached from here",
        &[
            "Check the address of Endpoint, and that this machine has a route to it.",
            "Ask whether the sandbox may send UDP to that address at all.",
        ],
        "The system or a router says that there is no way to the server's host or network (EHOSTUNREACH, ENETUNREACH).",
    )
    .retryable(),
    class(
        "wg.udp.socket",
        Exit::Environment,
        Blame::Sandbox,
        "no UDP socket can be opened here",
        &["Ask whether the sandbox allows UDP sockets.", "Raise the limit of open files: ulimit -n."],
        "WireGuard needs one UDP socket towards the outside, and the system refuses it or took it away.",
    )
    .retryable(),
    class(
        "wg.silent",
        Exit::Handshake,
        Blame::Unknown,
        "no answer to the WireGuard handshake from {endpoint|the server}",
        &[
            "On the server, check that a [Peer] with our public key {our_key|(`adit config show` prints it)} exists.",
            "Check that [Peer] PublicKey here is the server's: `wg show` on the server prints it.",
            "Check that UDP to {endpoint|the endpoint} may leave this sandbox and that the port is right.",
            "Check the clocks: a server ignores handshakes older than the last one it accepted.",
        ],
        "WireGuard never answers what it cannot authenticate, so a wrong server key, a key of ours that the server does not know, blocked UDP and a clock that went backwards all look the same: silence. The checks are listed in order of likelihood. The initiation is repeated every 5 seconds.",
    )
    .retryable(),
    class(
        "wg.udp.blocked",
        Exit::TransportBlocked,
        Blame::Path,
        "UDP does not leave this sandbox, so WireGuard cannot work here",
        &[
            "Allow outgoing UDP to {endpoint|the server's endpoint}.",
            "Where only TCP may leave, use OpenVPN over TCP or Tailscale.",
        ],
        "Neither the WireGuard server nor public STUN servers answered over UDP. WireGuard has no TCP mode.",
    ),
    class(
        "wg.psk.mismatch",
        Exit::Handshake,
        Blame::User,
        "the server answered, but the preshared key differs",
        &["Copy PresharedKey from the server's [Peer] section for us, or remove it on both sides."],
        "A handshake response came that carries our index and a valid mac1, so both public keys are right; decrypting its empty payload failed, and the preshared key is the only other input.",
    ),
    class(
        "wg.clock",
        Exit::Handshake,
        Blame::Sandbox,
        "the clock of this machine is wrong, and the server drops handshakes from the past",
        &["Set the clock; in a container, set the host's."],
        "Each initiation carries a timestamp (TAI64N), and a server only accepts one later than the last. A clock before the build date of this binary, or earlier than a handshake already made, cannot be right.",
    ),
    class(
        "wg.ourkey.unknown",
        Exit::Handshake,
        Blame::Server,
        "the server knows its own key in our initiation but does not answer it: it does not know ours",
        &["Add on the server: [Peer] PublicKey = {our_key|our public key} and AllowedIPs = {address|our tunnel address}."],
        "The server sent a cookie, which proves that UDP works and that its public key is right, but never a response. It does not have our public key.",
    ),
    class(
        "wg.allowedips.server",
        Exit::Target,
        Blame::Server,
        "the handshake works, but nothing comes back through the tunnel",
        &[
            "On the server, our [Peer] needs AllowedIPs = {address|our tunnel address}.",
            "Check that Address here is the one that the server expects.",
        ],
        "Handshakes and keepalives pass, yet not even the gateway's inner address answers. A WireGuard server drops packets whose source is not in the AllowedIPs of the peer that sent them.",
    ),
    class(
        "wg.allowedips.client",
        Exit::Route,
        Blame::User,
        "{target|the target} is outside the tunnel: no AllowedIPs covers {destination|its address}",
        &["Add {prefix|a prefix that covers it} to AllowedIPs of the peer that leads there."],
        "AllowedIPs is the routing table of WireGuard: only what it covers enters the tunnel. adit never lets a private destination fall through to the public network instead.",
    ),
    class(
        "wg.allowedips.overlap",
        Exit::Ok,
        Blame::User,
        "{prefix|a prefix} stands in the AllowedIPs of two peers; the last one wins",
        &["Remove it from one of the peers."],
        "WireGuard keeps one owner per prefix. As in wg(8), the peer that is listed last takes it.",
    )
    .warning(),
    class(
        "wg.allowedips.clash",
        Exit::Route,
        Blame::User,
        "{prefix|a prefix of AllowedIPs} overlaps {network|a network} of this sandbox",
        &[
            "Narrow AllowedIPs to the addresses that you need.",
            "Use `--mode userspace` with `exec`, a proxy or forwards: they do not change the sandbox's routes.",
            "If the sandbox may lose its own network there: --force-route.",
        ],
        "With a TUN device the route would take the sandbox's own traffic (its gateway, its resolver, the host's control channel) into the tunnel and cut it off.",
    ),
    class(
        "wg.address.missing",
        Exit::Route,
        Blame::User,
        "there is no Address for this side of the tunnel",
        &["Add `Address = …` to [Interface]: the address that the server has in AllowedIPs for us."],
        "Without an address no packet can be sent through the tunnel.",
    ),
    class(
        "wg.address.clash",
        Exit::Route,
        Blame::User,
        "our tunnel address {address|} is also an address of this sandbox",
        &["Ask the VPN's administrator for another address, or change the sandbox's network."],
        "The same address inside the tunnel and on an interface of this machine makes it undecidable which one a program means.",
    ),
    class(
        "wg.forwarding",
        Exit::Target,
        Blame::Server,
        "the gateway answers, but the hosts behind it are silent",
        &[
            "On the server: `sysctl -w net.ipv4.ip_forward=1` (and net.ipv6.conf.all.forwarding=1).",
            "On the server: masquerade towards the LAN, or give the LAN's hosts a route back to {address|our tunnel address}.",
            "Check the server's firewall (FORWARD chain).",
        ],
        "The inner address of the gateway answers through the tunnel, so keys and AllowedIPs are right. Packets to hosts behind it go in and none come out: the gateway does not forward, or the answers find no way back.",
    ),
    class(
        "wg.icmp.unreach",
        Exit::Target,
        Blame::Server,
        "{from|a router} says that {target|the target} cannot be reached ({reason|ICMP unreachable})",
        &[
            "Check that the host is up and that {from|the router} has a route to it.",
            "\"administratively prohibited\" means a firewall rule on {from|the router}.",
        ],
        "An ICMP error came back through the tunnel. Its sender is the router that gave up, which is the place to look.",
    )
    .retryable(),
    class(
        "wg.mtu",
        Exit::Target,
        Blame::Path,
        "small packets pass, but packets of {size|full} bytes are lost on the way (MTU)",
        &[
            "Set `MTU = {mtu|1280}` in [Interface].",
            "On the path, let ICMP \"fragmentation needed\" and \"packet too big\" through.",
        ],
        "Encapsulation adds 60 to 80 bytes. Where a link on the way takes less than expected and its ICMP errors are filtered, large packets vanish while small ones arrive: connections open and then hang.",
    ),
    class(
        "wg.nat.idle",
        Exit::Lost,
        Blame::User,
        "the tunnel dies when it is idle and comes back on traffic",
        &["Set `PersistentKeepalive = 25` for the peer."],
        "A NAT on the way forgets the UDP mapping after tens of seconds of silence; after that, nothing from the server arrives until we send.",
    )
    .retryable(),
    class(
        "wg.key.shared",
        Exit::Lost,
        Blame::User,
        "two machines use the same WireGuard key and take the session from each other",
        &["Make one key pair and one [Peer] entry per sandbox."],
        "New handshakes happen well before the 120 seconds of a key's life, with bursts of loss. The server follows the endpoint that spoke last, so two clients with one key steal each other's packets.",
    ),
    class(
        "wg.dns",
        Exit::Dns,
        Blame::User,
        "the DNS server {server|of the tunnel} is outside AllowedIPs, so it cannot be asked",
        &["Add {prefix|the server's address} to AllowedIPs, or correct `DNS =` in [Interface]."],
        "Names are resolved through the tunnel with the servers of `DNS =`. A server that no AllowedIPs covers is unreachable there, and asking it outside would leak the names.",
    ),
    class(
        "wg.rekey.lost",
        Exit::Lost,
        Blame::Unknown,
        "the session worked and then got no handshake for {silence|90 s}",
        &[
            "Check that the server still runs; adit goes on trying and looks up the endpoint again.",
            "If the server moved, correct Endpoint.",
        ],
        "After success, no handshake response came for 90 seconds (REKEY_ATTEMPT_TIME). The server restarted, moved or lost our peer entry. Open connections are kept and go on when it answers again.",
    )
    .retryable(),
    class(
        "wg.hooks.ignored",
        Exit::Ok,
        Blame::User,
        "{keys|PostUp and its like} are not run",
        &["Nothing, unless you rely on them: adit needs no routes and no firewall rules of its own."],
        "wg-quick runs PreUp, PostUp, PreDown and PostDown as root in a shell, and applies Table, FwMark and SaveConfig to the kernel. adit runs as an ordinary user and executes nothing from a configuration file.",
    )
    .warning(),
    class(
        "wg.amnezia",
        Exit::Usage,
        Blame::User,
        "{keys|Jc, Jmin, S1 and their like} belong to AmneziaWG, a different protocol",
        &["Ask for a plain WireGuard configuration, or connect to a plain WireGuard server."],
        "AmneziaWG changes message headers and adds junk packets. A WireGuard server does not understand it and the other way round.",
    ),
];

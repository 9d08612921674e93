//! Classes of OpenVPN: what a server and the way to it can do wrong.

use super::{Blame, Class, class};
use crate::Exit;

pub(super) const CLASSES: &[Class] = &[
    class(
        "ovpn.remote.dns",
        Exit::ServerUnreachable,
        Blame::Unknown,
        "the name of the server {server|in the profile} does not resolve",
        &[
            "Check the spelling of `remote`.",
            "If the name exists only inside the VPN, write the server's public address instead.",
            "Check that this sandbox can resolve public names at all: `adit doctor`.",
        ],
        "The servers of the profile are looked up with the sandbox's own resolver, outside the tunnel, because there is no tunnel yet.",
    )
    .retryable(),
    class(
        "ovpn.remote.family",
        Exit::ServerUnreachable,
        Blame::Sandbox,
        "{server|the server} has only addresses of a family that this machine or `proto` does not allow",
        &[
            "Write `proto udp` or `proto tcp-client` without 4 or 6.",
            "Use a server with an IPv4 address, or enable IPv6 for the sandbox.",
        ],
        "The name resolves, but not to an address of the family that can be used.",
    ),
    class(
        "ovpn.tcp.refused",
        Exit::ServerUnreachable,
        Blame::Server,
        "nothing listens on {server|the server's port}",
        &[
            "Compare port and protocol of `remote` with those of the server.",
            "Start the OpenVPN server.",
        ],
        "The server's machine refused the connection (TCP) or answered that the port is unreachable (UDP). It is reachable; no OpenVPN listens on that port.",
    )
    .retryable(),
    class(
        "ovpn.tcp.timeout",
        Exit::TransportBlocked,
        Blame::Path,
        "no TCP connection to {server|the server}: no answer",
        &[
            "Check that TCP to that port may leave this sandbox.",
            "Check the address; a firewall in front of the server may drop silently.",
            "Where only a proxy may leave: http-proxy HOST PORT in the profile.",
        ],
        "Neither a connection nor a refusal came within the time of `connect-timeout`: something on the way drops the packets.",
    )
    .retryable(),
    class(
        "ovpn.tcp.closed",
        Exit::Handshake,
        Blame::Server,
        "{server|the server} accepted the connection and closed it without a valid answer",
        &[
            "Compare `tls-auth`, `tls-crypt` and `key-direction` with the server's: a server closes TCP connections whose first packet it cannot authenticate.",
            "Check that an OpenVPN server listens on that port, not another service.",
        ],
        "On TCP a server that gets a packet that it cannot authenticate, or that it does not understand, closes the connection without a word. On UDP the same would be silence.",
    ),
    class(
        "ovpn.udp.silent",
        Exit::TransportBlocked,
        Blame::Unknown,
        "{server|the server} does not answer over UDP",
        &[
            "Check that UDP to that port may leave this sandbox; many allow TCP only: try a `remote` with tcp, often on port 443.",
            "Check the wrapping key: `tls-auth` with `key-direction`, `tls-crypt` or `tls-crypt-v2` must be the server's.",
            "Check the address and the port.",
        ],
        "A server stays silent when UDP is blocked, when the port is wrong, and when the first packet is not authentic (tls-auth, tls-crypt): from here they look alike. Where the profile has a TCP server too, adit tries it before it says this.",
    )
    .retryable(),
    class(
        "ovpn.udp.unreachable",
        Exit::ServerUnreachable,
        Blame::Path,
        "{server|the server} cannot be reached from here",
        &[
            "Check the address, and that this machine has a route to it.",
            "Ask whether the sandbox may send to that address at all.",
        ],
        "The system or a router says that there is no way to the server's host or network (EHOSTUNREACH, ENETUNREACH).",
    )
    .retryable(),
    class(
        "ovpn.tlsauth.mismatch",
        Exit::Handshake,
        Blame::User,
        "{server|the server} answers, but its packets do not match our {wrap|tls-auth or tls-crypt} key",
        &[
            "Use the server's key: ta.key or the block <tls-auth>, <tls-crypt> of the same server.",
            "With tls-auth, check `key-direction 1` here (0 on the server) and `auth`, the digest, on both sides.",
            "Check whether the server uses tls-auth, tls-crypt or neither.",
        ],
        "Something answered from the server's address, and its authentication code is not that of the profile's key. Usually the profile belongs to another server, or the direction or the digest differs.",
    ),
    class(
        "ovpn.tlscryptv2.rejected",
        Exit::Handshake,
        Blame::User,
        "the server does not accept our tls-crypt-v2 client key",
        &[
            "Get a new profile: the client key was made for another server, has expired or was withdrawn.",
        ],
        "A tls-crypt-v2 client key is wrapped by the server's own key. A server that cannot unwrap it, or whose check of its metadata refuses it, stays silent.",
    ),
    class(
        "ovpn.http_proxy",
        Exit::TransportBlocked,
        Blame::Path,
        "the HTTP proxy {proxy|of the profile} does not let us through",
        &[
            "Check the proxy's address, user and password: a file in `http-proxy`, or the block <http-proxy-user-pass>.",
            "Ask whether the proxy allows CONNECT to the server's port; 443 passes most often.",
            "A proxy that knows NTLM or Kerberos alone needs a helper on the way, for example cntlm.",
        ],
        "The server is called through an HTTP proxy (CONNECT). The evidence has the proxy's answer.",
    ),
    class(
        "ovpn.socks_proxy",
        Exit::TransportBlocked,
        Blame::Path,
        "the SOCKS proxy {proxy|of the profile} does not let us through",
        &[
            "Check the proxy's address, user and password.",
            "Few SOCKS proxies carry UDP: use a `remote` with tcp.",
        ],
        "The server is called through a SOCKS 5 proxy. The evidence has the proxy's answer.",
    ),
    class(
        "ovpn.protocol",
        Exit::Handshake,
        Blame::Server,
        "what answers at {server|the server} does not speak OpenVPN as expected",
        &[
            "Check the port: another service may listen there.",
            "Compare `fragment`, `tls-auth` and `tls-crypt` with the server's configuration.",
        ],
        "Packets came that no OpenVPN server sends, or in an order that the protocol does not have.",
    ),
    class(
        "ovpn.tls.version",
        Exit::Handshake,
        Blame::Server,
        "the server speaks no version of TLS that adit has",
        &[
            "Update the server: OpenVPN 2.3.3 with OpenSSL 1.0.1 and later have TLS 1.2.",
            "Compare `tls-version-min` and `tls-version-max` on both sides.",
        ],
        "adit has TLS 1.2 and 1.3. Versions 1.0 and 1.1 are forbidden by RFC 8996.",
    ),
    class(
        "ovpn.tls.suites",
        Exit::Handshake,
        Blame::Server,
        "we and the server have no TLS cipher suite, group or signature in common",
        &[
            "Remove `tls-cipher`, `tls-groups` and `ecdh-curve` on the server, or add an ECDHE suite with AES-GCM and the group X25519, P-256 or P-384.",
        ],
        "adit has the ECDHE suites with AES-GCM and ChaCha20-Poly1305 of TLS 1.2, those of TLS 1.3, and X25519, P-256 and P-384. Servers that allow only DHE, CBC or static RSA cannot be joined.",
    ),
    class(
        "ovpn.tls.failed",
        Exit::Handshake,
        Blame::Unknown,
        "the TLS handshake with {server|the server} failed",
        &["Look at the alert in the evidence, and at the server's log of the same time."],
        "The packets are authentic and TLS ended with an error that has no class of its own.",
    ),
    class(
        "ovpn.tls.timeout",
        Exit::Handshake,
        Blame::Unknown,
        "{server|the server} answered, but TLS did not finish within the hand-window",
        &[
            "Look for packet loss, or for a path that drops larger packets: try a `remote` with tcp.",
            "Look at the server's log: it tells a client why it refuses a certificate from version 2.7 on, and over TCP alone.",
        ],
        "The first packets passed in both directions, then nothing. A server that does not accept our certificate stays silent and sends no alert over UDP, and before version 2.7 none at all; loss and a small MTU look alike.",
    )
    .retryable(),
    class(
        "ovpn.ca.wrong",
        Exit::Handshake,
        Blame::User,
        "the server's certificate is not of the authority in <ca>",
        &[
            "Compare the issuer in the evidence with the subject of <ca>; get the profile of this server.",
            "If an intermediate authority is missing, add it to <ca> or <extra-certs>.",
        ],
        "The chain that the server sent does not lead to any certificate of `ca`. The profile may be of another server, or the server's authority was replaced; or somebody answers in its place.",
    ),
    class(
        "ovpn.server.name",
        Exit::Handshake,
        Blame::User,
        "the server's certificate is not for what the profile expects",
        &[
            "Compare the name and the usages in the evidence with `verify-x509-name`, `remote-cert-tls`, `remote-cert-eku`, `ns-cert-type` and `peer-fingerprint`.",
        ],
        "The chain is valid, and the certificate's name, usage or fingerprint is another. It may be a client's certificate that plays the server: remove the check only when you know why it fails.",
    ),
    class(
        "ovpn.server.cert_time",
        Exit::Handshake,
        Blame::Unknown,
        "a certificate of the server is not valid at this machine's time",
        &[
            "Compare the clock of this machine (`date -u`) with the dates in the evidence.",
            "If the clock is right, the server's certificate must be renewed.",
        ],
        "The certificate's dates do not include now. A clock that is wrong in a fresh container looks like an expired certificate; the server's own clock can be read in the packets of tls-auth and tls-crypt, and stands in the evidence where there is one.",
    ),
    class(
        "ovpn.server.cert_revoked",
        Exit::Handshake,
        Blame::Server,
        "the server's certificate is revoked",
        &[
            "Ask the administrator: the server must get a new certificate.",
            "If the list of `crl-verify` has expired, get a new one.",
        ],
        "The list of `crl-verify` names the certificate of the server or of one of its authorities, or has expired itself.",
    ),
    class(
        "ovpn.client.cert_expired",
        Exit::CredentialRejected,
        Blame::User,
        "our certificate has expired",
        &[
            "Get a new certificate or profile.",
            "Check the clock of this machine: date -u.",
        ],
        "The date stands in the certificate, so nothing needs to be sent to know it.",
    ),
    class(
        "ovpn.client.cert_future",
        Exit::CredentialRejected,
        Blame::Sandbox,
        "our certificate is not valid yet at this machine's time",
        &[
            "Set the clock; in a container, set the host's: date -u shows it.",
            "If the clock is right, wait until the date in the evidence.",
        ],
        "The certificate begins later than now, by this machine's clock. Most often that clock is wrong.",
    ),
    class(
        "ovpn.client.cert_revoked",
        Exit::CredentialRejected,
        Blame::Server,
        "the server says that our certificate is revoked",
        &["Get a new certificate or profile from the administrator."],
        "The server ended TLS with the alert certificate_revoked.",
    ),
    class(
        "ovpn.client.cert_unknown",
        Exit::CredentialRejected,
        Blame::Server,
        "the server does not accept our certificate",
        &[
            "Use the profile of this server: its authority must have issued <cert>.",
            "If the profile has no <cert>, ask whether the server requires one.",
        ],
        "The server ended TLS with an alert: unknown_ca, bad_certificate or certificate_required.",
    ),
    class(
        "ovpn.auth.failed",
        Exit::CredentialRejected,
        Blame::User,
        "the server refuses user or password{reason|}",
        &[
            "Check user and password. They were sent once: servers lock accounts after a few attempts.",
            "If the server wants a one-time code as well: --challenge, --challenge-cmd or auth.totp.",
        ],
        "The server sent AUTH_FAILED. Its reason, if it gave one, is quoted. adit does not try again with the same password.",
    ),
    class(
        "ovpn.auth.session",
        Exit::CredentialRejected,
        Blame::Server,
        "the server ended the login session",
        &["Log in again; the password is asked for again because tokens end with the session."],
        "The server sent AUTH_FAILED,SESSION: the token that stood for the password is no longer valid, and the password was not accepted in its place.",
    ),
    class(
        "ovpn.auth.challenge",
        Exit::AuthorisationPending,
        Blame::User,
        "the server asks a question that nobody answers: {question|a challenge}",
        &[
            "Give the answer: --challenge file:PATH, or a command that finds it: --challenge-cmd CMD.",
            "For one-time codes: auth.totp = \"file:PATH\" with the base32 secret.",
        ],
        "The profile (`static-challenge`) or the server (CRV1, CR_TEXT) asks for something beside the password, mostly a one-time code.",
    ),
    class(
        "ovpn.auth.pending",
        Exit::AuthorisationPending,
        Blame::User,
        "the server waits for an approval: {url|see the page that it names}",
        &[
            "Open the page and log in; adit waits for it within its deadline.",
            "Give more time: --timeout 300s.",
            "For machines, ask for a profile that needs no browser.",
        ],
        "The server sent AUTH_PENDING with a page to open (WEB_AUTH, OPEN_URL). Somebody has to do that in a browser.",
    ),
    class(
        "ovpn.auth.temp",
        Exit::ServerUnreachable,
        Blame::Server,
        "the server cannot check credentials now{reason|}",
        &["Wait, and try again; the server says how long in the evidence."],
        "The server sent AUTH_FAILED,TEMP: user and password may well be right.",
    )
    .retryable(),
    class(
        "ovpn.cipher",
        Exit::Handshake,
        Blame::Server,
        "we and the server have no cipher of the data channel in common",
        &[
            "Add one of ours to `data-ciphers` on the server: AES-256-GCM, AES-128-GCM, CHACHA20-POLY1305.",
            "If the profile limits `data-ciphers`, add what the server has.",
            "Update a server that only has BF-CBC.",
        ],
        "OpenVPN negotiates the cipher of the data channel after TLS. The evidence has what each side offers.",
    ),
    class(
        "ovpn.push.timeout",
        Exit::Handshake,
        Blame::Server,
        "the server accepted us and never sent the network's configuration",
        &[
            "Look at the server's log: a client-connect script or an authentication plugin may hang.",
            "Give more time: --timeout 120s.",
        ],
        "TLS and the exchange of keys were done, and PUSH_REQUEST stays without an answer.",
    )
    .retryable(),
    class(
        "ovpn.push.unsupported",
        Exit::Route,
        Blame::Server,
        "the server pushes what adit cannot do: {option|an option}",
        &[
            "Ask the administrator to remove the option for this client.",
            "If it is not needed: pull-filter ignore \"OPTION\" in the profile.",
        ],
        "An option of the server's PUSH_REPLY changes what is on the wire, and adit does not have it.",
    ),
    class(
        "ovpn.push.invalid",
        Exit::Handshake,
        Blame::Server,
        "the server's configuration for us cannot be used: {option|an option} is not valid",
        &["Ask the administrator to correct the server's `push`."],
        "A PUSH_REPLY holds values that have no meaning, so that no address or key can be taken from it.",
    ),
    class(
        "ovpn.push.refused",
        Exit::Ok,
        Blame::Server,
        "the server pushed what no server may set; it was left out",
        &["Ask the administrator about it, if the option was meant seriously."],
        "Routes and resolvers on this machine's own networks, loopback, link-local and metadata addresses, and options about files, scripts and servers are never taken from a server.",
    )
    .warning(),
    class(
        "ovpn.addr.none",
        Exit::Route,
        Blame::Server,
        "the server gave us no address",
        &[
            "Ask the administrator: the server's address pool may be exhausted (`server`, `ifconfig-pool`).",
            "If the profile is meant to have its own: ifconfig ADDRESS MASK.",
        ],
        "The PUSH_REPLY has neither ifconfig nor ifconfig-ipv6, and the profile has none either.",
    ),
    class(
        "ovpn.addr.clash",
        Exit::Route,
        Blame::Sandbox,
        "{prefix|a network of the VPN} is also a network of this machine",
        &["Use the userspace mode, where it does not matter: --mode userspace."],
        "The same addresses are inside and outside. In userspace the tunnel has a network stack of its own; in the mode `tun` one of them would be cut off.",
    ),
    class(
        "ovpn.route.none",
        Exit::Route,
        Blame::Server,
        "no route of the VPN leads to {target|the target}",
        &[
            "Add `route NETWORK MASK` to the profile, if the server forwards it.",
            "Ask the administrator to push the route.",
        ],
        "The server's routes are what it says it can reach. adit never lets a private destination fall through to the public network instead.",
    ),
    class(
        "ovpn.dns.none",
        Exit::Dns,
        Blame::Server,
        "the VPN has no DNS server, so {name|private names} cannot be resolved",
        &[
            "Add `dhcp-option DNS ADDRESS` to the profile, or ask the administrator to push it.",
            "Use the target's address in place of its name.",
        ],
        "Neither the server nor the profile names a resolver inside the network.",
    ),
    class(
        "ovpn.duplicate_cn",
        Exit::Lost,
        Blame::User,
        "another client with the same certificate keeps taking our place",
        &[
            "Use one profile per client.",
            "Or allow it on the server: duplicate-cn.",
        ],
        "A server lets the last client with a certificate win, unless it has duplicate-cn. Two clients then throw each other out again and again.",
    ),
    class(
        "ovpn.halt",
        Exit::Lost,
        Blame::Server,
        "the server ended the connection{reason|}",
        &["Ask the administrator; the server's words are in the evidence."],
        "The server sent HALT, which tells clients not to come back.",
    ),
    class(
        "ovpn.restart",
        Exit::Lost,
        Blame::Server,
        "the server asks us to connect again{reason|}",
        &["Nothing to do: adit connects again."],
        "The server sent RESTART; servers do it before they restart, and when an administrator ends a session.",
    )
    .retryable()
    .warning(),
    class(
        "ovpn.silence",
        Exit::Lost,
        Blame::Path,
        "nothing came from the server for {time|the time of ping-restart}",
        &["Look whether the server is up, and whether the path to it changed."],
        "The pings of the server stopped. adit connects again to the same server and then to the next.",
    )
    .retryable(),
    class(
        "ovpn.link",
        Exit::Lost,
        Blame::Path,
        "the connection to {server|the server} broke",
        &[
            "Nothing to do, if it comes back: adit connects again.",
            "If it breaks again and again, look for a firewall or proxy that ends idle or long connections.",
        ],
        "The system reported that the TCP connection, or the socket, that carried the tunnel ended: a reset, a timeout, or a server that stopped.",
    )
    .retryable(),
    class(
        "ovpn.inactive",
        Exit::Lost,
        Blame::User,
        "the profile or the server ends idle connections, and this one was idle",
        &["Remove `inactive` or `ping-exit`, or start it again when it is needed."],
        "`inactive` and `session-timeout` end a connection after a time with too few bytes, or at all.",
    ),
    class(
        "ovpn.reneg",
        Exit::Lost,
        Blame::Unknown,
        "new keys could not be agreed on, and the old ones are used up",
        &[
            "Look at the server's log of that time.",
            "Compare `hand-window` and `tran-window` on both sides.",
        ],
        "Keys are renewed every hour by default (`reneg-sec`) by a TLS handshake of its own, which did not finish.",
    )
    .retryable(),
    class(
        "ovpn.mtu",
        Exit::Target,
        Blame::Path,
        "small packets pass, larger ones do not",
        &[
            "Add `mssfix 1300` or `tun-mtu 1400` to the profile.",
            "Allow ICMP \"fragmentation needed\" on the path.",
        ],
        "The handshake and small answers pass, larger packets are lost: a link on the way has a smaller MTU and does not say so.",
    ),
    class(
        "ovpn.compress",
        Exit::Handshake,
        Blame::User,
        "the server frames packets for compression, and the profile does not",
        &[
            "Add the option of the server to the profile: `comp-lzo no`, or `compress`.",
            "Or ask the administrator to remove `comp-lzo` and `compress` from the server, or to push the option to clients.",
        ],
        "Compression options put bytes around every packet, also where nothing is compressed, so both ends must have them or neither. The server's option is in what it states about itself during the handshake. adit never compresses, because the size of compressed packets tells an eavesdropper about their content (VORACLE).",
    ),
    class(
        "ovpn.data.decrypt",
        Exit::Handshake,
        Blame::User,
        "the server's packets cannot be opened: `auth` differs",
        &[
            "Give the profile the server's digest: `auth SHA256`, or what the evidence names.",
            "Or let both ends use AES-256-GCM (`data-ciphers`), which needs no `auth`.",
        ],
        "Ciphers in CBC mode authenticate packets with an HMAC whose digest is not negotiated: it is `auth` on both sides. The server states its own during the handshake.",
    ),
    class(
        "ovpn.replay",
        Exit::Ok,
        Blame::Path,
        "packets came twice or too late and were dropped",
        &[
            "Look for a second client with the same certificate.",
            "If the path reorders that much: replay-window 512.",
        ],
        "Every packet has a number and is accepted once. Bursts of such packets come from paths that reorder widely, or from somebody who repeats them.",
    )
    .warning(),
];

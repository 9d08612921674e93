//! Classes of name resolution.

use super::{Blame, Class, class};
use crate::Exit;

pub(super) const CLASSES: &[Class] = &[
    class(
        "dns.nxdomain",
        Exit::Dns,
        Blame::User,
        "{name|the name} does not exist, says {server|the private DNS server}",
        &[
            "Check the spelling, and try the full name: `adit dns {name|NAME}`.",
            "If another server knows the name, add it to `DNS =` or to the profile's split rules.",
        ],
        "The DNS server inside the tunnel answered with NXDOMAIN: it is authoritative or asked somebody who is, and the name is not there. Short names need a search domain.",
    ),
    class(
        "dns.empty",
        Exit::Dns,
        Blame::User,
        "{name|the name} exists, but has no address",
        &["Check the record in the DNS zone; `adit dns {name|NAME}` shows what is there."],
        "The server answered without error and without an A or AAAA record. The name has other records only, or its address was removed.",
    ),
    class(
        "dns.silent",
        Exit::Dns,
        Blame::Server,
        "the DNS server {server|inside the tunnel} does not answer",
        &[
            "Check that {server|the server} runs DNS on UDP and TCP port 53 and accepts {address|our tunnel address}.",
            "Check `DNS =` in the configuration.",
            "Use an address instead of a name to see whether the rest works.",
        ],
        "The question went through the tunnel several times, and nothing came back. Either no DNS server is at that address, its firewall drops us, or the gateway does not forward.",
    )
    .retryable(),
    class(
        "dns.servfail",
        Exit::Dns,
        Blame::Server,
        "the DNS server {server|inside the tunnel} answered {name|the name} with {code|an error}",
        &[
            "Look at the log of {server|the DNS server}: its own upstream may be down.",
            "REFUSED means that it does not serve us: allow {address|our tunnel address} there.",
        ],
        "The server is reachable and says itself that it cannot answer: SERVFAIL when its upstream fails, REFUSED when it does not serve the asker, FORMERR or NOTIMP when it does not understand.",
    )
    .retryable(),
    class(
        "dns.unrouted",
        Exit::Dns,
        Blame::User,
        "{name|the name} leads to {destination|an address} outside the tunnel's routes",
        &[
            "Add {prefix|the address} to the routes of the tunnel (AllowedIPs).",
            "If the name is public on purpose, it needs no tunnel: remove it from the targets.",
        ],
        "The private resolver gave an address, or has an address, that no route of the tunnel covers. adit does not follow it to the public network: an answer like that can also be an attempt to lead traffic elsewhere.",
    ),
    class(
        "dns.no_server",
        Exit::Dns,
        Blame::User,
        "the private network has no DNS server for {name|the name}",
        &["Add `DNS = ADDRESS` to [Interface], or use an address instead of a name."],
        "Private names are resolved inside the tunnel only, and the configuration names no server that is responsible for this one.",
    ),
    class(
        "dns.bad_name",
        Exit::Usage,
        Blame::User,
        "`{name|the text}` is not a DNS name",
        &["A name has labels of at most 63 characters between dots and no blanks (RFC 1035 §2.3.1)."],
        "The text cannot be put into a DNS question.",
    ),
];

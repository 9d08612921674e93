//! Classes of targets, routes and the path to them.

use super::{Blame, Class, class};
use crate::Exit;

pub(super) const CLASSES: &[Class] = &[
    class(
        "route.none",
        Exit::Route,
        Blame::User,
        "no route of the private network covers {destination|the target}",
        &[
            "Add {prefix|a prefix that covers it} to the routes of the tunnel.",
            "Check the address: is the target in this network at all?",
        ],
        "The target's address is in no prefix that the tunnel reaches. adit never sends it over the public network instead.",
    ),
    class(
        "route.clash",
        Exit::Route,
        Blame::User,
        "{prefix|a route of the tunnel} overlaps {network|a network} of this sandbox",
        &[
            "Use `--mode userspace` with `exec`, a proxy or forwards: they do not change the sandbox's routes.",
            "Narrow the tunnel's routes to the addresses that you need.",
            "If the sandbox may lose its own network there: --force-route.",
        ],
        "With a TUN device the route would take the sandbox's own traffic (its gateway, its resolver, the host's control channel) into the tunnel and cut it off.",
    ),
    class(
        "target.refused",
        Exit::Target,
        Blame::Target,
        "{target|the target} refused the connection",
        &[
            "Check that the service runs and listens on port {port|of the target}, and not on 127.0.0.1 only.",
            "Check the port number.",
        ],
        "The host answered with a TCP reset, twice: packets pass in both directions, and nothing listens on the port (or a firewall rejects with a reset).",
    )
    .retryable(),
    class(
        "target.reset",
        Exit::Target,
        Blame::Target,
        "{target|the target} accepted the connection and reset it at once",
        &[
            "Look at the service's log: it turned us away.",
            "Check access lists of the service (for example pg_hba.conf, TCP wrappers, a proxy without backend).",
        ],
        "The connection was made and then ended with a reset before a byte came. A load balancer without a live backend and an access list of the service look like this.",
    )
    .retryable(),
    class(
        "target.silent",
        Exit::Target,
        Blame::Unknown,
        "{target|the target} does not answer",
        &[
            "Check that the host is up: `adit ping {host|HOST}`.",
            "Check its firewall for {address|our tunnel address} and port {port|of the target}.",
            "Check that it has a route back to {address|our tunnel address}.",
        ],
        "SYN segments went into the tunnel and neither an answer nor an error came back. A firewall that drops, a host that is off, and a missing way back look the same.",
    )
    .retryable(),
    class(
        "target.unreachable",
        Exit::Target,
        Blame::Server,
        "{from|a router} says that {target|the target} cannot be reached ({reason|ICMP unreachable})",
        &[
            "Check that the host is up and that {from|the router} has a route to it.",
            "\"administratively prohibited\" means a firewall rule on {from|the router}.",
        ],
        "An ICMP error came back. Its sender is where the way ends.",
    )
    .retryable(),
    class(
        "policy.denied",
        Exit::PolicyDenied,
        Blame::User,
        "{target|the target} is not allowed by the profile's `allow` list",
        &["Add it to `[profile.NAME.allow] out`, or take it out of the targets."],
        "The client-side allow list of the profile names the destinations that programs may reach. This one is not in it. Nothing was sent.",
    ),
    class(
        "tunnel.silent",
        Exit::Target,
        Blame::Server,
        "the tunnel is up, but no packet came back through it",
        &[
            "Name a target that must answer: --target tcp://HOST:PORT.",
            "Check that the server lets {address|our tunnel address} through.",
        ],
        "Without targets, success needs one round trip through the tunnel. Keys were agreed, but neither a keepalive nor an answer to a ping came in.",
    )
    .retryable(),
    class(
        "tunnel.down",
        Exit::Lost,
        Blame::Unknown,
        "the tunnel is down",
        &["See the reason in the evidence; `adit status` shows the present state."],
        "A request came while no packets could pass. The tunnel goes on trying by itself.",
    )
    .retryable(),
    class(
        "quality.path",
        Exit::Quality,
        Blame::Path,
        "the path is {found|not what was required}, but {required|another kind} is required",
        &["Drop the requirement, or change the network so that it can be met."],
        "`--require` named a property of the path that does not hold.",
    ),
    class(
        "quality.rtt",
        Exit::Quality,
        Blame::Path,
        "a round trip takes {found|longer than required}; at most {required|less} is required",
        &["Choose a nearer server, or raise the limit of --require rtt_ms."],
        "`--require rtt_ms=N` was given, and the measured time is above it.",
    )
    .retryable(),
    class(
        "soak.flapped",
        Exit::Lost,
        Blame::Unknown,
        "{target|the connection} stopped answering within {duration|the time of --stable}",
        &["Run `adit status --watch` and look for what happens at that moment.", "If it happens after idle time, set PersistentKeepalive = 25."],
        "Everything passed once and did not stay so. Two clients with one key, an idle time-out of a NAT and a server that is restarting show up like this.",
    )
    .retryable(),
];

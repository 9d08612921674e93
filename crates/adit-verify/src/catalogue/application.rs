//! Classes of TLS and of the application protocols behind a port.

use super::{Blame, Class, class};
use crate::Exit;

pub(super) const CLASSES: &[Class] = &[
    class(
        "tls.expired",
        Exit::TargetTls,
        Blame::Target,
        "the certificate of {host|the target} expired {when|in the past}",
        &["Renew the certificate on {host|the target}.", "If the date here is wrong ({now|see `date`}), set the clock."],
        "The certificate's validity (notAfter) lies before the present time of this machine.",
    ),
    class(
        "tls.not_yet_valid",
        Exit::TargetTls,
        Blame::Unknown,
        "the certificate of {host|the target} is valid only from {when|a later time} on",
        &["Set the clock of this machine ({now|see `date`}), or of the machine that made the certificate."],
        "The certificate's notBefore lies in the future of this machine's clock.",
    ),
    class(
        "tls.name",
        Exit::TargetTls,
        Blame::Target,
        "the certificate is not for {host|the target}",
        &[
            "Use a name that the certificate has ({names|see the evidence}).",
            "Add {host|the name} to the certificate's subject alternative names.",
        ],
        "The certificate verifies, but none of its subject alternative names is the name that was asked for (RFC 6125). Connecting by address needs an IP entry.",
    ),
    class(
        "tls.untrusted",
        Exit::TargetTls,
        Blame::User,
        "the certificate of {host|the target} is signed by an authority that is not trusted here",
        &[
            "Give the authority's certificate: --ca-file CA.pem.",
            "If a proxy inspects TLS here, it must be told to leave {host|the host} alone.",
        ],
        "The chain does not end at a root of the Mozilla list, of the system's store or of --ca-file. Private authorities have to be named.",
    ),
    class(
        "tls.handshake",
        Exit::TargetTls,
        Blame::Target,
        "the TLS handshake with {host|the target} failed",
        &["Check that TLS 1.2 or 1.3 is enabled there, and whether a client certificate is demanded."],
        "The far end speaks TLS, but the handshake ended with an alert or with no common version or cipher. The evidence has its words.",
    ),
    class(
        "tls.expires_soon",
        Exit::Ok,
        Blame::Target,
        "the certificate of {host|the target} expires in {days|a few} days",
        &["Renew it in time."],
        "Less than 14 days of the certificate's validity are left.",
    )
    .warning(),
    class(
        "app.protocol",
        Exit::Application,
        Blame::Target,
        "{target|the target} does not speak {protocol|the expected protocol}",
        &["Check the port: another service listens there.", "Check whether it expects TLS first, or the other way round."],
        "The port is open, but what came back is not the protocol that was asked for. The evidence shows the first bytes.",
    ),
    class(
        "app.closed",
        Exit::Application,
        Blame::Target,
        "{target|the target} closed the connection without speaking {protocol|the expected protocol}",
        &["Look at the service's log; access lists and full connection tables look like this."],
        "The connection was accepted and then ended in order, before the answer that the protocol demands.",
    )
    .retryable(),
    class(
        "app.silent",
        Exit::Application,
        Blame::Target,
        "{target|the target} accepted the connection but says nothing within {duration|the time allowed}",
        &[
            "Check that {protocol|the expected protocol} is what listens there.",
            "If small exchanges work and this one hangs, look for a packet-size problem: `adit explain wg.mtu`.",
        ],
        "The TCP handshake completed, and then no byte came. The service hangs, waits for something else (TLS, another protocol), or its packets are lost.",
    )
    .retryable(),
    class(
        "app.http_status",
        Exit::Application,
        Blame::Target,
        "{target|the target} answered with HTTP {status|an unexpected status}; {expected|200-399} is expected",
        &["Check the path and the state of the service.", "Give the range that you expect: http://…[200-499]."],
        "The service speaks HTTP and answered with a status outside the range that counts as success.",
    )
    .retryable(),
    class(
        "app.rejected",
        Exit::Application,
        Blame::Target,
        "{target|the target} speaks {protocol|the protocol} and turns us away",
        &["The evidence quotes its reason; it is the service's own decision."],
        "The protocol is the right one, and the server answered with its own error, such as too many connections or a host that is not allowed.",
    )
    .retryable(),
    class(
        "app.command",
        Exit::Application,
        Blame::Unknown,
        "the check command {command|} ended with {code|a failure}",
        &["Run the command by hand: adit exec -- {command|COMMAND}."],
        "`command=` was given as a target; the command ran inside the network and did not end with 0.",
    )
    .retryable(),
];

//! What can go wrong with a connection as a whole, with what was seen of it.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use adit_tunnel::{TunnelError, Unreachable};
use rustls::{AlertDescription, PeerIncompatible};

use crate::session::{NegotiationError, Stage};
use crate::trust::TrustError;

/// A failure of the tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenVpnError {
    /// What happened.
    pub cause: Cause,
    /// The server, as `remote` names it.
    pub server: String,
    /// What was seen, one sentence each.
    pub seen: Vec<String>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// The server's name does not resolve.
    Dns,
    /// It resolves to addresses of the other family only.
    Family,
    /// Nothing listens on the port.
    Refused,
    /// A TCP connection did not come about in time.
    ConnectTimeout,
    /// The server closed a TCP connection before it answered.
    Closed,
    /// The server does not answer over UDP.
    Silent,
    /// The network says that the server cannot be reached.
    Unreachable(Unreachable),
    /// A socket could not be made, or broke.
    Link(ErrorKind),
    /// The server's packets do not pass our protection.
    WrapMismatch,
    /// The server does not accept our wrapped key of tls-crypt-v2.
    WrappedKeyRefused,
    /// An HTTP proxy does not let us through.
    HttpProxy(String),
    /// A SOCKS proxy does not let us through.
    SocksProxy(String),
    /// A proxy does not accept our login, and will not at the next time.
    ProxyLogin {
        /// It is an HTTP proxy.
        http: bool,
        /// Its words.
        words: String,
    },
    /// What answers does not speak OpenVPN.
    Protocol(String),
    /// TLS failed.
    Tls(rustls::Error),
    /// The server answers our first packet, and our first message of TLS never.
    TlsRefused,
    /// TLS or the exchange of keys did not come to its end.
    TlsTimeout(Stage),
    /// The server ended a TCP connection at this stage, before the configuration had come.
    Ended {
        /// How far it was.
        stage: Stage,
        /// The server had answered our first message of TLS.
        hello: bool,
    },
    /// A user, password or option is longer than the protocol can carry.
    TooLong,
    /// User and password were refused.
    AuthFailed(Option<String>),
    /// The login session is over.
    AuthSession(Option<String>),
    /// The server cannot tell for now.
    AuthTemporary(Option<String>),
    /// A question waits for an answer.
    Challenge(String),
    /// Somebody has to approve.
    Pending(String),
    /// The server wants a user and a password, and there are none.
    CredentialsMissing,
    /// No cipher in common.
    Cipher(String),
    /// The server frames packets for compression, and we do not.
    Framing,
    /// The data channel's digests differ.
    Digest {
        /// Ours.
        ours: &'static str,
        /// The server's, as it states it.
        theirs: String,
    },
    /// The server does not send the configuration.
    PushTimeout,
    /// The configuration is no good.
    PushInvalid(String),
    /// The address that the server gives us lies in one of this machine's own networks.
    AddressClash(String),
    /// The configuration has what is not done here.
    PushUnsupported(String),
    /// The configuration has no address.
    NoAddress,
    /// The server ended the connection for good.
    Halt(String),
    /// The server wants us to connect again.
    Restart(String),
    /// The server was not heard for this time.
    Silence(Duration),
    /// The connection was idle, or over its time.
    Inactive(&'static str),
    /// No new keys could be agreed on.
    Renegotiation,
    /// Another client with our certificate takes our place.
    DuplicateName,
    /// The server answers a new call, and our session no more.
    Restarted,
}

impl Cause {
    /// The cause of a negotiation that failed.
    pub(crate) fn of(error: NegotiationError) -> Self {
        match error {
            NegotiationError::Tls(error) => Self::Tls(error),
            NegotiationError::Exchange(error) => Self::Protocol(error.to_string()),
            NegotiationError::Timeout(stage) => Self::TlsTimeout(stage),
            NegotiationError::TooLong => Self::TooLong,
        }
    }

    /// Whether trying the same server again with what we have is useless.
    pub(crate) fn is_hopeless(&self) -> bool {
        matches!(
            self,
            Self::Tls(_)
                | Self::ProxyLogin { .. }
                | Self::TooLong
                | Self::AuthFailed(_)
                | Self::AuthSession(_)
                | Self::CredentialsMissing
                | Self::Cipher(_)
                | Self::Framing
                | Self::Digest { .. }
                | Self::PushInvalid(_)
                | Self::AddressClash(_)
                | Self::PushUnsupported(_)
                | Self::NoAddress
                | Self::Halt(_)
        )
    }

    fn tls_class(error: &rustls::Error) -> &'static str {
        if let Some(trust) = TrustError::of(error) {
            return trust_class(trust);
        }
        match error {
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateExpired => "ovpn.client.cert_expired",
                AlertDescription::CertificateRevoked => "ovpn.client.cert_revoked",
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::NoCertificate
                // Of another authority with the name of the server's.
                | AlertDescription::DecryptError => "ovpn.client.cert_unknown",
                AlertDescription::ProtocolVersion => "ovpn.tls.version",
                AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                    "ovpn.tls.suites"
                }
                _ => "ovpn.tls.failed",
            },
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls13RequiredForQuic,
            ) => "ovpn.tls.version",
            rustls::Error::PeerIncompatible(_) => "ovpn.tls.suites",
            _ => "ovpn.tls.failed",
        }
    }
}

fn trust_class(error: &TrustError) -> &'static str {
    match error {
        TrustError::NoAuthority => "ovpn.config.missing",
        TrustError::Expired { .. } | TrustError::NotYetValid { .. } => "ovpn.server.cert_time",
        TrustError::Revoked { .. } | TrustError::RevokedSerial { .. } | TrustError::Crl { .. } => {
            "ovpn.server.cert_revoked"
        }
        TrustError::Usage { .. } | TrustError::Name { .. } | TrustError::Fingerprint { .. } => {
            "ovpn.server.name"
        }
        TrustError::UnknownAuthority { .. }
        | TrustError::WrongAuthority { .. }
        | TrustError::NotAnAuthority { .. }
        | TrustError::PathTooLong { .. }
        | TrustError::TooComplex
        | TrustError::IssuerHash { .. } => "ovpn.ca.wrong",
        TrustError::Unreadable { .. }
        | TrustError::WeakSignature { .. }
        | TrustError::UnsupportedSignature { .. }
        | TrustError::WeakKey { .. }
        | TrustError::UnsupportedKey { .. }
        | TrustError::Extension { .. } => "ovpn.tls.failed",
    }
}

/// `: words`, where there are any.
struct Words<'a>(&'a Option<String>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns => f.write_str("the server's name does not resolve"),
            Self::Family => f.write_str("the server has no address of the family that `proto` allows"),
            Self::Refused => f.write_str("nothing listens on the server's port"),
            Self::ConnectTimeout => f.write_str("the server does not take a TCP connection"),
            Self::Closed => f.write_str("the server closed the connection before it answered"),
            Self::Silent => f.write_str("the server does not answer over UDP"),
            Self::Unreachable(_) => f.write_str("the server cannot be reached from here"),
            Self::Link(kind) => write!(f, "the connection to the server broke: {kind}"),
            Self::WrapMismatch => {
                f.write_str("the server answers with packets that do not match our tls-auth or tls-crypt key")
            }
            Self::WrappedKeyRefused => f.write_str(
                "the server does not accept our tls-crypt-v2 key: another server issued it, or it was withdrawn",
            ),
            Self::HttpProxy(words) => write!(f, "the HTTP proxy does not let us through: {words}"),
            Self::SocksProxy(words) => write!(f, "the SOCKS proxy does not let us through: {words}"),
            Self::ProxyLogin { words, .. } => write!(f, "the proxy does not accept our login: {words}"),
            Self::Protocol(words) => write!(f, "what answers does not speak OpenVPN as expected: {words}"),
            Self::Tls(error) => match TrustError::of(error) {
                Some(trust) => trust.fmt(f),
                None => write!(f, "TLS failed: {error}"),
            },
            Self::TlsRefused => f.write_str(
                "the server does not answer our first message of TLS: it has no version or suite of ours",
            ),
            Self::TlsTimeout(Stage::Exchange) => {
                f.write_str("the server finished TLS and did not agree on keys within the hand-window")
            }
            Self::TlsTimeout(_) => f.write_str("TLS did not come to its end within the hand-window"),
            Self::TooLong => {
                f.write_str("the password or an option is longer than this server's protocol can carry")
            }
            Self::Ended { stage: Stage::Done, .. } => {
                f.write_str("the server ended the connection before it sent the configuration")
            }
            Self::Ended { hello: true, .. } => {
                f.write_str("the server ended the connection when it had seen our certificate")
            }
            Self::Ended { .. } => f.write_str("the server ended the connection at our first message of TLS"),
            Self::AuthFailed(words) => write!(f, "the server refuses user or password{}", Words(words)),
            Self::AuthSession(words) => write!(f, "the server ended the login session{}", Words(words)),
            Self::AuthTemporary(words) => {
                write!(f, "the server cannot check credentials now{}", Words(words))
            }
            Self::Challenge(question) => write!(f, "the server asks: {question}"),
            Self::Pending(url) if url.is_empty() => f.write_str("the server waits for an approval"),
            Self::Pending(url) => write!(f, "the server waits for an approval: {url}"),
            Self::CredentialsMissing => {
                f.write_str("the server wants user and password, and none were given")
            }
            Self::Cipher(words) => write!(f, "no cipher of the data channel in common: {words}"),
            Self::Framing => f.write_str(
                "the server frames packets for compression (comp-lzo or compress), and the profile does not",
            ),
            Self::Digest { ours, theirs } => write!(
                f,
                "packets are authenticated with {theirs} at the server, and with {ours} here: `auth` differs"
            ),
            Self::PushTimeout => f.write_str("the server does not send the network's configuration"),
            Self::PushInvalid(words) => write!(f, "the server's configuration cannot be used: {words}"),
            Self::AddressClash(words) => write!(f, "our address inside cannot be used: {words}"),
            Self::PushUnsupported(words) => write!(f, "the server pushes what is not supported: {words}"),
            Self::NoAddress => f.write_str("the server gave us no address"),
            Self::Halt(words) if words.is_empty() => f.write_str("the server ended the connection"),
            Self::Halt(words) => write!(f, "the server ended the connection: {words}"),
            Self::Restart(words) if words.is_empty() => f.write_str("the server asks us to connect again"),
            Self::Restart(words) => write!(f, "the server asks us to connect again: {words}"),
            Self::Silence(time) => write!(f, "nothing came from the server for {} s", time.as_secs()),
            Self::Inactive(option) => write!(f, "the connection ended by `{option}`"),
            Self::Renegotiation => f.write_str("new keys could not be agreed on"),
            Self::DuplicateName => {
                f.write_str("another client with the same certificate keeps taking our place")
            }
            Self::Restarted => f.write_str("the server does not know our session any more: it was restarted, or another client took our place"),
        }
    }
}

impl fmt::Display for OpenVpnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if self.server.is_empty() { Ok(()) } else { write!(f, " ({})", self.server) }
    }
}

impl std::error::Error for OpenVpnError {}

impl TunnelError for OpenVpnError {
    fn class(&self) -> &'static str {
        match &self.cause {
            Cause::Dns => "ovpn.remote.dns",
            Cause::Family => "ovpn.remote.family",
            Cause::Refused => "ovpn.tcp.refused",
            Cause::ConnectTimeout => "ovpn.tcp.timeout",
            Cause::Closed => "ovpn.tcp.closed",
            Cause::Silent => "ovpn.udp.silent",
            Cause::Unreachable(_) => "ovpn.udp.unreachable",
            Cause::Link(_) => "ovpn.link",
            Cause::WrapMismatch => "ovpn.tlsauth.mismatch",
            Cause::WrappedKeyRefused => "ovpn.tlscryptv2.rejected",
            Cause::HttpProxy(_) | Cause::ProxyLogin { http: true, .. } => "ovpn.http_proxy",
            Cause::SocksProxy(_) | Cause::ProxyLogin { http: false, .. } => "ovpn.socks_proxy",
            Cause::Protocol(_) => "ovpn.protocol",
            Cause::Tls(error) => Cause::tls_class(error),
            Cause::TlsRefused => "ovpn.tls.suites",
            Cause::TlsTimeout(_) => "ovpn.tls.timeout",
            Cause::Ended { stage: Stage::Done, .. } => "ovpn.push.timeout",
            Cause::Ended { hello: true, .. } => "ovpn.client.cert_unknown",
            Cause::Ended { .. } => "ovpn.tls.failed",
            Cause::TooLong | Cause::AuthFailed(_) => "ovpn.auth.failed",
            Cause::AuthSession(_) => "ovpn.auth.session",
            Cause::AuthTemporary(_) => "ovpn.auth.temp",
            Cause::Challenge(_) => "ovpn.auth.challenge",
            Cause::Pending(_) => "ovpn.auth.pending",
            Cause::CredentialsMissing => "ovpn.creds.missing",
            Cause::Cipher(_) => "ovpn.cipher",
            Cause::Framing => "ovpn.compress",
            Cause::Digest { .. } => "ovpn.data.decrypt",
            Cause::PushTimeout => "ovpn.push.timeout",
            Cause::PushInvalid(_) => "ovpn.push.invalid",
            Cause::AddressClash(_) => "ovpn.addr.clash",
            Cause::PushUnsupported(_) => "ovpn.push.unsupported",
            Cause::NoAddress => "ovpn.addr.none",
            Cause::Halt(_) => "ovpn.halt",
            Cause::Restart(_) | Cause::Restarted => "ovpn.restart",
            Cause::Silence(_) => "ovpn.silence",
            Cause::Inactive(_) => "ovpn.inactive",
            Cause::Renegotiation => "ovpn.reneg",
            Cause::DuplicateName => "ovpn.duplicate_cn",
        }
    }

    fn evidence(&self) -> Vec<String> {
        let mut lines = vec![self.to_string()];
        lines.extend(self.seen.iter().cloned());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(cause: Cause) -> &'static str {
        OpenVpnError { cause, server: "vpn.example:1194 (udp)".into(), seen: Vec::new() }.class()
    }

    #[test]
    fn alerts_of_the_server_are_about_our_certificate() {
        let alert = |alert| class(Cause::Tls(rustls::Error::AlertReceived(alert)));
        assert_eq!(alert(AlertDescription::CertificateExpired), "ovpn.client.cert_expired");
        assert_eq!(alert(AlertDescription::UnknownCA), "ovpn.client.cert_unknown");
        assert_eq!(alert(AlertDescription::HandshakeFailure), "ovpn.tls.suites");
        assert_eq!(alert(AlertDescription::ProtocolVersion), "ovpn.tls.version");
        assert_eq!(alert(AlertDescription::InternalError), "ovpn.tls.failed");
    }

    #[test]
    fn a_refusal_quotes_the_server() {
        let error = OpenVpnError {
            cause: Cause::AuthFailed(Some("account locked".into())),
            server: "vpn.example:1194 (udp)".into(),
            seen: vec!["user alice".into()],
        };
        assert_eq!(
            error.evidence(),
            ["the server refuses user or password: account locked (vpn.example:1194 (udp))", "user alice"]
        );
    }
}

//! Connections to the control server: directly or through an HTTP proxy, with or without TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_tailscale::Proxy;
use rustls::{CertificateError, ClientConfig, OtherError};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::error::ControlError;
use super::http1;
use super::tls::Refused;
use super::url::{ControlUrl, Proxies};

/// For one address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(4);
/// For a name, all its addresses, a proxy and TLS together.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, whatever it is made of.
pub(super) type Wire = Box<dyn Stream>;

/// Connects to the host of `url`, with TLS if it says so.
pub(super) async fn dial(
    url: &ControlUrl,
    proxies: &Proxies,
    tls: &Arc<ClientConfig>,
) -> Result<Wire, ControlError> {
    let attempt = async {
        let stream = match proxies.of(url.tls, &url.host) {
            Some(proxy) => {
                if !url.tls && !url.host.parse().is_ok_and(is_private) {
                    return Err(in_the_clear(url, &url.host));
                }
                through(proxy, url).await?
            }
            None => connect(url).await?,
        };
        if url.tls { encrypt(stream, url, tls).await } else { Ok(stream) }
    };
    timeout(TIMEOUT, attempt).await.unwrap_or_else(|_| {
        Err(ControlError::later("ts.control.tcp", format!("no answer from {url} within {TIMEOUT:?}")))
    })
}

async fn connect(url: &ControlUrl) -> Result<Wire, ControlError> {
    let host = url.host.as_str();
    let unresolved = |why: String| {
        ControlError::later(
            "ts.control.dns",
            format!("the name of the control server {host} does not resolve"),
        )
        .seen(why)
    };
    let found =
        tokio::net::lookup_host((host, url.port)).await.map_err(|error| unresolved(error.to_string()))?;
    let addresses = interleaved(found.collect());
    if addresses.is_empty() {
        return Err(unresolved("the answer has no address".to_owned()));
    }
    if !url.tls
        && let Some(public) = addresses.iter().find(|address| !is_private(address.ip()))
    {
        return Err(in_the_clear(url, &public.ip().to_string()));
    }
    let mut error =
        ControlError::later("ts.control.tcp", format!("no connection to the control server {url}"));
    for address in addresses {
        match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(Box::new(prepared(stream))),
            Ok(Err(why)) => error = error.seen(format!("{address}: {why}")),
            Err(_) => error = error.seen(format!("{address}: no answer within {ADDRESS_TIMEOUT:?}")),
        }
    }
    Err(error)
}

/// Over plain HTTP nobody can tell whose key the server shows, so only private networks have it.
fn in_the_clear(url: &ControlUrl, host: &str) -> ControlError {
    let error =
        ControlError::never("config.value", format!("{url} has no TLS, and {host} is in no private network"));
    error.seen("over plain HTTP nobody can tell whose key the server shows")
}

fn prepared(stream: TcpStream) -> TcpStream {
    // Without it small requests wait for each other; where it is refused they do.
    let _ = stream.set_nodelay(true);
    stream
}

/// The two families in turn, so that one that is dead costs one attempt.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let longest = v4.len().max(v6.len());
    let pairs = (0..longest).flat_map(|i| [v4.get(i).copied(), v6.get(i).copied()]);
    pairs.flatten().take(8).collect()
}

/// An address of this machine or of a private network, where plain HTTP is the administrator's choice.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some_and(|v4| is_private(IpAddr::V4(v4)))
        }
    }
}

/// A connection to the host of `url` that a proxy makes (`CONNECT`, RFC 9110 §9.3.6).
async fn through(proxy: &Proxy, url: &ControlUrl) -> Result<Wire, ControlError> {
    let at = format!("{}:{}", proxy.at.host, proxy.at.port);
    let failed = |why: String| {
        ControlError::later("ts.control.tcp", format!("the proxy {at} cannot be reached")).seen(why)
    };
    let mut stream = TcpStream::connect((proxy.at.host.as_str(), proxy.at.port))
        .await
        .map(prepared)
        .map_err(|error| failed(error.to_string()))?;
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let target = format!("{host}:{}", url.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    let (head, rest) =
        http1::exchange(&mut stream, &request).await.map_err(|error| failed(error.to_string()))?;
    match head.status {
        200..=299 if rest.is_empty() => Ok(Box::new(stream)),
        200..=299 => Err(failed("it sent bytes of its own through the connection".to_owned())),
        407 => Err(ControlError::never("ts.control.upgrade", format!("the proxy {at} wants credentials"))
            .seen("it answered with status 407")),
        status => Err(ControlError::later(
            "ts.control.upgrade",
            format!("the proxy {at} does not connect to {target}"),
        )
        .seen(format!("it answered with status {status}"))),
    }
}

async fn encrypt(stream: Wire, url: &ControlUrl, tls: &Arc<ClientConfig>) -> Result<Wire, ControlError> {
    let name = ServerName::try_from(url.host.clone()).map_err(|_| {
        ControlError::never("config.value", format!("{} is no name for a certificate", url.host))
    })?;
    match TlsConnector::from(tls.clone()).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(tls_error(url, &error)),
    }
}

fn tls_error(url: &ControlUrl, error: &io::Error) -> ControlError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let refused = match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) => {
            other.downcast_ref::<Refused>()
        }
        _ => None,
    };
    let (class, summary) = match refused.map(|refused| &refused.why) {
        Some(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => (
            "ts.clock",
            format!("the certificate of {url} is not valid yet: the clock of this machine is behind"),
        ),
        Some(_) => ("ts.control.tls", format!("the certificate of the control server {url} is not trusted")),
        None => ("ts.control.tls", format!("no TLS connection to the control server {url}")),
    };
    let Some(refused) = refused else { return ControlError::later(class, summary).seen(error.to_string()) };
    let failed = ControlError::later(class, summary).seen(refused.to_string());
    match &refused.issuer {
        Some(issuer) => failed.seen(format!("it was issued by {issuer}")),
        None => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse =
            |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(
            interleaved(parse(&["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1"])),
            parse(&["192.0.2.1:1", "[2001:db8::1]:1", "[2001:db8::2]:1"])
        );
    }

    #[test]
    fn private_addresses_are_known() {
        for address in
            ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"]
        {
            assert!(is_private(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.1", "8.8.8.8", "2001:db8::1", "100.64.0.1"] {
            assert!(!is_private(address.parse().unwrap()), "{address}");
        }
    }

    /// The error of a client that meets a certificate of this time, from an authority named "Looking Glass".
    fn met(from: (i32, u8, u8), until: (i32, u8, u8), trusted: bool) -> ControlError {
        let authority = rcgen::KeyPair::generate().unwrap();
        let mut root = rcgen::CertificateParams::new(Vec::new()).unwrap();
        root.distinguished_name.push(rcgen::DnType::CommonName, "Looking Glass");
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root_certificate = root.self_signed(&authority).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["control.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let certificate = params.signed_by(&key, &rcgen::Issuer::new(root, &authority)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if trusted {
            roots.add(root_certificate.der().clone()).unwrap();
        }
        let client = crate::tailscale::client_config(Arc::new(roots));
        let url = ControlUrl::parse("https://control.example").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (_server, met) = tokio::join!(
                tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(far),
                encrypt(Box::new(near), &url, &client)
            );
            met.err().unwrap()
        })
    }

    #[test]
    fn a_certificate_that_is_not_believed_names_its_issuer_and_a_wrong_clock_is_told_apart() {
        for (from, until, trusted, class) in [
            ((2020, 1, 1), (2095, 1, 1), false, "ts.control.tls"),
            ((2020, 1, 1), (2021, 1, 1), true, "ts.control.tls"),
            ((2095, 1, 1), (2096, 1, 1), true, "ts.clock"),
        ] {
            let error = met(from, until, trusted);
            assert_eq!(error.class(), class, "{error}");
            assert!(error.problem.evidence.iter().any(|seen| seen.contains("Looking Glass")), "{error}");
        }
    }
}

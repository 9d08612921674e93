//! The embedded network as an OpenVPN server.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_openvpn::{Clock, StaticKey};
use adit_path::EngineOptions;
use adit_providers::ovpn::{Answers, NoFiles, Ovpn, Supplied};
use adit_sim::openvpn::{OpenVpnServer, ServerConfig, ServerIdentity, ServerWrap};
use adit_tunnel::{HostPort, Prefix};
use zeroize::Zeroizing;

use super::{API, DATABASE, DOMAIN, GATEWAY, MEMBER, failed, free_port, random};
use crate::config::Provider;
use crate::session::{OpenVpnConfig, Session};
use crate::{Failure, failure};

/// Starts the server; returns it, the configuration of its member and where it listens.
pub(super) fn start() -> Result<(Session, OpenVpnConfig, HostPort), Failure> {
    let made = free_port().and_then(|port| Ok((port, random::<256>()?, u64::from_le_bytes(random()?))));
    let (port, key, seed) = made.map_err(|error| failed(&error))?;
    let identity = identity().map_err(|error| failed(&error))?;
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let endpoint = HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port };
    let profile = profile(&endpoint, &identity.fingerprint(), &key);
    let config = ServerConfig {
        unix: unix.as_secs(),
        addresses: addresses(),
        first_client: MEMBER,
        push: vec![format!("dhcp-option DNS {GATEWAY}"), format!("dhcp-option DOMAIN {DOMAIN}")],
        ..ServerConfig::new(port, ServerWrap::Crypt(StaticKey(Zeroizing::new(key))), identity)
    };
    let tunnel = OpenVpnServer::new(config, seed, Instant::now())
        .map_err(|error| failed(&io::Error::other(error.to_string())))?;
    let server = Session::of(tunnel, Provider::OpenVpn, None, EngineOptions::default())?;
    Ok((server, member(&profile, unix)?, endpoint))
}

/// The gateway in its network, and the hosts behind it.
fn addresses() -> Vec<Prefix> {
    let gateway = Prefix::new(IpAddr::V4(GATEWAY), 24);
    gateway.into_iter().chain([DATABASE, API].map(|host| Prefix::host(IpAddr::V4(host)))).collect()
}

/// A certificate that nobody but the profile vouches for.
fn identity() -> io::Result<ServerIdentity> {
    let made = rcgen::generate_simple_self_signed(vec![format!("vpn.{DOMAIN}")]).map_err(io::Error::other)?;
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok(ServerIdentity { chain: vec![made.cert.der().clone()], key: key.into() })
}

/// What the server's administrator would hand out.
fn profile(server: &HostPort, fingerprint: &[u8; 32], key: &[u8; 256]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    let (rows, _) = key.as_chunks::<16>();
    let rows: Vec<_> = rows.iter().map(|row| hex(row).concat()).collect();
    format!(
        "client\ndev tun\nproto udp\nremote {} {}\nnobind\nsetenv CLIENT_CERT 0\npeer-fingerprint {}\n<tls-crypt>\n\
         -----BEGIN OpenVPN Static key V1-----\n{}\n-----END OpenVPN Static key V1-----\n</tls-crypt>\n",
        server.host,
        server.port,
        hex(fingerprint).join(":"),
        rows.join("\n"),
    )
}

fn member(profile: &str, unix: Duration) -> Result<OpenVpnConfig, Failure> {
    let read = Ovpn::read(profile.as_bytes(), Path::new("demo.ovpn"), &mut NoFiles).and_then(|profile| {
        profile.tunnel_config(Supplied {
            credentials: None,
            key_pass: None,
            challenge: None,
            protected: Vec::new(),
            sso: Vec::new(),
            race: None,
            clock: Clock { instant: Instant::now(), unix },
        })
    });
    let client = read.map_err(|problems| {
        let seen = problems.0.first().map(ToString::to_string).unwrap_or_default();
        failure::internal("the profile of the embedded network").seen(seen)
    })?;
    Ok(OpenVpnConfig { client, answers: Arc::new(Answers::Nobody) })
}

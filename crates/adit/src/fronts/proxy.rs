//! SOCKS5 and HTTP proxying on one port: the first byte tells them apart.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_path::Network;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::dial::Dialer;
use super::listen::{self, FrontError};
use super::{Credentials, accept, http, socks};

/// Where proxies of userspace VPNs listen by custom.
pub const DEFAULT_PORT: u16 = 1055;
/// How long reaching a target may take; then the client gets an answer.
const BUDGET: Duration = Duration::from_secs(30);
/// How long a client may be silent at first.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// Connections at a time that are not relayed by the engine.
const CONNECTIONS: usize = 512;

/// A proxy's listener.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    credentials: Option<Credentials>,
    budget: Duration,
}

impl Proxy {
    /// Listens on an address. Only with credentials may other machines reach it.
    pub async fn bind(address: SocketAddr, credentials: Option<Credentials>) -> Result<Self, FrontError> {
        let listener = listen::tcp(address, credentials.is_some()).await?;
        Ok(Self { listener, credentials, budget: BUDGET })
    }

    /// Changes how long reaching a target may take.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn run(self, network: Arc<dyn Network>) {
        let dialer = Dialer::new(network, self.budget);
        let credentials = self.credentials.map(Arc::new);
        accept::run(self.listener, CONNECTIONS, move |client, from| {
            let (dialer, credentials) = (dialer.clone(), credentials.clone());
            async move {
                if let Err(error) = serve(client, &dialer, credentials.as_deref()).await {
                    tracing::debug!(%from, %error, "a proxy connection broke");
                }
            }
        })
        .await;
    }
}

async fn serve(client: TcpStream, dialer: &Dialer, credentials: Option<&Credentials>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut first = [0];
    match timeout(FIRST_BYTE, client.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == 5 => socks::serve(client, dialer, credentials).await,
        // SOCKS4 knows no IPv6 and no authentication; its clients read any other version as a refusal.
        Ok(Ok(1)) if first[0] == 4 => accept::linger(client).await,
        Ok(Ok(1)) => http::serve(client, dialer, credentials).await,
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    }
}

/// The variables that make programs use a proxy at `address`. Loopback is never proxied.
pub fn environment(address: SocketAddr, credentials: Option<&Credentials>) -> Vec<(&'static str, String)> {
    let user = credentials.map(|credentials| format!("{}@", credentials.user_info())).unwrap_or_default();
    let http = format!("http://{user}{address}");
    let socks = format!("socks5h://{user}{address}");
    let local = "localhost,127.0.0.0/8,::1".to_owned();
    vec![
        ("ALL_PROXY", socks.clone()),
        ("all_proxy", socks),
        ("HTTP_PROXY", http.clone()),
        ("http_proxy", http.clone()),
        ("HTTPS_PROXY", http.clone()),
        ("https_proxy", http),
        ("NO_PROXY", local.clone()),
        ("no_proxy", local),
    ]
}

//! Fetches a page through a WireGuard profile:
//! `cargo run --example fetch -- lab.conf api.internal /index.html`

use std::error::Error;
use std::io::Write;

use adit::{Network, Profile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, host, path] = &arguments[..] else {
        return Err("usage: fetch PROFILE HOST PATH".into());
    };

    let network = Network::connect(Profile::from_file(profile)?).await?;
    network.verify([format!("tcp://{host}:80")]).await?;

    let mut stream = network.tcp_connect(&format!("{host}:80")).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await?;

    std::io::stdout().write_all(&page)?;
    network.shutdown();
    Ok(())
}

//! The server of the simulator against Debian's client: what scenarios in virtual time rest on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_openvpn::{Algorithm, Cipher, Direction, StaticKey};
use adit_path::{Engine, EngineOptions, Listen, Network};
use adit_sim::openvpn::{
    Act, ClientTrust, OpenVpnServer, ServerCommand, ServerConfig, ServerIdentity, ServerWrap,
};
use adit_sim::services;
use adit_tunnel::Prefix;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::support::{Lab, Part, Process, Server, Wrap, pki, run, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

/// The bytes of a key file, whatever its label.
fn hex(text: &str) -> Vec<u8> {
    let digits = text.lines().filter(|line| !line.starts_with(['-', '#'])).collect::<String>();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn static_key(text: &str) -> StaticKey {
    StaticKey(Zeroizing::new(hex(text).try_into().unwrap()))
}

fn config(wrap: Wrap, cipher: Cipher) -> ServerConfig {
    let keys = &pki().keys;
    let wrap = match wrap {
        Wrap::None => ServerWrap::None,
        Wrap::Auth => ServerWrap::Auth {
            key: static_key(&keys.auth),
            direction: Direction::Normal,
            algorithm: Algorithm::Sha256,
        },
        Wrap::Crypt => ServerWrap::Crypt(static_key(&keys.crypt)),
        Wrap::CryptV2 => ServerWrap::CryptV2 { key: server_key(&keys.v2_server), stateless: true },
    };
    let identity = ServerIdentity {
        chain: vec![CertificateDer::from_pem_slice(pki().server.0.as_bytes()).unwrap()],
        key: PrivateKeyDer::from_pem_slice(pki().server.1.as_bytes()).unwrap(),
    };
    let mut config = ServerConfig::new(1194, wrap, identity);
    config.ciphers = vec![cipher];
    config.auth = Algorithm::Sha256;
    let authority = CertificateDer::from_pem_slice(pki().authority.pem().as_bytes()).unwrap();
    config.clients = Some(ClientTrust { roots: vec![authority], ..ClientTrust::default() });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    config.unix = now.as_secs();
    config.addresses = vec![Prefix::new("10.66.0.1".parse().unwrap(), 24).unwrap()];
    config.first_client = "10.66.0.2".parse().unwrap();
    config.push = vec!["ping 1".into(), "ping-restart 30".into()];
    config
}

/// The first half of a tls-crypt-v2 server's key file, which is base64.
fn server_key(text: &str) -> Zeroizing<[u8; 128]> {
    let text: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut command = std::process::Command::new("base64");
    let bytes = crate::support::run_with_input(command.arg("-d"), text.as_bytes(), LIMIT).expect(0).stdout;
    Zeroizing::new(bytes[..128].try_into().unwrap())
}

fn serve(engine: &Engine<OpenVpnServer>) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut listener = runtime.block_on(engine.listen(80, Listen::default())).unwrap();
    runtime.spawn(async move {
        while let Some(incoming) = listener.next().await {
            let Ok(flow) = incoming.accept().await else { continue };
            tokio::spawn(async move { services::http(flow.into_stream()?, "embedded").await });
        }
    });
    runtime
}

fn fetch(lab: &Lab) {
    let mut curl = lab.client.command("curl");
    curl.args([
        "-sf",
        "--max-time",
        "10",
        "http://10.66.0.1/blob?bytes=300000",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
    ]);
    let outcome = run(&mut curl, LIMIT).expect(0);
    assert_eq!(outcome.text(), "300000", "{outcome}");
}

fn handshakes(client: &Process) -> usize {
    client.printed().matches("Control Channel: TLS").count()
}

#[test]
fn debians_client_speaks_with_the_simulators_server_over_renegotiations_from_both_sides() {
    let Some(mut lab) = Lab::build("openvpn_embedded", &[Part::OpenVpn]) else { return };
    for (wrap, cipher) in [
        (Wrap::None, Cipher::Aes256Gcm),
        (Wrap::Auth, Cipher::Aes256Cbc),
        (Wrap::Crypt, Cipher::ChaCha20Poly1305),
        (Wrap::CryptV2, Cipher::Aes128Gcm),
    ] {
        let tunnel = OpenVpnServer::new(config(wrap, cipher), 7, Instant::now()).unwrap();
        let engine = Arc::new(lab.server.enter(|| Engine::start(tunnel, EngineOptions::default())).unwrap());
        let runtime = serve(&engine);
        let profile = Server::new().wrap(wrap).cipher(cipher.name()).profile("reneg-bytes 500000");
        let client = lab.join_with_openvpn(&profile);
        fetch(&lab);
        engine.command(ServerCommand::Act(Act::Renegotiate)).unwrap();
        wait_until("the server's renegotiation is over", LIMIT, || handshakes(&client) >= 2);
        fetch(&lab);
        fetch(&lab);
        wait_until("the client's renegotiation is over", LIMIT, || handshakes(&client) >= 3);
        fetch(&lab);
        drop(client);
        engine.shutdown();
        drop(runtime);
    }
}

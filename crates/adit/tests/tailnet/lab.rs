//! A tailnet on loopback with a node `staging-db`, and a directory of one user.

#![allow(unreachable_pub, reason = "a module of one test program")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use adit::session::{Session, TunnelConfig};
use adit::tailnet::TailnetConfig;
use adit_path::{EngineOptions, Listen, Network};
use adit_providers::Secret;
use adit_providers::tailscale::{Auth, ControlUrl, Proxies, Reach, client_config, trusted};
use adit_sim::services::{self, Database};
use adit_sim::tailnet::{Key, Rules, Tailnet};

/// How long anything may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The tailnet, its node with an echo service on port 7 and a database on port 5432, and the directory.
pub struct Lab {
    pub tailnet: Tailnet,
    pub peer: Session,
    pub directory: PathBuf,
}

impl Lab {
    pub fn new(name: &str, rules: Rules) -> Self {
        let directory = std::env::temp_dir().join(format!("adit-tailnet-{name}-{}", std::process::id()));
        let _stale = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        let tailnet = Tailnet::start(rules).unwrap();
        let peer = node(&tailnet, "staging-db");
        serve(peer.network());
        let known = |tailnet: &Tailnet| tailnet.nodes().iter().any(|node| node.online && node.home != 0);
        assert!(tailnet.wait(PATIENCE, known), "the peer can be reached");
        Self { tailnet, peer, directory }
    }

    /// Writes `adit.toml` with a profile that joins with a key of these rules.
    pub fn profile(&self, rules: &Key, more: &str) {
        self.profile_with(&self.tailnet.key(rules.clone()), more);
    }

    /// Writes `adit.toml` with a profile that joins with this key.
    pub fn profile_with(&self, key: &str, more: &str) {
        self.write("key", key);
        let url = self.tailnet.url();
        self.write(
            "adit.toml",
            &format!(
                "version = 1\n[profile.staging]\nprovider = \"tailscale\"\nhostname = \"agent\"\ncontrol = \"{url}\"\n\
                 plain_derp = true\nauth = {{ key = \"file:key\" }}\n{more}"
            ),
        );
    }

    pub fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(self.directory.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(arguments).current_dir(&self.directory).env("XDG_RUNTIME_DIR", &self.directory);
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _not_running = self.command(&["down"]).output();
        self.peer.shutdown();
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

/// A node of the tailnet in this process.
pub fn node(tailnet: &Tailnet, name: &str) -> Session {
    node_with(tailnet, name, tailnet.key(Key::default()))
}

/// A node that joins with this key.
pub fn node_with(tailnet: &Tailnet, name: &str, key: String) -> Session {
    let roots = trusted(None).unwrap();
    let control = ControlUrl::parse(&tailnet.url()).unwrap();
    let reach = Reach { control, proxies: Proxies::default(), tls: client_config(Arc::clone(&roots)) };
    let auth = Auth::Key(Secret::new(key.into_bytes()));
    let config = TailnetConfig::new(reach, auth, name.to_owned(), roots);
    let config = TailnetConfig { plain_derp: true, ..config };
    Session::start(TunnelConfig::Tailscale(Box::new(config)), EngineOptions::default()).unwrap()
}

/// Serves on a thread of its own as long as the network lives.
fn serve(network: Arc<dyn Network>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::join!(echo(&*network), database(&*network)) })
    });
}

async fn echo(network: &dyn Network) {
    let mut listener = network.listen(7, Listen::default()).await.unwrap();
    while let Some(incoming) = listener.next().await {
        // A caller may have gone already.
        let Ok(flow) = incoming.accept().await else { continue };
        tokio::spawn(services::echo(flow.into_stream().unwrap()));
    }
}

async fn database(network: &dyn Network) {
    let mut listener = network.listen(5432, Listen::default()).await.unwrap();
    let database = Arc::new(Database::default());
    while let Some(incoming) = listener.next().await {
        let Ok(flow) = incoming.accept().await else { continue };
        let database = Arc::clone(&database);
        tokio::spawn(async move { services::postgres(flow.into_stream().unwrap(), &database).await });
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

//! One laboratory: three namespaces, a server of WireGuard or OpenVPN or a tailnet, and the services behind it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::conf::Conf;
use super::namespace::{Namespace, unique};
use super::process::{Outcome, Process, run, run_with_input};
use super::services;

const LIMIT: Duration = Duration::from_secs(20);
/// The server's port.
pub(crate) const PORT: u16 = 51_820;

/// What the public side's DNS server knows beside the server.
const PUBLIC_HOSTS: &str = "192.0.2.80 www.example.test\n192.0.2.1 control.example.test\n\
    192.0.2.4 derp1.example.test\n192.0.2.5 derp2.example.test\n";

/// What a laboratory has beside the WireGuard server and the files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// PostgreSQL with a table `orders` of three rows, for anybody.
    Postgres,
    /// The LAN's DNS server.
    Names,
    /// OpenVPN's servers instead of the one of WireGuard; [`Lab::start_openvpn`] starts them.
    OpenVpn,
    /// A tailnet instead of a server: [`Tailnet`](super::Tailnet) makes it.
    Tailnet,
}

/// A laboratory. Dropping it removes everything; while panicking it prints the logs of all parties first.
pub(crate) struct Lab {
    // Processes before namespaces before the directory: fields are dropped in this order.
    pub(crate) wireguard: Option<Process>,
    pub(crate) openvpn: Option<Process>,
    pub(super) processes: Vec<Process>,
    pub(crate) names: Option<Process>,
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) lan: Namespace,
    /// A directory that everybody may enter.
    pub(crate) dir: Directory,
    interface: String,
    keys: Keys,
}

/// The keys of the tunnel.
#[derive(Default)]
struct Keys {
    server: String,
    server_public: String,
    client: String,
    client_public: String,
    preshared: String,
}

impl Lab {
    /// Builds a laboratory, or says why this machine cannot have one: the caller returns then.
    pub(crate) fn build(test: &str, parts: &[Part]) -> Option<Self> {
        if let Some(why) = unavailable(parts) {
            adit_tests::skip(test, &why);
            return None;
        }
        let wireguard = needs_wireguard(parts);
        let name = unique();
        let dir = Directory::create(&name);
        let client = Namespace::create(&name, "client");
        let server = Namespace::create(&name, "server");
        let lan = Namespace::create(&name, "lan");
        wire(&client, &server, &lan);
        let mut lab = Self {
            wireguard: None,
            openvpn: None,
            processes: Vec::new(),
            names: None,
            client,
            server,
            lan,
            dir,
            // An interface's name is also the name of wireguard-go's control socket, which all namespaces share.
            interface: name.replace("adit-", "aw").replace('-', "n"),
            keys: if wireguard { Keys::generate() } else { Keys::default() },
        };
        if wireguard {
            lab.start_wireguard();
        }
        lab.start_public_names();
        lab.start_services();
        if parts.contains(&Part::Names) {
            lab.start_names();
        }
        if parts.contains(&Part::Postgres) {
            let clients = "host all all 10.66.0.0/24 trust\nhost all all fd66::/64 trust\n";
            let postgres = start_postgres(&lab.dir, &lab.lan, "10.77.0.10,fd77::10", clients);
            lab.processes.push(postgres);
        }
        Some(lab)
    }

    /// What the names of the laboratory's namespaces begin with.
    pub(crate) fn name(&self) -> &str {
        self.client.name().strip_suffix("-client").unwrap_or_default()
    }

    /// A correct wg-quick file for the client.
    pub(crate) fn conf(&self) -> Conf {
        Conf {
            private_key: self.keys.client.clone(),
            addresses: vec!["10.66.0.2/32".into(), "fd66::2/128".into()],
            dns: vec!["10.77.0.53".into(), "fd77::53".into(), "corp.internal".into()],
            mtu: None,
            interface: Vec::new(),
            server_key: self.keys.server_public.clone(),
            preshared_key: Some(self.keys.preshared.clone()),
            endpoint: format!("192.0.2.1:{PORT}"),
            allowed_ips: ["10.66.0.0/24", "10.77.0.0/16", "fd66::/64", "fd77::/64"]
                .map(String::from)
                .to_vec(),
            keepalive: None,
            rest: String::new(),
        }
    }

    /// The client's public key.
    pub(crate) fn client_key(&self) -> &str {
        &self.keys.client_public
    }

    /// A key pair that the server does not know: private and public.
    pub(crate) fn another_key(&self) -> (String, String) {
        let private = wg("genkey", "");
        let public = wg("pubkey", &private);
        (private, public)
    }

    /// The public key of nobody here.
    pub(crate) fn another_public_key(&self) -> String {
        self.another_key().1
    }

    /// Writes a file that only `nobody` may read; returns its path.
    pub(crate) fn write(&self, name: &str, text: impl std::fmt::Display) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        path
    }

    /// Starts a program that lives as long as the laboratory.
    pub(crate) fn spawn(&mut self, name: &str, command: Command) -> &mut Process {
        let process = Process::spawn(name, command, &self.dir.logs());
        self.processes.push(process);
        self.processes.last_mut().expect("one was pushed")
    }

    /// Starts the WireGuard server, again after it was stopped: with the same keys and no memory of sessions.
    pub(crate) fn start_wireguard(&mut self) {
        self.wireguard = None;
        let mut command = self.server.command(peer("wireguard-go"));
        command.args(["-f", &self.interface]).env("LOG_LEVEL", "verbose");
        let mut process = Process::spawn("wireguard-go", command, &self.dir.logs());
        process.wait_for("UAPI listener started", LIMIT);
        self.wireguard = Some(process);
        self.allow_on_the_server("10.66.0.2/32, fd66::2/128");
        self.server.ip(&format!(
            "addr add 10.66.0.1/24 dev {0}\naddr add fd66::1/64 dev {0} nodad\nlink set {0} mtu 1420 up\n",
            self.interface
        ));
    }

    /// Configures the server with the addresses that it takes from the client.
    pub(crate) fn allow_on_the_server(&self, addresses: &str) {
        let Keys { server, client_public, preshared, .. } = &self.keys;
        self.wg_set(&format!(
            "[Interface]\nPrivateKey = {server}\nListenPort = {PORT}\n\n[Peer]\nPublicKey = {client_public}\n\
             PresharedKey = {preshared}\nAllowedIPs = {addresses}\n"
        ));
    }

    /// Replaces the server's configuration (wg(8) `setconf`).
    pub(crate) fn wg_set(&self, settings: &str) {
        let mut command = self.server.command("wg");
        command.args(["setconf", &self.interface, "/dev/stdin"]);
        run_with_input(&mut command, settings.as_bytes(), LIMIT).expect(0);
    }

    /// One table of the server's state (wg(8) `show`): `latest-handshakes`, `endpoints`, `transfer`.
    pub(crate) fn wg_show(&self, what: &str) -> String {
        run(self.server.command("wg").args(["show", &self.interface, what]), LIMIT).expect(0).text()
    }

    /// The server's WireGuard interface.
    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    /// The DNS server of the public side: it knows the server's name and no private one.
    fn start_public_names(&mut self) {
        self.client.set_resolv_conf("nameserver 192.0.2.53\n");
        let hosts = self.dir.path().join("public-hosts");
        fs::write(&hosts, format!("192.0.2.1 vpn.example.test\n{PUBLIC_HOSTS}")).unwrap();
        let mut command = dnsmasq(&self.server, &["192.0.2.53"]);
        // A resolver that works knows what there is not.
        command.arg(format!("--addn-hosts={}", hosts.display())).arg("--local=/test/");
        self.spawn("public-names", command).wait_for("started, version", LIMIT);
    }

    /// Moves the server's public name to another address.
    pub(crate) fn move_name(&self, address: &str) {
        let hosts = self.dir.path().join("public-hosts");
        fs::write(&hosts, format!("{address} vpn.example.test\n{PUBLIC_HOSTS}")).unwrap();
        let names = self.processes.iter().find(|process| process.log_path().ends_with("public-names.log"));
        names.expect("started with the laboratory").signal(rustix::process::Signal::HUP);
    }

    /// The LAN's DNS server; [`Self::names`] is its process.
    pub(crate) fn start_names(&mut self) {
        let mut command = dnsmasq(&self.lan, &["10.77.0.53", "fd77::53"]);
        command.args([
            "--local=/internal/",
            "--host-record=corp.internal,10.77.0.10,fd77::10",
            "--host-record=files.corp.internal,10.77.0.10,fd77::10",
            "--host-record=staging-db.internal,10.77.0.10,fd77::10",
            "--host-record=four.corp.internal,10.77.0.10",
            "--host-record=six.corp.internal,fd77::10",
            "--host-record=silent.corp.internal,10.77.1.66",
            "--host-record=outside.corp.internal,192.0.2.80",
        ]);
        let mut process = Process::spawn("names", command, &self.dir.logs());
        process.wait_for("started, version", LIMIT);
        self.names = Some(process);
    }

    fn start_services(&self) {
        for address in ["10.77.0.10", "fd77::10"] {
            let at = |port| std::net::SocketAddr::new(address.parse().unwrap(), port);
            services::serve_http(&self.lan, at(80));
            services::serve_tcp_echo(&self.lan, at(7));
            services::serve_udp_echo(&self.lan, at(7));
        }
        // The public side: what goes there must not go through the tunnel.
        services::serve_http(&self.server, "192.0.2.80:80".parse().unwrap());
    }

    /// Joins from the client's namespace with a second wireguard-go, as root with a TUN device: proof that the
    /// laboratory itself works.
    pub(crate) fn join_with_wireguard_go(&mut self) {
        let interface = format!("{}c", self.interface);
        let mut command = self.client.command(peer("wireguard-go"));
        command.args(["-f", &interface]).env("LOG_LEVEL", "error");
        self.spawn("wireguard-go-client", command);
        let socket = format!("/var/run/wireguard/{interface}.sock");
        wait_for_path(Path::new(&socket), LIMIT);
        let conf = self.conf();
        let settings = format!(
            "[Interface]\nPrivateKey = {}\n\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nEndpoint = {}\nAllowedIPs = {}\n",
            conf.private_key,
            conf.server_key,
            self.keys.preshared,
            conf.endpoint,
            conf.allowed_ips.join(", ")
        );
        let mut set = self.client.command("wg");
        set.args(["setconf", &interface, "/dev/stdin"]);
        run_with_input(&mut set, settings.as_bytes(), LIMIT).expect(0);
        self.client.ip(&format!(
            "addr add 10.66.0.2/24 dev {interface}\naddr add fd66::2/64 dev {interface} nodad\n\
             link set {interface} mtu 1420 up\nroute add 10.77.0.0/16 dev {interface}\nroute add fd77::/64 dev {interface}\n"
        ));
        self.client.set_resolv_conf("nameserver 10.77.0.53\nsearch corp.internal\n");
    }

    /// Runs a program as root in the client's namespace.
    #[track_caller]
    pub(crate) fn on_client(&self, arguments: &[&str]) -> Outcome {
        run(self.client.command(arguments[0]).args(&arguments[1..]), LIMIT)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut logs: Vec<_> =
            fs::read_dir(self.dir.logs()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.sort();
        for log in logs {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("=== {} (last lines)", log.file_name().unwrap_or_default().to_string_lossy());
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// A key command of wg(8): `genkey`, `pubkey`, `genpsk`.
fn wg(command: &str, input: &str) -> String {
    run_with_input(Command::new("wg").arg(command), input.as_bytes(), LIMIT).expect(0).text()
}

impl Keys {
    fn generate() -> Self {
        let (server, client) = (wg("genkey", ""), wg("genkey", ""));
        let (server_public, client_public) = (wg("pubkey", &server), wg("pubkey", &client));
        Self { server, server_public, client, client_public, preshared: wg("genpsk", "") }
    }
}

/// The user that the laboratory's programs run as.
pub(crate) const NOBODY: u32 = 65_534;

/// A directory below the system's temporary one, removed with everything in it.
pub(crate) struct Directory(PathBuf);

impl Directory {
    fn create(lab: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{lab}-lab"));
        fs::create_dir_all(path.join("logs")).unwrap();
        for directory in [&path, &path.join("logs")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// Links and addresses. The server forwards between the tunnel and the LAN and nothing from the client's link: a
/// private address that leaves past the tunnel finds nobody.
fn wire(client: &Namespace, server: &Namespace, lan: &Namespace) {
    server.ip(&format!(
        "link add up0 type veth peer name eth0 netns {}\nlink add lan0 type veth peer name eth0 netns {}\n\
         addr add 192.0.2.1/24 dev up0\naddr add 192.0.2.3/24 dev up0\naddr add 192.0.2.53/24 dev up0\n\
         addr add 192.0.2.80/24 dev up0\naddr add 2001:db8::1/64 dev up0 nodad\nlink set up0 up\n\
         addr add 10.77.0.1/24 dev lan0\naddr add fd77::1/64 dev lan0 nodad\nlink set lan0 up\n\
         route add blackhole 10.77.1.66/32\nroute add unreachable 10.77.1.67/32\nroute add prohibit 10.77.1.68/32\n",
        client.name(),
        lan.name()
    ));
    client.ip("addr add 192.0.2.2/24 dev eth0\naddr add 2001:db8::2/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 192.0.2.1\nroute add default via 2001:db8::1\n");
    lan.ip(
        "addr add 10.77.0.10/24 dev eth0\naddr add 10.77.0.53/24 dev eth0\naddr add fd77::10/64 dev eth0 nodad\n\
         addr add fd77::53/64 dev eth0 nodad\nlink set eth0 up\n\
         route add 10.66.0.0/24 via 10.77.0.1\nroute add fd66::/64 via fd77::1\n",
    );
    // Removing an address leaves the others of its prefix.
    server.sysctl("net.ipv4.conf.all.promote_secondaries", "1");
    server.sysctl("net.ipv4.ip_forward", "1");
    server.sysctl("net.ipv6.conf.all.forwarding", "1");
    server.sysctl("net.ipv4.conf.up0.forwarding", "0");
}

fn dnsmasq(namespace: &Namespace, addresses: &[&str]) -> Command {
    let mut command = namespace.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
    ]);
    command.args(["--log-queries", "--log-facility=-", "--bind-interfaces", "--user=root"]);
    command.args(addresses.iter().map(|address| format!("--listen-address={address}")));
    command
}

/// Starts PostgreSQL in a namespace, with its socket and data in the laboratory's directory `postgres`. `listen` is its
/// `listen_addresses`, and `clients` are lines of its `pg_hba.conf`.
pub(super) fn start_postgres(dir: &Directory, namespace: &Namespace, listen: &str, clients: &str) -> Process {
    let bin = postgres_bin().expect("checked before the laboratory was built");
    let data = dir.path().join("postgres");
    fs::create_dir(&data).unwrap();
    run(Command::new("chown").arg("postgres:").arg(&data), LIMIT).expect(0);
    let as_postgres = |program: &str| {
        let mut command = namespace.command("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        command.arg(bin.join(program)).env("LC_ALL", "C").current_dir("/");
        command
    };
    let mut initdb = as_postgres("initdb");
    initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--no-instructions", "-D"]).arg(&data);
    run(&mut initdb, Duration::from_secs(60)).expect(0);
    fs::write(data.join("pg_hba.conf"), format!("local all all trust\n{clients}")).unwrap();

    let mut server = as_postgres("postgres");
    server.arg("-D").arg(&data).args(["-c", &format!("listen_addresses={listen}"), "-c", "fsync=off"]);
    server.arg("-c").arg(format!("unix_socket_directories={}", data.display()));
    let mut process = Process::spawn("postgres", server, &dir.logs());
    process.wait_for("ready to accept connections", Duration::from_secs(60));
    // psql's defaults for the user `nobody`: the role and the database of that name.
    let setup = "create role nobody login; create database nobody owner nobody;\n\\connect nobody\n\
                 create table orders (id int primary key, what text);\n\
                 insert into orders values (1, 'lamp'), (2, 'rope'), (3, 'pick');\n\
                 grant select on orders to public;\n";
    let mut psql = as_postgres("psql");
    psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-h"]).arg(&data).args(["-U", "postgres"]);
    run_with_input(&mut psql, setup.as_bytes(), LIMIT).expect(0);
    process
}

/// A peer that `cargo xtask setup` built.
pub(crate) fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers").join(name)
}

/// The directory of the newest PostgreSQL server's programs.
pub(crate) fn postgres_bin() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop()
}

fn needs_wireguard(parts: &[Part]) -> bool {
    !parts.contains(&Part::OpenVpn) && !parts.contains(&Part::Tailnet)
}

/// Why this machine cannot build a laboratory, if it cannot.
fn unavailable(parts: &[Part]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("the server needs /dev/net/tun".into());
    }
    let tailnet = ["headscale", "derper", "tailscale", "tailscaled"];
    let peers: &[&str] = if parts.contains(&Part::Tailnet) {
        &tailnet
    } else if needs_wireguard(parts) {
        &["wireguard-go"]
    } else {
        &[]
    };
    if let Some(missing) = peers.iter().find(|name| !peer(name).is_file()) {
        return Some(format!("{missing} is not built (cargo xtask setup)"));
    }
    let server = if parts.contains(&Part::OpenVpn) { "openvpn" } else { "wg" };
    for program in ["ip", server, "nft", "dnsmasq", "faketime", "setpriv", "curl"] {
        if !in_path(program) {
            return Some(format!("{program} is not installed (cargo xtask setup)"));
        }
    }
    if std::env::var_os("ADIT_BIN").is_none_or(|binary| !Path::new(&binary).is_file()) {
        return Some("ADIT_BIN names no release binary (cargo xtask test sets it)".into());
    }
    let postgres = parts.contains(&Part::Postgres) && postgres_bin().is_none();
    postgres.then(|| "PostgreSQL's server is not installed (cargo xtask setup)".into())
}

pub(crate) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|dir| dir.join(program).is_file())
}

/// Waits until a path exists; inotify would tell, but its directory may not exist yet either.
pub(crate) fn wait_for_path(path: &Path, limit: Duration) {
    wait_until(&format!("{} exists", path.display()), limit, || path.exists());
}

/// Asks again and again until the answer is yes.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut asked: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !asked() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

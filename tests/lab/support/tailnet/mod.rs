//! A tailnet around the laboratory: Headscale and two relays on the public side, and nodes of the reference client.
//!
//! ```text
//! client (adit) ── 192.0.2.2 ─┐                    ┌─ staging-db   TUN device, PostgreSQL
//!                             ├─ server: Headscale ├─ web          userspace
//!            (a NAT, if any) ─┘  192.0.2.1, relays └─ gateway      TUN device, routes 10.77.0.0/16, exit node ── lan
//!                                .4 and .5            each 203.0.113.*, behind a NAT if any
//! ```

mod nat;
mod node;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::laboratory::{Directory, Lab, Part, peer, start_postgres, wait_until};
use super::openvpn::{Authority, server_params};
use super::process::{Outcome, Process, run};
use super::services::serve_socket;
pub(crate) use nat::Nat;
use node::Kind;
pub(crate) use node::Node;

const LIMIT: Duration = Duration::from_secs(60);

/// The domain of the tailnet's own names.
pub(crate) const DOMAIN: &str = "tail.example.test";

/// Everybody may reach everything; alice's machines may route, and may have the agents' tag.
const POLICY: &str = r#"{
    "tagOwners": {"tag:agent": ["alice@"]},
    "autoApprovers": {"routes": {"10.77.0.0/16": ["alice@"]}, "exitNode": ["alice@"]},
    "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
}"#;

/// A machine of the tailnet that runs the reference client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// `staging-db`: a TUN device, PostgreSQL, files at port 80, an echo at port 7.
    Database,
    /// `web`: in user space, files at port 80 and an echo at port 7.
    Web,
    /// `gateway`: the way to the LAN and to the public side.
    Gateway,
}

/// A tailnet. Dropping it removes everything.
pub(crate) struct Tailnet {
    // Nodes before their control server before the namespaces.
    pub(crate) nodes: Vec<Node>,
    pub(crate) relays: Vec<Option<Process>>,
    pub(crate) headscale: Option<Process>,
    nats: Vec<super::namespace::Namespace>,
    /// The certificate of the authority behind the control server and the relays, in PEM.
    pub(crate) ca: PathBuf,
    pub(crate) lab: Lab,
}

impl Tailnet {
    /// Builds a tailnet of these machines behind a NAT of this kind, or says why there can be none here.
    pub(crate) fn build(test: &str, machines: &[Machine], nat: Option<Nat>) -> Option<Self> {
        let gateway = machines.contains(&Machine::Gateway);
        let parts: &[Part] = if gateway { &[Part::Tailnet, Part::Names] } else { &[Part::Tailnet] };
        let lab = Lab::build(test, parts)?;
        lab.server.ip("addr add 192.0.2.4/24 dev up0\naddr add 192.0.2.5/24 dev up0\n");
        lab.server.sysctl("net.ipv4.conf.up0.forwarding", "1");
        lab.server.set_resolv_conf("nameserver 192.0.2.53\n");
        let authority = Authority::new("Laboratory");
        let ca = lab.write("ca.pem", authority.pem());
        let mut this =
            Self { nodes: Vec::new(), relays: Vec::new(), headscale: None, nats: Vec::new(), ca, lab };
        this.certify(&authority, "control.example.test", "control");
        for (number, name) in [(1, "derp1.example.test"), (2, "derp2.example.test")] {
            this.certify(&authority, name, &format!("relay{number}/{name}"));
        }
        fs::write(this.path("headscale.yaml"), configuration(&this.lab.dir)).unwrap();
        fs::write(this.path("relays.yaml"), RELAYS).unwrap();
        this.relays = [0, 1].map(|index| Some(this.relay(index))).into();
        this.start_headscale();
        this.headscale(&["users", "create", "alice"]).expect(0);
        this.set_policy(POLICY);
        let key = this.auth_key(&["--reusable"]);
        for (index, machine) in machines.iter().enumerate() {
            this.add(index, *machine, nat);
        }
        this.start_services();
        std::thread::scope(|scope| {
            let joining: Vec<_> = this.nodes.iter().map(|node| scope.spawn(|| node.join(&key))).collect();
            joining
                .into_iter()
                .for_each(|node| node.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        });
        Some(this)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.dir.path().join(name)
    }

    /// Writes the certificate and the key for a name to `AT.crt` and `AT.key`.
    fn certify(&self, authority: &Authority, name: &str, at: &str) {
        let mut params = server_params();
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
        let (certificate, key) = authority.issue(&params);
        fs::create_dir_all(self.path(at).parent().unwrap()).unwrap();
        fs::write(self.path(&format!("{at}.crt")), certificate).unwrap();
        fs::write(self.path(&format!("{at}.key")), key).unwrap();
    }

    /// Changes the control server's configuration, for its next start.
    pub(crate) fn configure(&self, line: &str, other: &str) {
        let path = self.path("headscale.yaml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(line), "{line} is not there");
        fs::write(path, text.replace(line, other)).unwrap();
    }

    /// Starts the control server, again after it was stopped: it remembers its nodes.
    pub(crate) fn start_headscale(&mut self) {
        self.headscale = None;
        let mut command = self.lab.server.command(peer("headscale"));
        command.args(["serve", "--config"]).arg(self.path("headscale.yaml"));
        let mut process = Process::spawn("headscale", command, &self.lab.dir.logs());
        process.wait_for("listening and serving HTTP on", LIMIT);
        self.headscale = Some(process);
        wait_until("Headscale answers", LIMIT, || self.headscale(&["users", "list"]).status.success());
    }

    /// Starts a relay again after it was stopped.
    pub(crate) fn start_relay(&mut self, index: usize) {
        self.relays[index] = None;
        self.relays[index] = Some(self.relay(index));
    }

    fn relay(&self, index: usize) -> Process {
        let number = index + 1;
        let address = Ipv4Addr::new(192, 0, 2, 4 + index as u8);
        let mut command = self.lab.server.command(peer("derper"));
        command.args(["-a", &format!("{address}:443"), "-certmode=manual"]);
        command.arg(format!("-hostname=derp{number}.example.test"));
        command.arg("-certdir").arg(self.path(&format!("relay{number}")));
        command.arg("-c").arg(self.path(&format!("relay{number}/derper.key")));
        let mut process = Process::spawn(&format!("relay{number}"), command, &self.lab.dir.logs());
        process.wait_for("serving on", LIMIT);
        process
    }

    /// Runs a command of Headscale.
    pub(crate) fn headscale(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.lab.server.command(peer("headscale"));
        command.arg("--config").arg(self.path("headscale.yaml")).args(arguments);
        run(&mut command, LIMIT)
    }

    /// Replaces the policy of the tailnet.
    pub(crate) fn set_policy(&self, policy: &str) {
        fs::write(self.path("policy.hujson"), policy).unwrap();
        let path = self.path("policy.hujson");
        self.headscale(&["policy", "set", "--file", &path.to_string_lossy()]).expect(0);
    }

    /// Makes an auth key for machines of alice.
    pub(crate) fn auth_key(&self, more: &[&str]) -> String {
        let mut arguments = vec!["preauthkeys", "create", "--user", "1", "--output", "json"];
        if !more.contains(&"--expiration") {
            arguments.extend(["--expiration", "24h"]);
        }
        arguments.extend(more);
        let made = self.headscale(&arguments).expect(0);
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        made["key"].as_str().expect("Headscale names the key that it made").to_owned()
    }

    /// The machines that the control server knows: names and whole records.
    pub(crate) fn machines(&self) -> Vec<(String, serde_json::Value)> {
        let list = self.headscale(&["nodes", "list", "--output", "json"]).expect(0);
        let list: Option<Vec<serde_json::Value>> = serde_json::from_slice(&list.stdout).unwrap();
        let name = |node: &serde_json::Value| node["given_name"].as_str().unwrap_or_default().to_owned();
        list.unwrap_or_default().into_iter().map(|node| (name(&node), node)).collect()
    }

    /// Waits until the control server knows no machine of a name.
    pub(crate) fn is_gone(&self, name: &str) {
        let known = || self.machines().iter().any(|(known, _)| known == name);
        wait_until(&format!("Headscale has removed {name}"), LIMIT, || !known());
    }

    /// A machine that was asked for.
    pub(crate) fn node(&self, machine: Machine) -> &Node {
        self.nodes.iter().find(|node| node.machine == machine).expect("the machine was asked for")
    }

    /// Puts the client behind a NAT.
    pub(crate) fn client_behind(&mut self, nat: Nat) {
        let nat = nat.insert(&self.lab.client, "192.0.2.2/24", "192.0.2.1", self.lab.name());
        self.nats.push(nat);
    }

    /// The client's NAT loses its mappings, as one that is restarted does, and makes new ones with other ports.
    pub(crate) fn forget_mappings(&self) {
        let nat = self.nats.last().expect("the client is behind one");
        nat.nft(
            "flush chain ip nat outgoing; \
             add rule ip nat outgoing oifname wan0 meta l4proto udp masquerade to :20000-29999; \
             add rule ip nat outgoing oifname wan0 masquerade",
        );
        nat.enter(nat::forget_connections);
    }

    /// From now on nothing but names passes by UDP between the client and the public side.
    pub(crate) fn block_udp(&self) {
        self.lab.server.nft(
            "table inet blocked { chain incoming { type filter hook prerouting priority raw; \
             iifname up0 udp dport != 53 counter drop; }; }",
        );
    }

    /// Names that the client asked the public side for: each must be a public one.
    pub(crate) fn names_asked_in_public(&self) -> Vec<String> {
        let log = fs::read_to_string(self.lab.dir.logs().join("public-names.log")).unwrap();
        let ours = |line: &&str| line.contains(" query[") && line.ends_with(" from 192.0.2.2");
        let name = |line: &str| {
            let mut words = line.split(' ').skip_while(|word| !word.starts_with("query["));
            words.nth(1).unwrap_or_default().to_owned()
        };
        log.lines().filter(ours).map(name).collect()
    }

    fn add(&mut self, index: usize, machine: Machine, nat: Option<Nat>) {
        let node = Node::create(&self.lab, &self.ca, index, machine);
        if let Some(nat) = nat {
            let (address, router) = node.link();
            self.nats.push(nat.insert(
                &node.namespace,
                &format!("{address}/29"),
                &router.to_string(),
                self.lab.name(),
            ));
        }
        self.nodes.push(node);
        let node = self.nodes.last_mut().expect("one was pushed");
        if machine == Machine::Gateway {
            // The LAN's router is this machine instead of the server.
            self.lab.server.ip(&format!("link set lan0 netns {}\n", node.namespace.name()));
            node.namespace.ip("addr add 10.77.0.1/24 dev lan0\nlink set lan0 up\n");
            node.namespace.sysctl("net.ipv4.ip_forward", "1");
        }
        node.start(&self.lab.dir);
    }

    fn start_services(&mut self) {
        for node in &self.nodes {
            match node.kind() {
                Kind::Tun => node.serve("0.0.0.0"),
                // In user space the client hands what arrives to the machine's own address.
                Kind::Userspace => node.serve("127.0.0.1"),
            }
        }
        if let Some(database) = self.nodes.iter().find(|node| node.machine == Machine::Database) {
            let clients = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
            let postgres = start_postgres(&self.lab.dir, &database.namespace, "*", clients);
            self.lab.processes.push(postgres);
            // The LAN calls it staging-db.internal.
            let socket = self.path("postgres/.s.PGSQL.5432");
            serve_socket(&self.lab.lan, "10.77.0.10:5432".parse().unwrap(), &socket);
        }
    }
}

const RELAYS: &str = "\
regions:
  901: { regionid: 901, regioncode: lab1, regionname: Laboratory 1, nodes: [ { name: 901a, regionid: 901, hostname: derp1.example.test, ipv4: 192.0.2.4, ipv6: none, stunport: 3478, derpport: 443 } ] }
  902: { regionid: 902, regioncode: lab2, regionname: Laboratory 2, nodes: [ { name: 902a, regionid: 902, hostname: derp2.example.test, ipv4: 192.0.2.5, ipv6: none, stunport: 3478, derpport: 443 } ] }
";

fn configuration(directory: &Directory) -> String {
    let at = directory.path().display();
    format!(
        "server_url: https://control.example.test
listen_addr: 192.0.2.1:443
tls_cert_path: {at}/control.crt
tls_key_path: {at}/control.key
metrics_listen_addr: 127.0.0.1:9090
grpc_listen_addr: 127.0.0.1:50443
noise: {{ private_key_path: {at}/noise.key }}
prefixes: {{ v4: 100.64.0.0/10, v6: 'fd7a:115c:a1e0::/48', allocation: sequential }}
derp: {{ server: {{ enabled: false }}, urls: [], paths: [ {at}/relays.yaml ], auto_update_enabled: false }}
disable_check_updates: true
node: {{ ephemeral: {{ inactivity_timeout: 70s }} }}
tuning: {{ batch_change_delay: 20ms, node_store_batch_timeout: 20ms }}
database: {{ type: sqlite, sqlite: {{ path: {at}/headscale.sqlite, write_ahead_log: true }} }}
policy: {{ mode: database }}
dns:
  magic_dns: true
  base_domain: {DOMAIN}
  override_local_dns: false
  nameservers: {{ global: [], split: {{ internal: [ 10.77.0.53 ] }} }}
  extra_records: [ {{ name: reports.{DOMAIN}, type: A, value: 10.77.0.10 }} ]
unix_socket: {at}/headscale.sock
unix_socket_permission: '0770'
logtail: {{ enabled: false }}
"
    )
}

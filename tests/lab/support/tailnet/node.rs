//! A machine with the reference client.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::laboratory::{Directory, Lab, peer, wait_for_path};
use super::super::namespace::Namespace;
use super::super::process::{Outcome, Process, run};
use super::super::services;
use super::{LIMIT, Machine};

/// How packets reach the machine's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tun,
    Userspace,
}

/// A machine of the tailnet, with `tailscaled`.
pub(crate) struct Node {
    // The daemon before its namespace.
    pub(crate) daemon: Option<Process>,
    pub(crate) namespace: Namespace,
    pub(crate) machine: Machine,
    index: usize,
    ca: PathBuf,
    state: PathBuf,
}

impl Node {
    /// The machine and its link to the public side; the daemon does not run yet.
    pub(super) fn create(lab: &Lab, ca: &Path, index: usize, machine: Machine) -> Self {
        let namespace = Namespace::create(lab.name(), name(machine));
        let state = lab.dir.path().join(name(machine));
        let this = Self { daemon: None, namespace, machine, index, ca: ca.to_path_buf(), state };
        let (address, router) = this.link();
        lab.server.ip(&format!(
            "link add node{index} type veth peer name eth0 netns {}\naddr add {router}/29 dev node{index}\nlink set node{index} up\n",
            this.namespace.name()
        ));
        this.namespace.ip(&format!(
            "addr add {address}/29 dev eth0\nlink set eth0 up\nroute add default via {router}\n"
        ));
        this.namespace.set_resolv_conf("nameserver 192.0.2.53\n");
        this
    }

    /// The machine's address and its router's.
    pub(super) fn link(&self) -> (Ipv4Addr, Ipv4Addr) {
        let network = 8 * self.index as u8;
        (Ipv4Addr::new(203, 0, 113, network + 2), Ipv4Addr::new(203, 0, 113, network + 1))
    }

    /// The machine's address on the public side.
    pub(crate) fn public_address(&self) -> Ipv4Addr {
        self.link().0
    }

    pub(super) fn kind(&self) -> Kind {
        if self.machine == Machine::Web { Kind::Userspace } else { Kind::Tun }
    }

    /// Starts the daemon, again after it was stopped: as the same node with another discovery key.
    pub(crate) fn start(&mut self, directory: &Directory) {
        self.daemon = None;
        let mut command = self.namespace.command(peer("tailscaled"));
        let tun = if self.kind() == Kind::Tun { "ts0" } else { "userspace-networking" };
        command.arg(format!("--tun={tun}")).arg("--statedir").arg(&self.state);
        command.arg("--socket").arg(self.socket()).args(["--port=41641", "--no-logs-no-support"]);
        command.env("TS_DEBUG_FIREWALL_MODE", "nftables").env("SSL_CERT_FILE", &self.ca);
        self.daemon = Some(Process::spawn(name(self.machine), command, &directory.logs()));
        wait_for_path(&self.socket(), LIMIT);
    }

    fn socket(&self) -> PathBuf {
        self.state.with_extension("sock")
    }

    /// Joins the tailnet.
    pub(super) fn join(&self, key: &str) {
        let mut command = self.tailscale(&["up", "--login-server=https://control.example.test"]);
        command.arg(format!("--auth-key={key}")).arg(format!("--hostname={}", name(self.machine)));
        command.args(["--accept-dns=false", "--timeout=60s"]);
        if self.machine == Machine::Gateway {
            command.args(["--advertise-routes=10.77.0.0/16", "--advertise-exit-node"]);
        }
        run(&mut command, LIMIT + Duration::from_secs(10)).expect(0);
    }

    fn tailscale(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(peer("tailscale"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Runs a command of the reference client.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.tailscale(arguments), LIMIT)
    }

    /// The machine's IPv4 address in the tailnet.
    pub(crate) fn address(&self) -> String {
        self.run(&["ip", "-4"]).expect(0).text()
    }

    /// Files at port 80 and echoes at port 7.
    pub(super) fn serve(&self, address: &str) {
        let at = |port| SocketAddr::new(address.parse().unwrap(), port);
        services::serve_http(&self.namespace, at(80));
        services::serve_tcp_echo(&self.namespace, at(7));
        services::serve_udp_echo(&self.namespace, at(7));
    }
}

fn name(machine: Machine) -> &'static str {
    match machine {
        Machine::Database => "staging-db",
        Machine::Web => "web",
        Machine::Gateway => "gateway",
    }
}

//! The reference client where adit will be: what it reaches must be there to be reached.

use super::LIMIT;
use crate::support::{DOMAIN, Machine, Process, Tailnet, peer, run, wait_until};

/// Starts the reference client in user space where adit runs, with a proxy for programs at port 1055.
pub(super) fn join(tailnet: &Tailnet) -> Process {
    let lab = &tailnet.lab;
    let (state, socket) = (lab.dir.path().join("stock"), lab.dir.path().join("stock.sock"));
    // Of one that ran before.
    let _ = std::fs::remove_file(&socket);
    let mut command = lab.client.command(peer("tailscaled"));
    command
        .args([
            "--tun=userspace-networking",
            "--port=0",
            "--no-logs-no-support",
            "--state=mem:",
            "--statedir",
        ])
        .arg(&state);
    command
        .args(["--socks5-server=127.0.0.1:1055", "--socket"])
        .arg(&socket)
        .env("SSL_CERT_FILE", &tailnet.ca);
    let daemon = Process::spawn("stock", command, &lab.dir.logs());
    wait_until("the reference client listens", LIMIT, || socket.exists());
    let key = tailnet.auth_key(&["--ephemeral"]);
    let mut up = lab.client.command(peer("tailscale"));
    up.arg("--socket").arg(&socket).args([
        "up",
        "--login-server=https://control.example.test",
        "--hostname=stock",
    ]);
    up.args(["--accept-routes", "--timeout=60s"]).arg(format!("--auth-key={key}"));
    run(&mut up, LIMIT).expect(0);
    daemon
}

#[test]
fn the_reference_client_reaches_every_machine() {
    let machines = [Machine::Database, Machine::Web, Machine::Gateway];
    let Some(tailnet) = Tailnet::build("tailscale_reference", &machines, None) else { return };
    let _daemon = join(&tailnet);
    let get = |url: &str| {
        let mut curl = tailnet.lab.client.command("curl");
        curl.args(["-sf", "--max-time", "30", "--proxy", "socks5h://127.0.0.1:1055", url]);
        run(&mut curl, LIMIT).expect(0).text()
    };
    for host in ["staging-db", "web"] {
        assert!(get(&format!("http://{host}/peer")).len() > 6);
        assert_eq!(get(&format!("http://{host}.{DOMAIN}/healthz")), "ok");
    }
    // The gateway shows its own address to the LAN.
    assert_eq!(get("http://10.77.0.10/peer"), "10.77.0.1");
    let names: Vec<String> = tailnet.machines().into_iter().map(|(name, _)| name).collect();
    for name in ["staging-db", "web", "gateway", "stock"] {
        assert!(names.iter().any(|known| known == name), "{name} is none of {names:?}");
    }
}

//! Ways to use a network beside `exec`, over OpenVPN.

use super::{INSIDE, LIMIT};
use crate::support::{Lab, Part, Process, Server, run, wait_until};
use crate::up::Down;

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];

#[test]
fn proxies_and_forwards_lead_into_the_network() {
    let Some(mut lab) = Lab::build("openvpn_fronts", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    let profile = lab.ovpn(&server);
    run(&mut lab.adit(&["up", "--detach", "--proxy=127.0.0.1:1055", "--config", &profile]), LIMIT).expect(0);
    let down = Down(&lab);
    let fetch = |more: &[&str]| run(lab.nobody("curl").args(["-sf", "--max-time", "20"]).args(more), LIMIT);
    for proxy in ["socks5h://127.0.0.1:1055", "http://127.0.0.1:1055"] {
        let peer = fetch(&["-x", proxy, "http://files.corp.internal/peer"]).expect(0);
        assert!(INSIDE.contains(&peer.text().as_str()), "{peer}");
    }
    let forward = lab.adit(&["forward", "127.0.0.1:8080:files.corp.internal:80"]);
    let forward = Process::spawn("forward", forward, &lab.dir.logs());
    wait_until("the forward listens", LIMIT, || fetch(&["http://127.0.0.1:8080/healthz"]).text() == "ok");
    drop((forward, down));
}

#[test]
fn a_device_carries_every_program_also_where_the_server_takes_everything() {
    let Some(mut lab) = Lab::build("openvpn_tun", PARTS) else { return };
    for push in ["", "push \"redirect-gateway def1\""] {
        let server = Server::new().server(push);
        lab.start_openvpn(&server);
        let profile = lab.ovpn(&server);
        let up = ["up", "--detach", "--mode", "tun", "--config", &profile];
        run(&mut crate::tun::adit(&lab, &up), LIMIT).expect(0);
        let down = crate::tun::Down(&lab);
        let mut curl = lab.client.command("curl");
        curl.args(["-sf", "--max-time", "20", "http://files.corp.internal/peer"]);
        let peer = run(&mut curl, LIMIT).expect(0);
        assert!(INSIDE.contains(&peer.text().as_str()), "{push}: {peer}");
        drop(down);
    }
}

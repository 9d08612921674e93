//! The main job: a database behind an OpenVPN server, for `psql` as it is.

use super::LIMIT;
use crate::support::{Lab, Part, Server, run};
use crate::up::Down;

const PARTS: &[Part] = &[Part::OpenVpn, Part::Postgres, Part::Names];
const TARGET: &str = "tcp://staging-db.internal:5432,postgres";
const COUNT: &[&str] = &["psql", "-h", "staging-db.internal", "-Atc", "select count(*) from orders"];

#[test]
fn psql_counts_the_orders_once_the_database_has_answered() {
    let Some(mut lab) = Lab::build("openvpn_psql", PARTS) else { return };
    for tcp in [false, true] {
        let server = Server::new().tcp(tcp);
        lab.start_openvpn(&server);
        let mut exec = lab.adit(&["exec", "--config", &lab.ovpn(&server), "--target", TARGET, "--"]);
        let outcome = run(exec.args(COUNT), LIMIT).expect(0);
        assert_eq!(outcome.text(), "3", "{outcome}");
    }
}

#[test]
fn a_detached_up_serves_exec_until_down() {
    let Some(mut lab) = Lab::build("openvpn_up", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    let profile = lab.ovpn(&server);
    run(&mut lab.adit(&["up", "--detach", "--config", &profile, "--target", TARGET]), LIMIT).expect(0);
    let handshakes = |lab: &mut Lab| lab.openvpn().printed().matches("Control Channel: TLS").count();
    assert_eq!(handshakes(&mut lab), 1);
    let down = Down(&lab);
    let status = run(&mut lab.adit(&["status"]), LIMIT).expect(0);
    assert!(status.text().contains("192.0.2.1:1194"), "{status}");
    for _ in 0..2 {
        let outcome = run(lab.adit(&["exec", "--"]).args(COUNT), LIMIT).expect(0);
        assert_eq!(outcome.text(), "3", "{outcome}");
    }
    drop(down);
    assert_eq!(handshakes(&mut lab), 1, "exec uses the tunnel that is up");
    lab.openvpn().wait_for("exit message received by peer", LIMIT);
    let status = run(&mut lab.adit(&["status"]), LIMIT);
    assert_ne!(status.status.code(), Some(0), "nothing runs after down: {status}");
}

//! Nodes that cannot be reached, each for another reason; and what becomes of our own node under an administrator's hands.

use super::failures::fails;
use super::{exec, profile};
use crate::support::{DOMAIN, Machine, Tailnet};

fn id(tailnet: &Tailnet, wanted: &str) -> String {
    let machines = tailnet.machines();
    let (_, record) = machines.iter().find(|(name, _)| name == wanted).expect("it joined");
    record["id"].to_string()
}

#[test]
fn a_node_that_there_is_not_is_told_with_those_of_similar_names() {
    let machines = [Machine::Database, Machine::Web];
    let Some(tailnet) = Tailnet::build("tailscale_unknown", &machines, None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    for host in ["stagin-db".to_owned(), format!("staging-bd.{DOMAIN}")] {
        let told = fails(&tailnet, &config, &format!("http://{host}/"), "8s", "ts.peer.unknown", 31);
        assert!(told.contains("it has staging-db") && !told.contains("web"), "{told}");
    }
    let told = fails(&tailnet, &config, "tcp://100.64.0.99:80", "8s", "ts.peer.unknown", 31);
    assert!(told.contains("100.64.0.99"), "{told}");
}

#[test]
fn shields_firewalls_and_keys_that_have_expired_are_told_apart() {
    let Some(tailnet) = Tailnet::build("tailscale_shields", &[Machine::Database], None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let (page, database) = ("http://staging-db/healthz", tailnet.node(Machine::Database));
    assert_eq!(exec(&tailnet, &config, page, &["echo", "in"]).expect(0).text(), "in");
    database.namespace.nft(
        "table inet host { chain incoming { type filter hook input priority filter; iifname ts0 tcp dport 80 drop; }; }",
    );
    let told = fails(&tailnet, &config, page, "20s", "target.silent", 31);
    assert!(told.contains(&format!("staging-db.{DOMAIN} answers echoes")), "{told}");
    database.run(&["set", "--shields-up"]).expect(0);
    fails(&tailnet, &config, page, "20s", "ts.shields", 14);
    database.run(&["set", "--shields-up=false"]).expect(0);
    tailnet.headscale(&["nodes", "expire", "--identifier", &id(&tailnet, "staging-db")]).expect(0);
    let told = fails(&tailnet, &config, page, "8s", "ts.peer.expired", 31);
    assert!(told.contains(&format!("staging-db.{DOMAIN}")), "{told}");
}

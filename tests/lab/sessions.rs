//! A blip is not a failure: connections go on where they were.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Lab, Part, Process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A Perl program that says a number to its argument's echo, waits for it, and goes on; its output is `N` per echo.
pub(crate) const COUNTER: &str = r#"use IO::Socket::INET; $| = 1;
    my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => "tcp") or die "connect: $@";
    for my $n (1 .. 100000) { print $s "$n\n"; my $line = <$s> // die "the connection ended"; print $line; select(undef, undef, undef, 0.02); }"#;

/// A Perl program that says something to its argument's echo ten times a second, whether or not it answers.
const CHATTER: &str = r#"use IO::Socket::INET;
    my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => "udp") or die "socket: $@";
    for (1 .. 3000) { $s->send("x"); select(undef, undef, undef, 0.1); }"#;

fn counter(lab: &Lab) -> Process {
    let mut conf = lab.conf();
    conf.keepalive = Some(1);
    let conf = lab.write("lab.conf", conf);
    let mut command = lab.adit(&["exec", "--config", &conf.to_string_lossy(), "--"]);
    command.args(["perl", "-e", COUNTER, "10.77.0.10:7"]);
    let mut process = Process::spawn("counter", command, &lab.dir.logs());
    process.wait_for("\n10\n", LIMIT);
    process
}

/// Waits until the counter has made `more` steps from where it is now.
pub(crate) fn goes_on(counter: &Process, more: usize, limit: Duration) {
    let steps = || counter.printed().lines().filter(|line| line.parse::<u32>().is_ok()).count();
    let before = steps();
    wait_until(&format!("the counter goes on after {before}; it printed {}", tail(counter)), limit, || {
        steps() >= before + more
    });
    let printed = counter.printed();
    let numbers: Vec<u32> = printed.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing lost, doubled or reordered");
}

fn tail(counter: &Process) -> String {
    let printed = counter.printed();
    printed[printed.len().saturating_sub(200)..].to_owned()
}

#[test]
fn a_connection_survives_a_restart_of_the_server() {
    let Some(mut lab) = Lab::build("restart", &[Part::Names]) else { return };
    let counter = counter(&lab);
    lab.start_wireguard();
    goes_on(&counter, 50, LIMIT);
}

#[test]
fn a_connection_survives_an_outage_of_thirty_seconds() {
    let Some(lab) = Lab::build("outage", &[Part::Names]) else { return };
    let counter = counter(&lab);
    let server = lab.wireguard.as_ref().expect("it runs");
    server.signal(Signal::STOP);
    // The outage itself is what is tested: no event ends it earlier.
    std::thread::sleep(Duration::from_secs(30));
    server.signal(Signal::CONT);
    goes_on(&counter, 50, LIMIT);
}

#[test]
fn a_connection_survives_roaming_of_the_client() {
    let Some(lab) = Lab::build("roaming", &[Part::Names]) else { return };
    let counter = counter(&lab);
    lab.client.ip("addr del 192.0.2.2/24 dev eth0\naddr add 192.0.2.7/24 dev eth0\nroute replace default via 192.0.2.1\n");
    goes_on(&counter, 50, LIMIT);
    assert!(lab.wg_show("endpoints").contains("192.0.2.7:"), "{}", lab.wg_show("endpoints"));
}

#[test]
fn a_connection_survives_a_move_of_the_servers_name() {
    let Some(lab) = Lab::build("moved", &[Part::Names]) else { return };
    let mut conf = lab.conf();
    conf.keepalive = Some(1);
    conf.endpoint = "vpn.example.test:51820".into();
    let conf = lab.write("lab.conf", conf);
    let mut command = lab.adit(&["exec", "--config", &conf.to_string_lossy(), "--"]);
    command.args(["perl", "-e", COUNTER, "10.77.0.10:7"]);
    let mut counter = Process::spawn("counter", command, &lab.dir.logs());
    counter.wait_for("\n10\n", LIMIT);
    // The old address is gone; the name leads to another one of the same server.
    lab.move_name("192.0.2.3");
    lab.server.ip("addr del 192.0.2.1/24 dev up0\n");
    goes_on(&counter, 50, Duration::from_secs(120));
}

#[test]
fn a_key_that_two_machines_use_is_told() {
    let Some(lab) = Lab::build("shared_key", &[]) else { return };
    let machine = |name: &str| {
        let conf = lab.write(&format!("{name}.conf"), lab.conf()).to_string_lossy().into_owned();
        let mut up = Process::spawn(name, lab.adit(&["up", "--config", &conf]), &lab.dir.logs());
        up.wait_for("✓ address", LIMIT);
        let mut command = lab.adit(&["exec", "--config", &conf, "--"]);
        command.args(["perl", "-e", CHATTER, "10.77.0.10:7"]);
        (up, Process::spawn(&format!("{name}.chatter"), command, &lab.dir.logs()))
    };
    let (one, other) = (machine("one"), machine("other"));
    // Each takes the session from the other, as soon as it has missed answers for 15 s.
    let told = || [&one.0, &other.0].iter().any(|up| up.printed().contains("adit explain wg.key.shared"));
    wait_until("one of them is told of the other", Duration::from_secs(180), told);
    for up in [&one.0, &other.0] {
        let printed = up.printed();
        let Some((_, told)) = printed.split_once("[wg.key.shared]") else { continue };
        assert!(
            told.contains("sealed for a session that is not ours") && told.contains("one key pair"),
            "{told}"
        );
    }
}

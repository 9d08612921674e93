//! Renegotiations under load, where peers die: twenty begun by the server and twenty by the client, under a stream that
//! runs both ways.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::LIMIT;
use crate::support::{Lab, Part, Process, Server, Wrap, wait_until};

/// How many renegotiations one end begins.
const TURNS: usize = 20;
/// After so many bytes a key is renewed: four times in a second of [`STREAM`].
const BYTES: u32 = 400_000;
/// As short as servers take them.
const WINDOWS: &str = "tran-window 20\nhand-window 10\nreneg-sec 15";
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends 8 KiB to an echo every 10 ms whether or not they come back, until the file `ARG0` exists; then waits for the
/// rest. Every byte is checked. Prints when the stream runs, and at the end the longest time without a byte, and the
/// longest time in which it was not run itself, both in milliseconds.
const STREAM: &str = r#"use IO::Socket::INET; use IO::Select; use Time::HiRes qw(time); $| = 1;
    my ($host, $end) = @ARGV;
    my $s = IO::Socket::INET->new(PeerAddr => "$host:7", Proto => "tcp") or die "connect: $@";
    $s->blocking(0);
    my $block = join "", map { chr($_ % 251) } 0 .. 8191;
    my $blocks = $block x 9;
    my ($queue, $sent, $got, $gap, $late, $last, $next) = ("", 0, 0, 0, 0, time, time);
    my ($over, $told);
    until ($over && $got == $sent + length $queue) {
        my $now = time;
        if ($now >= $next) {
            $late = $now - $next if $now - $next > $late;
            $over ||= -e $end;
            $queue .= $block if !$over && length $queue < 65536;
            $next = $now + 0.01;
        }
        if (length $queue) {
            my $n = syswrite $s, $queue;
            if ($n) { $sent += $n; substr($queue, 0, $n) = ""; }
        }
        next unless IO::Select->new($s)->can_read(0.005);
        my $n = sysread $s, my $piece, 65536;
        defined $n or $!{EAGAIN} ? next : die "read: $!";
        $n or die "the connection ended";
        $piece eq substr($blocks, $got % 8192, $n) or die "wrong bytes at $got";
        $got += $n;
        my $came = time;
        $gap = $came - $last if $came - $last > $gap;
        $last = $came;
        print "runs\n" if !$told++;
    }
    printf "bytes %d gap %d late %d\n", $got, $gap * 1000, $late * 1000;"#;

/// Who begins the renegotiations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    Server,
    Client,
    Both,
}

/// The stream through the tunnel, or beside it as the measure of the machine.
fn stream(lab: &Lab, server: Option<&Server>, name: &str, end: &Path) -> Process {
    let end = end.to_string_lossy();
    let program = |host| ["perl", "-e", STREAM, host, &end].map(str::to_owned);
    let command = match server {
        Some(server) => {
            let mut command = lab.adit(&["exec", "--config", &lab.ovpn(server), "--"]);
            command.args(program("10.77.0.10"));
            command
        }
        None => {
            let mut command = lab.client.command("perl");
            command.args(&program("192.0.2.80")[1..]);
            command
        }
    };
    let mut process = Process::spawn(name, command, &lab.dir.logs());
    process.wait_for("runs\n", LIMIT);
    process
}

/// Waits for the end of a stream: the longest times without a byte and without being run, in milliseconds.
fn measured(process: &mut Process) -> (u64, u64) {
    process.wait_for("bytes ", PATIENCE);
    let status = process.wait(PATIENCE);
    let printed = process.printed();
    assert!(status.success(), "{status}: {printed}");
    let last =
        printed.lines().rev().find(|line| line.starts_with("bytes ")).expect("it says what it measured");
    let numbers: Vec<u64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [bytes, gap, late] = numbers[..] else { panic!("{last}") };
    assert!(bytes > 0, "{last}");
    (gap, late)
}

fn rekeys(test: &str, tcp: bool, wrap: Wrap, tls: &str, turns: &[Begins]) {
    let Some(mut lab) = Lab::build(test, &[Part::OpenVpn]) else { return };
    crate::support::services::serve_tcp_echo(&lab.server, "192.0.2.80:7".parse().unwrap());
    for &begins in turns {
        let limit =
            |line: bool| if line { format!("{WINDOWS}\nreneg-bytes {BYTES}") } else { WINDOWS.into() };
        let server = Server::new()
            .tcp(tcp)
            .wrap(wrap)
            .server(&format!("{}\ntls-version-max {tls}", limit(begins != Begins::Client)))
            .profile(&limit(begins != Begins::Server));
        lab.start_openvpn(&server);
        let end = lab.home().join(format!("end-{begins:?}"));
        let mut beside = stream(&lab, None, "beside", &end);
        let mut inside = stream(&lab, Some(&server), "inside", &end);
        let what = format!("{TURNS} renegotiations: {test}, {begins:?}");
        let log = lab.openvpn();
        // The first handshake is none.
        let handshakes = || log.printed().matches("Control Channel: TLSv").count().saturating_sub(1);
        wait_until(&what, PATIENCE, || handshakes() >= TURNS);
        let printed = log.printed();
        fs::write(&end, "").unwrap();
        let (gap, late) = measured(&mut inside);
        let (idle, idle_late) = measured(&mut beside);
        println!("{what}: without a byte {gap} ms, beside {idle} ms; not run {late} and {idle_late} ms");
        assert!(gap <= 1000 + idle.max(late), "{what}: no byte for {gap} ms, beside the tunnel {idle} ms");

        let by_server = printed.matches("TLS: soft reset").count();
        match begins {
            Begins::Server => assert!(by_server >= TURNS, "{what}: {by_server}: {printed}"),
            Begins::Client => assert_eq!(by_server, 0, "{what}: {printed}"),
            Begins::Both => assert!(by_server > 0, "{what}: {printed}"),
        }
        assert!(printed.contains(&format!("Control Channel: TLSv{tls}")), "{what}: {printed}");
        for trouble in ["TLS Error", "Authenticate/Decrypt packet error", "bad packet", "unknown key"] {
            assert!(!printed.contains(trouble), "{what}: {trouble}: {printed}");
        }
    }
}

const EACH: &[Begins] = &[Begins::Server, Begins::Client];

/// Every wrap, both carriers and both versions of TLS at least once.
#[test]
fn streams_pass_over_twenty_renegotiations_from_each_side() {
    std::thread::scope(|scope| {
        for (test, tcp, wrap, tls) in [
            ("openvpn_rekey_none", false, Wrap::None, "1.3"),
            ("openvpn_rekey_auth", true, Wrap::Auth, "1.2"),
            ("openvpn_rekey_crypt", false, Wrap::Crypt, "1.2"),
            ("openvpn_rekey_v2", true, Wrap::CryptV2, "1.3"),
        ] {
            scope.spawn(move || rekeys(test, tcp, wrap, tls, EACH));
        }
    });
}

#[test]
fn a_stream_passes_over_renegotiations_that_cross() {
    rekeys("openvpn_rekey_cross", false, Wrap::CryptV2, "1.3", &[Begins::Both]);
}

/// Both carriers, every wrap, both versions of TLS, begun by either side and by both at once.
#[test]
#[ignore = "takes minutes: a part of it runs always"]
fn streams_pass_over_renegotiations_in_every_combination() {
    for tcp in [false, true] {
        for wrap in [Wrap::None, Wrap::Auth, Wrap::Crypt, Wrap::CryptV2] {
            for tls in ["1.2", "1.3"] {
                let every = [Begins::Server, Begins::Client, Begins::Both];
                rekeys("openvpn_rekey_sweep", tcp, wrap, tls, &every);
            }
        }
    }
}

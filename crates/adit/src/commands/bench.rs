//! `adit bench`

use std::io;
use std::time::Duration;

use adit_sim::measure::{Direction, Figure, Loopback, PACKET, Transfer, cipher, loopback_udp};
use serde_json::{Value, json};

use crate::cli::{BenchArgs, Context};
use crate::{Exit, Failure, failure};

/// Round trips of a small message.
const TRIPS: usize = 500;

/// Everything that was measured.
struct Results {
    cipher: Figure,
    udp: Figure,
    up: Transfer,
    down: Transfer,
    trips: Vec<Duration>,
}

/// Measures a WireGuard tunnel over the machine's loopback beside what it cannot be faster than.
pub(crate) fn run(context: &mut Context, args: &BenchArgs) -> Result<Exit, Failure> {
    let results = measure(context, Duration::from_secs_f64(args.seconds)).map_err(|error| {
        failure::of("env.socket", "the measurement cannot be made").seen(error.to_string())
    })?;
    if context.global.json {
        context.ui.json(&results.json(args.seconds))?;
    } else {
        context.ui.result(&results.text())?;
    }
    Ok(Exit::Ok)
}

fn measure(context: &Context, time: Duration) -> io::Result<Results> {
    let step = |what: &str| context.ui.note(&format!("measuring {what} ({:.1} s)", time.as_secs_f64()));
    step("the cipher alone");
    let cipher = cipher(time);
    step("datagrams over loopback");
    let udp = loopback_udp(time)?;
    let loopback = Loopback::start()?;
    step("the tunnel, up");
    let up = loopback.transfer(Direction::Up, time)?;
    step("the tunnel, down");
    let down = loopback.transfer(Direction::Down, time)?;
    let mut trips = loopback.round_trips(TRIPS)?;
    trips.sort();
    Ok(Results { cipher, udp, up, down, trips })
}

impl Results {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("{:<34} {:>10} {:>12}", "", "Gbit/s", "CPU-s/GB"),
            line("floor: cipher, seal and open", &self.cipher, ""),
            line("floor: UDP over loopback", &self.udp, " both ends"),
        ];
        for (name, transfer) in [("up", &self.up), ("down", &self.down)] {
            lines.push(line(&format!("tunnel {name}: the client"), &transfer.client, ""));
            lines.push(format!(
                "{:<34} {:>10} {:>12.2}",
                format!("tunnel {name}: the server"),
                "",
                transfer.server.cpu_s_per_gb()
            ));
        }
        lines.push(format!(
            "round trip of 64 bytes: {:.0} \u{b5}s, 99 of 100 within {:.0} \u{b5}s",
            micros(self.percentile(50)),
            micros(self.percentile(99)),
        ));
        lines.join("\n")
    }

    fn json(&self, seconds: f64) -> Value {
        let transfer = |transfer: &Transfer| json!({ "client": figure(&transfer.client), "server": figure(&transfer.server) });
        json!({
            "schema": "adit.bench/1",
            "seconds": seconds,
            "packet_bytes": PACKET,
            "floor": { "cipher": figure(&self.cipher), "udp": figure(&self.udp) },
            "tunnel": { "up": transfer(&self.up), "down": transfer(&self.down) },
            "round_trip_us": { "p50": micros(self.percentile(50)), "p99": micros(self.percentile(99)) },
        })
    }

    /// Of the round trips, which are sorted.
    fn percentile(&self, percent: usize) -> Duration {
        let at = (self.trips.len() * percent / 100).min(self.trips.len().saturating_sub(1));
        self.trips.get(at).copied().unwrap_or_default()
    }
}

fn line(name: &str, figure: &Figure, note: &str) -> String {
    format!("{name:<34} {:>10.2} {:>12.2}{note}", figure.gbit_per_s(), figure.cpu_s_per_gb())
}

fn figure(figure: &Figure) -> Value {
    json!({
        "bytes": figure.bytes,
        "seconds": figure.wall.as_secs_f64(),
        "cpu_seconds": figure.cpu.as_secs_f64(),
        "gbit_per_s": figure.gbit_per_s(),
        "cpu_s_per_gb": figure.cpu_s_per_gb(),
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

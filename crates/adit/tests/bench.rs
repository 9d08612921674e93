//! `adit bench`: its figures fit together. How large they are depends on the machine and is not asserted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::Command;

use common::*;
use serde_json::Value;

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path} in {value:#}"))
}

#[test]
fn the_figures_of_a_short_run_fit_together() {
    let output = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["bench", "--seconds", "0.2", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "adit.bench/1");
    let parts = [
        "/floor/cipher",
        "/floor/udp",
        "/tunnel/up/client",
        "/tunnel/up/server",
        "/tunnel/down/client",
        "/tunnel/down/server",
    ];
    for part in parts {
        let field = |name: &str| number(&report, &format!("{part}/{name}"));
        let (bytes, seconds) = (field("bytes"), field("seconds"));
        assert!(bytes > 0.0 && seconds >= 0.19 && field("cpu_seconds") > 0.0, "{part}: {report:#}");
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
        assert!(close(field("gbit_per_s"), bytes * 8.0 / seconds / 1e9), "{part}: {report:#}");
        assert!(close(field("cpu_s_per_gb"), field("cpu_seconds") / (bytes / 1e9)), "{part}: {report:#}");
    }
    let (p50, p99) = (number(&report, "/round_trip_us/p50"), number(&report, "/round_trip_us/p99"));
    assert!(0.0 < p50 && p50 <= p99, "{report:#}");
}

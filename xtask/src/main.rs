//! The repository's own tasks: `cargo xtask` prints the list.
//!
//! Each task is a module with a `run` function. They need nothing but the standard library, cargo and the tools that
//! `cargo xtask setup` installs.

mod bench;
mod ci;
mod demo;
mod dist;
mod docs;
mod fuzz;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use shell::Shell;

struct Task {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&Shell, &[String]) -> shell::Result,
}

const TASKS: &[Task] = &[
    Task {
        name: "setup",
        arguments: "[--fuzz]",
        about: "install what the tests need: Debian packages, wireguard-go, Headscale, Tailscale, Docker's seccomp profile",
        run: setup::run,
    },
    Task {
        name: "ci",
        arguments: "",
        about: "exactly what CI runs: fmt, clippy, doc, tidy, test, dist",
        run: ci::run,
    },
    Task {
        name: "test",
        arguments: "",
        about: "setup, then every test: units, docs, laboratory, scenarios in virtual time, fuzz corpora",
        run: test::run,
    },
    Task {
        name: "demo",
        arguments: "[-- CMD…]",
        about: "the embedded private network of `cargo run --release -- demo`",
        run: demo::run,
    },
    Task {
        name: "tidy",
        arguments: "",
        about: "check layers, documents, lints and words of the repository",
        run: tidy::run,
    },
    Task {
        name: "bench",
        arguments: "[ARGS…] | --peers …",
        about: "run the criterion benches; with --peers, other forwarders beside ours over a veth pair",
        run: bench::run,
    },
    Task {
        name: "fuzz",
        arguments: "TARGET [SECONDS] | --replay",
        about: "fuzz one target (nightly), or replay every committed corpus (stable)",
        run: fuzz::run,
    },
    Task {
        name: "dist",
        arguments: "",
        about: "build the one static binary, check it in an empty root directory, write its sha256",
        run: dist::run,
    },
    Task { name: "docs", arguments: "", about: "write man pages and completions into dist/", run: docs::run },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        print_list();
        return ExitCode::SUCCESS;
    };
    if matches!(name.as_str(), "-h" | "--help" | "help") {
        print_list();
        return ExitCode::SUCCESS;
    }
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprintln!("xtask: there is no task `{name}`\n");
        print_list();
        return ExitCode::from(2);
    };
    let arguments: Vec<String> = arguments.collect();
    match (task.run)(&Shell::new(), &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nxtask {name}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn print_list() {
    println!("usage: cargo xtask TASK\n");
    for task in TASKS {
        println!("  {:<32} {}", format!("{} {}", task.name, task.arguments), task.about);
    }
}

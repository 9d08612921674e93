//! The `adit` binary. Everything it does is in the library, where tests and documentation reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit::cli::main()
}

//! The repository's own tasks: `cargo xtask` prints the list.

fn main() {}

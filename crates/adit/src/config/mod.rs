//! Configuration: `adit.toml`, environment and flags, merged with the origin of every value.

pub mod duration;

//! Staged verification of a private network: is it up, and do the services that somebody needs answer?
//!
//! A verification walks the stages of a connection, proves each with evidence, and ends with a [`Report`]. What can
//! go wrong has a stable class in the [`catalogue`], with an exit code and advice, offline.
//!
//! This crate is *not* a monitor and heals nothing. It asks a [`Network`](adit_path::Network) and time, and
//! touches nothing else.

pub mod catalogue;
mod exit;
mod failure;
mod report;
mod stage;

pub use exit::{Exit, UnknownExit};
pub use failure::{Context, Failure, Location};
pub use report::{
    JSON_SCHEMA, Node, PathReport, Report, SCHEMA, StageReport, StageStatus, Verified, Warning,
};
pub use stage::Stage;

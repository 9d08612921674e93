//! Staged verification of a private network: is it up, and do the services that somebody needs answer?
//!
//! [`verify`] walks the stages of a connection, proves each with evidence, and ends with a [`Report`]. What can
//! go wrong has a stable class in the [`catalogue`], with an exit code and advice, offline.
//!
//! This crate is *not* a monitor and heals nothing. It asks a [`Network`](adit_path::Network) and time, and
//! touches nothing else.

pub mod catalogue;
mod check;
mod dialer;
mod event;
mod exit;
mod failure;
pub mod format;
pub mod health;
mod infer;
mod join;
mod outside;
mod plan;
mod provider;
mod report;
mod run;
mod stage;
mod target;

pub use adit_tunnel::rfc3339;
pub use check::{Trust, dns_question};
pub use dialer::{DialFailure, Dialed, Dialer, NetworkDialer, Stream};
pub use event::{Event, Observer};
pub use exit::{Exit, UnknownExit};
pub use failure::{Context, Failure, Location};
pub use infer::{Facts, infer};
pub use outside::{Lookup, Outside};
pub use plan::{Plan, Requirement, RequirementError};
pub use report::{
    JSON_SCHEMA, Node, PathReport, Report, SCHEMA, StageReport, StageStatus, Verified, Warning,
};
pub use run::verify;
pub use stage::Stage;
pub use target::{Check, Probe, Target, TargetError};

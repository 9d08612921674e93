//! Userspace networking with embedded tunnels: the library behind the `adit` binary.
//!
//! The feature `cli`, on by default, adds the command line; a user of the library turns it off.

#[cfg(feature = "cli")]
mod access;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
mod commands;
pub mod config;
pub mod control;
pub mod daemon;
pub mod demo;
#[cfg(feature = "cli")]
pub mod dialing;
pub mod failure;
pub mod fronts;
#[cfg(feature = "cli")]
mod machine;
#[cfg(feature = "cli")]
pub mod output;
#[cfg(feature = "cli")]
pub mod profile;
pub mod session;
#[cfg(feature = "cli")]
mod verification;

pub use failure::{Exit, Failure};

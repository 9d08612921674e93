//! Userspace networking with embedded tunnels: the library behind the `adit` binary.
//!
//! [`Network`] joins a private network from within a program, without root and without a device:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let network = adit::Network::connect(adit::Profile::from_file("lab.conf")?).await?;
//! network.verify(["tcp://db.internal:5432,postgres"]).await?;
//! let stream = network.tcp_connect("db.internal:5432").await?;
//! # Ok(())
//! # }
//! ```
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
mod device;
#[cfg(feature = "cli")]
pub mod dialing;
mod environment;
pub mod failure;
pub mod fronts;
mod machine;
mod network;
#[cfg(feature = "cli")]
pub mod output;
mod outside;
#[cfg(feature = "cli")]
mod preflight;
pub mod profile;
pub mod session;
pub mod tailnet;
#[cfg(feature = "cli")]
mod verification;
mod wanted;

pub use failure::{Exit, Failure};
pub use network::Network;
pub use profile::Profile;

//! The parts of the laboratory.

#![allow(dead_code, reason = "each theme uses other parts of the laboratory")]

mod conf;
mod container;
mod laboratory;
mod namespace;
mod process;
mod sandbox;
mod services;

pub(crate) use laboratory::{Lab, Part};
pub(crate) use process::run;
pub(crate) use services::blob;

//! One module a verb; each has one function `run`.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod man;
pub(crate) mod version;

//! OpenVPN against Debian's server.

mod embedded;
mod reaches;

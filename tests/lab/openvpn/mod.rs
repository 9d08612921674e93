//! OpenVPN against Debian's server.

mod reaches;

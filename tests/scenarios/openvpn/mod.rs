//! An OpenVPN client against the simulator's server, in virtual time.

mod alerts;
mod connecting;
mod hostile;
mod lab;
mod lasting;
mod logins;

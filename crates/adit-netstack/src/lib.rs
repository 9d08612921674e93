//! A TCP/IP stack as a packet end: flows and private DNS; no sockets and no clock.

pub mod dns;

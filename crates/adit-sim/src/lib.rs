//! The laboratory: virtual time, links, NATs, scripted networks, in-process servers.

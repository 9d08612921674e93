//! Userspace networking with embedded tunnels: the library behind the `adit` binary.

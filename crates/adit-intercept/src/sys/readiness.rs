//! Descriptors in the runtime's event loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current runtime.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and `AsyncFd` drops it only
    // after it has been deregistered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Registers a copy of a descriptor.
pub(crate) fn copy(fd: impl AsFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    watch(fd.as_fd().try_clone_to_owned()?, interest)
}

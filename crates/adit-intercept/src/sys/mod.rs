//! The system calls that have no safe wrapper elsewhere. Everything `unsafe` of this crate is in this module.
#![expect(unsafe_code, reason = "raw system calls; every block states what it relies on")]

pub(crate) mod child;
pub(crate) mod hygiene;
pub(crate) mod listener;
pub(crate) mod memory;
pub(crate) mod readiness;
pub(crate) mod signal;
pub(crate) mod socket;

use std::io;

/// The result of a C function that returns -1 and sets `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The result of a C function that returns a count, or -1 and sets `errno`.
fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The error number of a failed system call.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

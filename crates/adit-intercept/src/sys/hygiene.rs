//! What a process does before it touches a secret, and with the places that secrets come from.
//!
//! None of this concerns a program under supervision. It is here because it needs `unsafe`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::FdFlags;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Denies debuggers and core dumps of this process to everybody but root: its memory holds keys from now on.
///
/// A program that this process starts is dumpable again (`execve(2)`).
///
/// # Errors
///
/// Of `prctl(2)`, `PR_SET_DUMPABLE`.
pub fn deny_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Takes over a descriptor that the parent process left open for us. Programs that we start do not inherit it.
///
/// # Errors
///
/// The descriptor is not open, or was opened by this process: what is inherited has no close-on-exec flag, and
/// what Rust's standard library opens has it.
pub fn take_descriptor(number: i32) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrow ends with the call that asks for the flags; a number that is no open descriptor makes
    // that call fail with EBADF.
    let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it was not inherited"));
    }
    // SAFETY: the descriptor is open, and no object of this process owns it: it was inherited, as its flags show,
    // and from here on it has the flag, so that it cannot be taken a second time.
    let taken = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&taken, FdFlags::CLOEXEC)?;
    Ok(taken)
}

/// Reads an environment variable. With `remove`, its value is overwritten in the process's initial environment,
/// so that `/proc/PID/environ` does not show it, and the variable is unset.
///
/// # Errors
///
/// The name holds `=` or a zero byte; or something is to be removed while the process has several threads, any
/// of which might be reading the environment.
pub fn take_variable(name: &str, remove: bool) -> io::Result<Option<Vec<u8>>> {
    if !remove {
        use std::os::unix::ffi::OsStringExt;
        return Ok(std::env::var_os(name).map(OsStringExt::into_vec));
    }
    let name = CString::new(name)?;
    if name.as_bytes().is_empty() || name.as_bytes().contains(&b'=') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the environment cannot be changed while several threads run"));
    }
    // SAFETY: this is the process's only thread (checked above), so nobody changes or reads the environment until
    // the end of this function. `getenv` returns null or a zero-terminated string inside the environment, which is
    // writable memory (environ(7)); the writes stay in front of its terminator.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        if value.is_null() {
            return Ok(None);
        }
        let bytes = CStr::from_ptr(value).to_bytes().to_vec();
        for offset in 0..bytes.len() {
            value.add(offset).write_volatile(0);
        }
        if libc::unsetenv(name.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn an_inherited_descriptor_is_taken_once_and_our_own_never() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(take_descriptor(reader.as_raw_fd()).is_err());
        // As a parent leaves it: without the flag, and owned by nobody here.
        let inherited = OwnedFd::from(reader);
        rustix::io::fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(inherited);
        let taken = take_descriptor(number).unwrap();
        assert!(take_descriptor(number).is_err());
        assert!(rustix::io::fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn descriptors_that_are_not_open_are_refused() {
        assert_eq!(take_descriptor(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(take_descriptor(-1).is_err());
    }

    #[test]
    fn with_several_threads_a_variable_is_read_but_not_removed() {
        // The test runner has several threads.
        assert!(take_variable("PATH", false).unwrap().is_some());
        assert_eq!(take_variable("ADIT_TEST_UNSET", false).unwrap(), None);
        assert!(take_variable("PATH", true).is_err());
        assert!(std::env::var_os("PATH").is_some());
    }
}

//! The seccomp notification listener (`seccomp_unotify(2)`).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp, sock_filter, sock_fprog};

use super::check;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` of `linux/seccomp.h`: supervisor and program share a CPU.
const SYNC_WAKE_UP: u64 = 1;

/// A listener for the system calls that a filter hands over.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
}

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    /// The calling thread, in our PID namespace; 0 if it is outside of it.
    pub(crate) tid: i32,
    pub(crate) arch: u32,
    pub(crate) nr: u32,
    pub(crate) args: [u64; 6],
}

/// The answer to a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel runs the system call. It reads the arguments again: never after acting on them.
    Continue,
    /// The system call returns this.
    Value(i64),
    /// The system call fails with this error number.
    Errno(i32),
}

impl Listener {
    /// Installs a filter on the calling thread and every task it creates from now on.
    pub(crate) fn install(filter: &[sock_filter]) -> io::Result<Self> {
        let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let program = sock_fprog { len, filter: filter.as_ptr().cast_mut() };
        // SAFETY: `program` and the instructions it points to live across the call, and the kernel only reads
        // them.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        let fd = check(fd as libc::c_int)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        let listener = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        // Wakes the program on the CPU that answers; kernels before 6.6 do without.
        // SAFETY: the flag word is passed by value.
        unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        Ok(listener)
    }

    /// Waits for a system call. `Interrupted` and `NotFound` (the caller is gone already) are no failures of
    /// the listener.
    pub(crate) fn receive(&self) -> io::Result<Request> {
        // SAFETY: all-zero bytes are a valid value of this plain structure, and the kernel insists on them.
        let mut request: seccomp_notif = unsafe { mem::zeroed() };
        // SAFETY: the structure is the one that the request code names, and is writable for the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut request) })?;
        Ok(Request {
            id: request.id,
            tid: request.pid as i32,
            arch: request.data.arch,
            nr: request.data.nr as u32,
            args: request.data.args,
        })
    }

    /// Whether the system call still waits. What was read of the program before is its own if it does.
    pub(crate) fn is_valid(&self, id: u64) -> bool {
        // SAFETY: the id is readable for the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) })
            .is_ok()
    }

    /// Answers. `NotFound` means that the system call was interrupted or its thread killed.
    pub(crate) fn answer(&self, id: u64, answer: Answer) -> io::Result<()> {
        let response = match answer {
            Answer::Continue => seccomp_notif_resp {
                id,
                val: 0,
                error: 0,
                flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            },
            Answer::Value(val) => seccomp_notif_resp { id, val, error: 0, flags: 0 },
            Answer::Errno(errno) => seccomp_notif_resp { id, val: 0, error: -errno, flags: 0 },
        };
        // SAFETY: the structure is the one that the request code names, and is readable for the call.
        check(unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response)
        })
        .map(drop)
    }

    /// Puts a copy of `fd` into the program, as the result of its system call. After success there is nothing
    /// left to answer.
    pub(crate) fn answer_with_fd(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
        let request = seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the structure is the one that the request code names, and is readable for the call.
        check(unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request)
        })
        .map(drop)
    }

    /// The descriptor, to wait for requests and for the end of the last filtered task (`POLLHUP`).
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

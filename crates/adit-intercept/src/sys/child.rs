//! Experiments in a child process. A child of a program with threads may call nothing but system calls until it
//! ends; each of these functions is such a child.

use std::io;

use super::check;

/// What an experiment of one child found: `errno` of the step that failed.
pub(crate) type Outcome = Result<(), (Step, i32)>;

/// The step of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The child could not be made, or did not say what it found.
    Fork,
    First,
    Second,
}

/// Starts a child that makes one `getpeername` call with these arguments, which a filter of the calling thread
/// hands to a supervisor, and exits with 0 if the call succeeds.
pub(crate) fn fork_trapped_call(fd: i32, argument: u64) -> io::Result<i32> {
    // SAFETY: the child makes system calls only, allocates nothing and does not return.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: raw system calls with plain numbers; `_exit` runs no handler of the parent.
        unsafe {
            let result = libc::syscall(libc::SYS_getpeername, fd, argument, 0);
            libc::_exit(if result < 0 { 1 } else { 0 });
        }
    }
    Ok(pid)
}

/// A user and network namespace, and a capability in it: AppArmor lets the first pass and takes the second.
pub(crate) fn namespaces() -> Outcome {
    experiment(|| {
        // SAFETY: a system call with a plain number.
        first(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) })?;
        // SAFETY: a system call with plain numbers.
        let socket = second(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) })?;
        // SAFETY: all-zero bytes are a valid value of this plain structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        // SAFETY: the structure is the one that the request code names.
        second(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) })?;
        Ok(())
    })
}

/// Tracing of a child that asks for it, with the option that seccomp needs.
pub(crate) fn ptrace() -> Outcome {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the child makes system calls only, allocates nothing and does not return.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => return Err((Step::Fork, last())),
        0 => {
            // SAFETY: raw system calls with plain numbers; `_exit` runs no handler of the parent.
            unsafe {
                if libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) < 0 {
                    libc::_exit(*libc::__errno_location() & 0x7f);
                }
                libc::raise(libc::SIGSTOP);
                libc::_exit(0);
            }
        }
        _ => {}
    }
    let mut status = 0;
    // SAFETY: the status is writable for the call, and the child is ours.
    unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
    if libc::WIFEXITED(status) {
        return Err((Step::First, libc::WEXITSTATUS(status)));
    }
    // SAFETY: the child is ours and stopped; the data is a plain number.
    let options =
        unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, none, libc::PTRACE_O_TRACESECCOMP as usize) };
    let outcome = if options < 0 { Err((Step::Second, last())) } else { Ok(()) };
    // SAFETY: the child is ours, has not been waited for, and the status is writable for the call.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, &raw mut status, 0);
    }
    outcome
}

/// Whether `io_uring_setup` makes a ring; the ring is closed again.
pub(crate) fn io_uring() -> io::Result<()> {
    let mut params = [0_u8; 256];
    // SAFETY: `struct io_uring_params` has 120 bytes, and the kernel reads and writes no more than that.
    let fd = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) } as i32)?;
    // SAFETY: the kernel has just made this descriptor for us.
    check(unsafe { libc::close(fd) }).map(drop)
}

/// Whether a TUN device can be made; it vanishes with its descriptor.
pub(crate) fn tun(device: &std::fs::File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: all-zero bytes are a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the structure is the one that the request code names, and is writable for the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }).map(drop)
}

fn first(result: libc::c_int) -> Result<libc::c_int, (Step, i32)> {
    if result < 0 { Err((Step::First, last())) } else { Ok(result) }
}

fn second(result: libc::c_int) -> Result<libc::c_int, (Step, i32)> {
    if result < 0 { Err((Step::Second, last())) } else { Ok(result) }
}

fn last() -> i32 {
    // SAFETY: the location is the calling thread's own.
    unsafe { *libc::__errno_location() }
}

/// Runs an experiment in a child. It may make system calls only; its outcome is the exit code: 0, or the error
/// number with the step in the upper bit.
fn experiment(run: impl FnOnce() -> Outcome) -> Outcome {
    // SAFETY: the child makes system calls only, allocates nothing and does not return.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => return Err((Step::Fork, last())),
        0 => {
            let code = match run() {
                Ok(()) => 0,
                Err((Step::Second, errno)) => 0x80 | (errno & 0x7f),
                Err((_, errno)) => errno & 0x7f,
            };
            // SAFETY: `_exit` runs no handler of the parent.
            unsafe { libc::_exit(code) };
        }
        _ => {}
    }
    let mut status = 0;
    // SAFETY: the status is writable for the call, and the child is ours.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    match libc::WEXITSTATUS(status) {
        _ if !libc::WIFEXITED(status) => Err((Step::Fork, libc::EIO)),
        0 => Ok(()),
        code if code & 0x80 != 0 => Err((Step::Second, code & 0x7f)),
        code => Err((Step::First, code)),
    }
}
